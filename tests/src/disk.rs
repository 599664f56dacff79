//! A disk whose power can be cut: a file system in a file, and a copy of that file is what the disk has at an
//! instant. It is one that promises nothing which POSIX does not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Site;

/// Nothing reaches this disk by itself: the journal is written when somebody asks for that, and no rename waits
/// for bytes (ext4(5), auto_da_alloc).
const OPTIONS: &str = "loop,noauto_da_alloc,commit=600";

/// See the module's page.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// Has a folder of a site's state on a disk of its own; `None`, said so, where that cannot be made. The site is
    /// to go before its disk.
    pub fn of(site: &Site, name: &str) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let image = disk.0.path().join("image");
        let file = fs::File::create(&image).unwrap();
        file.set_len(64 << 20).unwrap();
        fs::create_dir(disk.mounted()).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        if !made.is_ok_and(|made| made.success()) || !disk.mount(&image) {
            crate::skipped("cannot make a file system in a file");
            return None;
        }
        let place = site.path(name);
        fs::create_dir(disk.folder()).unwrap();
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(disk.folder(), place).unwrap();
        rustix::fs::syncfs(fs::File::open(disk.mounted()).unwrap()).unwrap();
        Some(disk)
    }

    /// The folder that is on it.
    pub fn folder(&self) -> PathBuf {
        self.mounted().join("folder")
    }

    fn mounted(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    fn mount(&self, image: &Path) -> bool {
        let mount = Command::new("mount")
            .args(["-o", OPTIONS])
            .args([image, &self.mounted()])
            .status();
        mount.is_ok_and(|mounted| mounted.success())
    }

    fn unmount(&self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.mounted())
            .status();
    }

    /// What the disk has at this instant.
    pub fn cut(&self) -> Cut<'_> {
        let number = fs::read_dir(self.0.path()).unwrap().count();
        let copy = self.0.path().join(format!("copy{number}"));
        fs::copy(self.0.path().join("image"), &copy).unwrap();
        Cut { disk: self, copy }
    }
}

/// What was on a disk when its power was cut.
#[must_use]
pub struct Cut<'a> {
    disk: &'a Disk,
    copy: PathBuf,
}

impl Cut<'_> {
    /// The host is there again. By now nothing may use what was on the disk before.
    pub fn returns(self) {
        self.disk.unmount();
        fs::rename(&self.copy, self.disk.0.path().join("image")).unwrap();
        assert!(self.disk.mount(&self.disk.0.path().join("image")));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}
