use std::{fs::File, path::Path, process::Command};

use rustix::fs::{Mode, OFlags};

use super::*;

/// Two layers and a place to write to, below a folder.
struct Layers {
    lower: [PathBuf; 2],
    upper: PathBuf,
    work: PathBuf,
}

impl Layers {
    fn make(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name);
        for name in ["layers/a/fs", "layers/b/fs", "upper", "work"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for (file, text) in [
            ("layers/a/fs/both", "top"),
            ("layers/b/fs/both", "below"),
            ("layers/b/fs/one", "b"),
        ] {
            std::fs::write(path(file), text).unwrap();
        }
        Self {
            lower: [path("layers/a/fs"), path("layers/b/fs")],
            upper: path("upper"),
            work: path("work"),
        }
    }

    /// A volatile overlay, made in this way.
    fn mount(&self, overlay: Overlay) -> Result<OwnedFd, StartError> {
        forget_volatile(&self.work).unwrap();
        let upper = Upper {
            volatile: true,
            ..Upper::new(&self.upper, &self.work)
        };
        overlay(&self.lower, Some(upper))
    }
}

type Overlay = fn(&[PathBuf], Option<Upper<'_>>) -> Result<OwnedFd, StartError>;

/// As older kernels need it, and as this one has it.
const WAYS: [Overlay; 2] = [overlay_apart, overlay_in_service];

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root");
    }
    is_root
}

fn shows_all(mount: &OwnedFd) {
    for (name, expected) in [("both", "top"), ("one", "b")] {
        let file = rustix::fs::openat(mount, name, OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(std::io::read_to_string(File::from(file)).unwrap(), expected);
    }
}

#[test]
fn an_overlay_is_the_same_on_older_kernels() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let layers = Layers::make(folder.path());
    for way in WAYS {
        shows_all(&layers.mount(way).unwrap());
    }
    // Neither shows among the host's mounts.
    assert_eq!(
        std::fs::read_to_string("/proc/self/mounts").unwrap(),
        mounts
    );
}

/// A file system on a file in memory, with a file that has room on it and not yet in memory.
const DISK: &str = "cd $0; mkdir small disk; mount -t tmpfs -o size=16m tmpfs small; \
    truncate -s 64m small/image; mkfs.ext4 -q -O ^has_journal small/image; \
    mount -o loop small/image disk; fallocate -l 1m disk/lost; sync disk/lost";
/// What is written to that file is lost while there is no memory. Who wrote it is told, and nobody of the file
/// system: that would be syncfs(2).
const FAIL: &str = "cd $0; head -c 64m /dev/zero > small/fill || true; \
    if dd if=/dev/zero of=disk/lost bs=1M count=1 conv=notrunc,fsync; then exit 1; fi; \
    rm small/fill";

#[test]
fn an_overlay_is_mounted_on_a_disk_that_has_lost_something() {
    if !is_root() {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        println!("skipped: needs loop devices");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        let ran = shell.args(["-ec", script]).arg(folder.path()).status();
        assert!(ran.unwrap().success(), "{script}");
    };
    std::thread::scope(|scope| {
        // In mounts of its own thread, that go with it.
        scope.spawn(|| {
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            make_private().unwrap();
            run(DISK);
            let layers = Layers::make(&folder.path().join("disk"));
            // overlayfs' mark of a volatile mount.
            let mark = layers.work.join("work/incompat/volatile");
            for way in WAYS {
                let mount = layers.mount(way).unwrap();
                assert!(mark.exists());
                drop(mount);
            }
            run(FAIL);
            for way in WAYS {
                let mount = layers.mount(way).unwrap();
                assert!(!mark.exists());
                shows_all(&mount);
            }
        });
    });
}
