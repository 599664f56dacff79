//! What is left of containers after a power cut.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use slipway_tests::{Site, disk::Disk, eventually, image, ready};

/// The disk that the containers of a site are on.
struct Containers(Disk);

impl Containers {
    /// The power is cut, now; then the host is there again, and runtime-svc not yet.
    async fn cut(&self, site: &mut Site) {
        let cut = self.0.cut();
        site.kill_service("runtime");
        for pid in site.processes("slipway-monitor") {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            // One that is about to end may be gone.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        eventually("nothing runs any more", async || {
            site.processes("slipway-monitor").is_empty().then_some(())
        })
        .await;
        cut.returns();
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.0.folder().join(id)
    }

    /// Waits until runtime-svc says of these files that the disk has them.
    async fn has(&self, id: &str, names: &[&str]) {
        let mode = |name: &&str| {
            let found = fs::metadata(self.folder(id).join(name));
            found.is_ok_and(|found| found.permissions().mode() & 0o777 == 0o400)
        };
        eventually(&format!("{names:?} are synced"), async || {
            names.iter().all(mode).then_some(())
        })
        .await;
    }
}

/// The site goes before its disk.
async fn site() -> Option<(Containers, Site)> {
    if !ready() {
        return None;
    }
    let mut site = Site::bare();
    let disk = Containers(Disk::of(&site, "state/runtime/containers")?);
    site.start_services().await;
    image::busybox(&site).await;
    Some((disk, site))
}

async fn becomes(site: &Site, name: &str, state: &str) {
    eventually(&format!("{name} is {state}"), async || {
        (site.inspect(name, "{{.State.Status}}") == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stopped_stays_so_and_what_was_started_comes_back() {
    let Some((disk, mut site)) = site().await else {
        return;
    };
    let stopped: Vec<String> = (0..8).map(|number| format!("stopped{number}")).collect();
    for name in &stopped {
        site.sleeper(name, &["--restart=unless-stopped"]);
    }
    let killed = site.sleeper("killed", &["--restart=unless-stopped"]);
    let started = site.sleeper("started", &["--restart=unless-stopped"]);
    for id in [&started, &killed] {
        disk.has(id, &["config.json", "life.json"]).await;
    }
    let names: Vec<&str> = stopped.iter().map(String::as_str).collect();
    site.ctl(&[&["stop", "-t", "0"], &names[..]].concat()).ok();
    // It has no ear for that, so its end does not bring the disk to have it.
    site.ctl(&["kill", "-s", "TERM", "killed"]).ok();
    disk.cut(&mut site).await;
    site.start_service("runtime").await;
    becomes(&site, "started", "running").await;
    for name in names.into_iter().chain(["killed"]) {
        becomes(&site, name, "exited").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_and_other_limits_are_there_and_no_record_is_torn() {
    let Some((disk, mut site)) = site().await else {
        return;
    };
    let id = site.sleeper("old", &["--restart=always"]);
    disk.has(&id, &["config.json", "life.json"]).await;
    site.ctl(&["update", "--restart=no", "old"]).ok();
    site.ctl(&["rename", "old", "new"]).ok();
    disk.cut(&mut site).await;
    site.start_service("runtime").await;
    becomes(&site, "new", "exited").await;
    let policy = site.inspect("new", "{{.HostConfig.RestartPolicy.Name}}");
    assert_eq!(policy, "no");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_the_disk_never_had_nothing_is_left() {
    let Some((disk, mut site)) = site().await else {
        return;
    };
    let gone = site.sleeper("gone", &["--rm", "-v", "kept:/kept"]);
    let stays = site.sleeper("stays", &[]);
    disk.has(&stays, &["config.json", "life.json"]).await;
    disk.cut(&mut site).await;
    // Its name came along with the other one's; what it says may have, too, on a machine that was slow.
    let record = fs::File::options()
        .write(true)
        .open(disk.folder(&gone).join("config.json"));
    record.unwrap().set_len(0).unwrap();
    site.start_service("runtime").await;
    let listed = site.ctl(&["ps", "-a", "--format", "{{.Names}}"]);
    assert_eq!((listed.out.as_str(), listed.err.as_str()), ("stays\n", ""));
    let left: Vec<_> = fs::read_dir(disk.0.folder()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    site.ctl(&["volume", "rm", "kept"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_torn_is_written_anew() {
    let Some((disk, mut site)) = site().await else {
        return;
    };
    let ended = site.sleeper("ended", &[]);
    let returns = site.sleeper("returns", &["--restart=always"]);
    site.ctl(&["stop", "-t", "0", "ended", "returns"]).ok();
    site.kill_service("runtime");
    let end = disk.folder(&ended).join("exit.json");
    fs::remove_file(&end).unwrap();
    fs::write(&end, "").unwrap();
    // Torn in the middle of a start.
    fs::remove_file(disk.folder(&returns).join("exit.json")).unwrap();
    fs::write(disk.folder(&returns).join("life.json"), "").unwrap();
    site.start_service("runtime").await;
    becomes(&site, "returns", "running").await;
    becomes(&site, "ended", "exited").await;
    let error = site.inspect("ended", "{{.State.ExitCode}} {{.State.Error}}");
    assert_eq!(error, "137 the container's monitor was killed");
    assert!(fs::metadata(&end).unwrap().len() > 0);
    disk.has(&ended, &["exit.json"]).await;
    disk.cut(&mut site).await;
    site.start_service("runtime").await;
    becomes(&site, "ended", "exited").await;
    assert_eq!(
        site.inspect("ended", "{{.State.ExitCode}} {{.State.Error}}"),
        error
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_record_is_damaged_is_told_and_can_be_removed() {
    let Some((disk, mut site)) = site().await else {
        return;
    };
    let id = site.sleeper("damaged", &["--cgroup-parent=elsewhere"]);
    let process = format!("/proc/{}", site.inspect("damaged", "{{.State.Pid}}"));
    disk.has(&id, &["config.json", "life.json"]).await;
    site.ctl(&["volume", "create", "unused"]).ok();
    site.kill_service("runtime");
    // Empty as well, but the disk had it.
    fs::write(disk.folder(&id).join("config.json"), "").unwrap();
    site.start_service("runtime").await;
    let short = &id[..12];
    let warning = format!("WARNING: the record of container {short} cannot be read");
    let told = site.ctl(&["ps", "-a", "-q"]);
    assert_eq!((told.out.as_str(), told.code), ("", 0));
    assert!(told.err.starts_with(&warning), "{}", told.err);
    // Nobody knows what it uses.
    site.ctl(&["volume", "rm", "unused"]).error(1);
    for words in [&["rm", short][..], &["start", short], &["inspect", &id]] {
        let error = site.ctl(words).error(1);
        assert!(error.contains("cannot be read"), "{error}");
    }
    assert!(Path::new(&process).exists());
    assert_eq!(site.ctl(&["rm", "-f", short]).ok(), format!("{short}\n"));
    eventually("what ran of it is gone", async || {
        (!Path::new(&process).exists()).then_some(())
    })
    .await;
    assert!(!disk.folder(&id).exists());
    assert_eq!(site.ctl(&["ps", "-a"]).err, "");
    site.ctl(&["volume", "rm", "unused"]).ok();
    assert_eq!(site.ctl(&["rm", "-f", short]).out, "");
}
