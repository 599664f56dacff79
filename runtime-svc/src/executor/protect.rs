//! Paths of /proc and /sys that are hidden or made read-only.
//!
//! Done before anything of the container runs and by descriptors only, so that no link can be swapped
//! in between (CVE-2025-31133, CVE-2025-52881).

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{fs::OFlags, io::Errno, mount::OpenTreeFlags};

use super::{StartError, Step as _, mounts, procfs, rootfs};
use crate::sys::mount_attr;

/// Puts /dev/null upon files and an empty read-only tmpfs upon folders. What is not there needs none.
pub fn mask(root: &OwnedFd, paths: &[String]) -> Result<(), StartError> {
    for path in paths {
        let what = || format!("cannot hide {path}");
        let target = match rootfs::open_inside(root, path, OFlags::empty()) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(e) => return Err(e).step(what),
        };
        let cover = if rootfs::is_folder(&target).step(what)? {
            let cover = mounts::filesystem("tmpfs", &[("size".to_owned(), Some("0".to_owned()))])?;
            mount_attr::set(&cover, libc::MOUNT_ATTR_RDONLY, 0, 0, false).step(what)?;
            cover
        } else {
            null().step(what)?
        };
        rootfs::attach(&cover, target.as_fd()).step(what)?;
    }
    Ok(())
}

/// The host's /dev/null, made sure to be it.
fn null() -> rustix::io::Result<OwnedFd> {
    let mount = rustix::mount::open_tree(
        rustix::fs::CWD,
        "/dev/null",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let stat = rustix::fs::statat(&mount, "", rustix::fs::AtFlags::EMPTY_PATH)?;
    let is_null = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device()
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(mount)
    } else {
        Err(Errno::NODEV)
    }
}

/// Makes paths read-only by mounting them upon themselves.
pub fn read_only(root: &OwnedFd, paths: &[String]) -> Result<(), StartError> {
    for path in paths {
        let what = || format!("cannot make {path} read-only");
        let target = match rootfs::open_inside(root, path, OFlags::empty()) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(e) => return Err(e).step(what),
        };
        let mount = rustix::mount::open_tree(
            &target,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH
                | OpenTreeFlags::AT_RECURSIVE,
        )
        .step(what)?;
        mount_attr::set(&mount, libc::MOUNT_ATTR_RDONLY, 0, libc::MS_PRIVATE, true).step(what)?;
        rootfs::attach(&mount, target.as_fd()).step(what)?;
    }
    Ok(())
}

/// Writes kernel parameters of the new namespaces, through a proc file system that nobody else sees: in
/// the container's own a volume or a link of the image could stand in the way (CVE-2025-52881).
pub fn write_sysctls(sysctls: &[(String, String)]) -> Result<(), StartError> {
    if sysctls.is_empty() {
        return Ok(());
    }
    write_sysctls_to(&procfs::open()?, sysctls)
}

/// As [`write_sysctls`], through a proc file system that is mounted nowhere yet.
pub fn write_sysctls_to(proc: &OwnedFd, sysctls: &[(String, String)]) -> Result<(), StartError> {
    for (key, value) in sysctls {
        let path = format!("sys/{}", key.replace('.', "/"));
        procfs::write(proc, &path, value, || {
            format!("cannot set {key} to {value:?}")
        })?;
    }
    Ok(())
}
