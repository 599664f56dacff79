//! A disk that is full: containers wait for room, nothing of theirs is lost, and they can be removed.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use slipway_tests::{Site, eventually, image, ready};

/// A small file system in memory that the folders of a site's containers are in.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(site: &Site) -> Self {
        let small = Self(tempfile::tempdir().unwrap());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(small.0.path())
            .status();
        assert!(mounted.unwrap().success());
        let (folder, name) = (small.0.path().join("containers"), "state/runtime");
        fs::create_dir(&folder).unwrap();
        fs::create_dir_all(site.path(name)).unwrap();
        std::os::unix::fs::symlink(folder, site.path(name).join("containers")).unwrap();
        small
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.path().join("fill")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("fill")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Starts a container that prints 60,000 bytes and ends with 3 as soon as it is told to.
fn start(site: &Site, name: &str, options: &[&str]) -> String {
    let script = "while [ ! -e /dev/shm/go ]; do usleep 10000; done; \
                  head -c 60000 /dev/zero | tr '\\0' x; exit 3";
    let command = ["busybox", "sh", "-c", script];
    let words = [&["run", "-d", "--name", name], options, &command];
    site.ctl(&words.concat()).ok();
    site.inspect(name, "{{.State.Pid}}")
}

async fn end(pid: &str) {
    fs::write(format!("/proc/{pid}/root/dev/shm/go"), "").unwrap();
    let process = format!("/proc/{pid}");
    eventually("its process has ended", async || {
        (!Path::new(&process).exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_wrote_last_is_kept_until_there_is_room() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    let disk = Small::mount(&site);
    site.start_services().await;
    image::busybox(&site).await;
    let (kept, removed) = (start(&site, "kept", &[]), start(&site, "removed", &[]));
    let forever = ["--restart=unless-stopped", "busybox", "sleep", "1000"];
    site.ctl(&[&["run", "-d", "--name", "runs"], &forever[..]].concat())
        .ok();
    disk.fill();
    end(&kept).await;
    end(&removed).await;
    // Longer than a monitor waits for output that does not come.
    let begun = Instant::now();
    eventually("some time is over", async || {
        (begun.elapsed() > Duration::from_secs(3)).then_some(())
    })
    .await;
    // How it ended is known, although its last lines and that could not be written yet.
    has_ended(&site, "kept", "3").await;
    assert_eq!(site.ctl(&["wait", "kept"]).ok(), "3\n");
    site.ctl(&["stop", "kept"]).ok();
    let error = site.ctl(&["kill", "kept"]).error(1);
    assert!(error.contains("is not running"), "{error}");
    let error = site.ctl(&["start", "kept"]).error(1);
    assert!(error.contains("waits for room on the disk"), "{error}");
    // So is it to the next instance; what waits needs nobody to write it.
    site.kill_and_restart("runtime").await;
    has_ended(&site, "kept", "3").await;
    // One that runs can be ended, and does not come back for it.
    site.ctl(&["stop", "-t", "0", "runs"]).ok();
    has_ended(&site, "runs", "137").await;
    // What is removed waits for nothing.
    site.ctl(&["rm", "removed"]).ok();
    assert_eq!(site.ctl(&["ps", "-aq"]).ok().lines().count(), 2);
    disk.free();
    eventually("its log is complete", async || {
        let log = site.ctl(&["logs", "kept"]).ok();
        (log.len() == 60000).then_some(())
    })
    .await;
    eventually("it can be started again", async || {
        (site.ctl(&["start", "kept"]).code == 0).then_some(())
    })
    .await;
    let stopped = site.inspect("runs", "{{.Id}}");
    eventually("its end is recorded", async || {
        let record = format!("state/runtime/containers/{stopped}/life.json");
        let record = fs::read_to_string(site.path(&record)).unwrap_or_default();
        record.contains("\"stopped_by_hand\":true").then_some(())
    })
    .await;
    site.kill_and_restart("runtime").await;
    has_ended(&site, "runs", "137").await;
    drop(site);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_it_ended_is_known_and_its_address_is_free_while_there_is_no_room() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    let disk = Small::mount(&site);
    site.start_services().await;
    image::busybox(&site).await;
    let names = ["heard", "unheard"];
    let pids = [
        start(&site, "heard", &["-p", "127.0.0.1:8081:80"]),
        start(&site, "unheard", &["-p", "127.0.0.1:8082:80"]),
    ];
    let monitors = pids.clone().map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:"));
        parent.unwrap().trim().parse().unwrap()
    });
    disk.fill();
    for pid in &pids {
        end(pid).await;
    }
    for name in names {
        has_ended(&site, name, "3").await;
    }
    // Nothing of them runs, so nothing of the network is theirs.
    eventually("their addresses and ports are free", async || {
        let format = "{{len .Containers}}";
        let there = site.ctl(&["network", "inspect", "-f", format, "bridge"]);
        (there.ok().trim() == "0").then_some(())
    })
    .await;
    for name in names {
        let told = "{{.NetworkSettings.IPAddress}}{{.NetworkSettings.Ports}}";
        assert_eq!(site.inspect(name, told), "map[]");
    }
    // Their monitors are killed: one while somebody listens, one while nobody does.
    let kill = |monitor: i32| {
        let pid = rustix::process::Pid::from_raw(monitor).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    kill(monitors[0]);
    eventually("the first waits for nothing any more", async || {
        let error = site.ctl(&["start", "heard"]).err;
        (!error.contains("waits for room")).then_some(())
    })
    .await;
    has_ended(&site, "heard", "3").await;
    site.kill_service("runtime");
    kill(monitors[1]);
    let there = format!("/proc/{}", monitors[1]);
    eventually("the second monitor is gone", async || {
        (!Path::new(&there).exists()).then_some(())
    })
    .await;
    site.start_service("runtime").await;
    for _ in 0..2 {
        for name in names {
            has_ended(&site, name, "3").await;
        }
        // And to the next instance, still without any room.
        site.kill_and_restart("runtime").await;
    }
    disk.free();
    site.kill_and_restart("runtime").await;
    for name in names {
        has_ended(&site, name, "3").await;
        let id = site.inspect(name, "{{.Id}}");
        // On the disk by now, and nowhere else.
        assert!(
            site.path(&format!("state/runtime/containers/{id}/exit.json"))
                .exists()
        );
        assert!(!site.path(&format!("run/runtime/containers/{id}")).exists());
        site.ctl(&["start", name]).ok();
    }
    drop(site);
}

async fn has_ended(site: &Site, name: &str, code: &str) {
    eventually("it has ended", async || {
        let state = site.inspect(name, "{{.State.Status}} {{.State.ExitCode}}");
        (state == format!("exited {code}")).then_some(())
    })
    .await;
    let up = site.ctl(&["ps", "--format", "{{.Names}}"]).ok();
    assert!(!up.lines().any(|up| up == name), "{up}");
}
