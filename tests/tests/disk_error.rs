//! A disk that has lost something of what was written: the kernel refuses what does not tell of it, and containers
//! and builds run all the same.

use std::{path::Path, process::Command, time::Duration};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use slipway_image::layer::Kind;
use slipway_tests::{Site, image, ready, worker::tar};

const LONG: Duration = Duration::from_secs(60);

/// A file system on a file in memory, and a file on it that has no memory yet.
const MAKE: &str = "cd $0; mkdir small disk; mount -t tmpfs -o size=32m tmpfs small; \
    truncate -s 256m small/image; mkfs.ext4 -q -O ^has_journal small/image; \
    mount -o loop small/image disk; fallocate -l 1m disk/lost";
/// What is written to that file while there is no memory is lost. Who wrote it is told: of the file system nobody
/// is, which would be by syncfs(2).
const FAIL: &str = "cd $0; sync -f disk; head -c 64m /dev/zero > small/fill || true; \
    if dd if=/dev/zero of=disk/lost bs=1M count=1 conv=notrunc,fsync; then exit 1; fi; \
    rm small/fill";
const TELL: &str = "! sync -f $0/disk";

/// A disk for what is written in containers and snapshots of a site.
struct Disk(tempfile::TempDir);

impl Disk {
    fn make(site: &Site) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.run(MAKE);
        for name in ["containers", "snapshots"] {
            let folder = disk.0.path().join("disk").join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::create_dir_all(site.path("state/runtime")).unwrap();
            let link = site.path("state/runtime").join(name);
            std::os::unix::fs::symlink(folder, link).unwrap();
        }
        disk
    }

    fn run(&self, script: &str) {
        let mut shell = Command::new("sh");
        let ran = shell.args(["-ec", script]).arg(self.0.path()).status();
        assert!(ran.unwrap().success(), "{script}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for name in ["disk", "small"] {
            let mount = self.0.path().join(name);
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }
}

/// Whether what is written there goes to the disk when it is unmounted, by a container's own mounts.
const LOOK: &str = "grep ' / overlay ' /proc/mounts | grep -c volatile || true";

/// On one thread: with all that it starts it has mounts of its own, which are gone when it is killed.
#[tokio::test]
async fn containers_and_builds_run_on_a_disk_that_has_lost_something() {
    if !ready() {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        println!("skipped: needs loop devices");
        return;
    }
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let mut site = Site::bare();
    let disk = Disk::make(&site);
    site.start_services().await;
    image::busybox(&site).await;
    let build = site.begin_build("a test", LONG).await;
    let layers = site.layers_of("busybox").await;
    let snapshot = build.prepare(&layers).await.unwrap();
    let volatile = async |snapshot: &str| {
        let run = site.ctl(&["run", "--rm", "busybox", "sh", "-c", LOOK]).ok();
        let step = build.run(snapshot, LOOK).await.unwrap();
        assert_eq!(step.0, 0);
        [run, step.1].map(|said| said.trim() == "1")
    };
    assert_eq!(volatile(&snapshot).await, [true, true]);
    disk.run(FAIL);
    assert_eq!(volatile(&snapshot).await, [false, false]);
    // What the service mounts itself, and what was made before and is made now.
    let file = tar(&[(image::entry("file", Kind::File, 5), b"hello".to_vec())]);
    let upon = build.upon(&snapshot).await.unwrap();
    for snapshot in [&build.prepare(&layers).await.unwrap(), &upon] {
        build.apply(snapshot, "/", &file).await.unwrap();
        let read = build.run(snapshot, "cat /file").await.unwrap();
        assert_eq!(read, (0, "hello".to_owned()));
    }
    // Somebody hears of it.
    disk.run(TELL);
    assert_eq!(volatile(&upon).await, [true, true]);
    build.end().await;
    drop(site);
}
