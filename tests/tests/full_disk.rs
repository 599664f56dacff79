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
fn start(site: &Site, name: &str) -> String {
    let script = "while [ ! -e /dev/shm/go ]; do usleep 10000; done; \
                  head -c 60000 /dev/zero | tr '\\0' x; exit 3";
    site.ctl(&["run", "-d", "--name", name, "busybox", "sh", "-c", script])
        .ok();
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
    let (kept, removed) = (start(&site, "kept"), start(&site, "removed"));
    disk.fill();
    end(&kept).await;
    end(&removed).await;
    // Longer than a monitor waits for output that does not come.
    let begun = Instant::now();
    eventually("some time is over", async || {
        (begun.elapsed() > Duration::from_secs(3)).then_some(())
    })
    .await;
    // It did not say how it ended before that could be written, and needs nobody to do it.
    assert_eq!(site.inspect("kept", "{{.State.Status}}"), "running");
    site.kill_and_restart("runtime").await;
    // What is removed waits for nothing.
    site.ctl(&["rm", "-f", "removed"]).ok();
    assert_eq!(site.ctl(&["ps", "-aq"]).ok().lines().count(), 1);
    disk.free();
    assert_eq!(site.ctl(&["wait", "kept"]).ok(), "3\n");
    let log = site.ctl(&["logs", "kept"]).ok();
    assert_eq!(log.len(), 60000);
    drop(site);
}
