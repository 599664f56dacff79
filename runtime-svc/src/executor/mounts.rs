//! Mounts into the root file system, one after the other, by descriptors only.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::{
    StartError, Step as _,
    plan::{Mount, MountSource},
    rootfs,
};
use crate::sys::mount_attr;

/// Makes all mounts. Sources are looked up on the host, so this happens before the pivot; targets are
/// looked up inside `root`, each after the mounts before it.
///
/// `shm` is what [`MountSource::SharedMemory`] means.
pub fn make(root: &OwnedFd, mounts: &[Mount], shm: Option<&OwnedFd>) -> Result<(), StartError> {
    for mount in mounts {
        make_one(root, mount, shm)?;
    }
    Ok(())
}

fn make_one(root: &OwnedFd, mount: &Mount, shm: Option<&OwnedFd>) -> Result<(), StartError> {
    let what = || format!("cannot mount on {}", mount.target);
    let source = match &mount.source {
        MountSource::Filesystem { kind, options } => filesystem(kind, options)?,
        MountSource::Bind(path) => rootfs::bind_tree(path, mount.recursive)?,
        MountSource::Cgroups { writable } => return cgroups(root, &mount.target, *writable),
        MountSource::SharedMemory => {
            let shm = shm.ok_or_else(|| StartError::Failed {
                step: what(),
                why: "there is no shared memory to mount".to_owned(),
            })?;
            let target = rootfs::make_folder_inside(root, &mount.target, 0o1777).step(what)?;
            return rootfs::attach(shm, target.as_fd()).step(what);
        }
    };
    ordinary_folder(root, mount)?;
    let propagation = if mount.propagation == 0 {
        libc::MS_PRIVATE
    } else {
        mount.propagation
    };
    if mount.only_top {
        mount_attr::set(&source, mount.attributes, 0, 0, false).step(what)?;
        mount_attr::set(&source, 0, 0, propagation, mount.recursive).step(what)?;
    } else {
        mount_attr::set(&source, mount.attributes, 0, propagation, mount.recursive).step(what)?;
    }
    let target = if rootfs::is_folder(&source).step(what)? {
        rootfs::make_folder_inside(root, &mount.target, 0o755).step(what)?
    } else {
        rootfs::make_file_inside(root, &mount.target).step(what)?
    };
    // A target such as /proc/self/... or a link that leads into another mount of ours would let a
    // volume replace what protects the container (CVE-2019-16884): only the root file system, tmpfs
    // and volumes may be mounted upon.
    if is_procfs(&target).step(what)? && mount.target != "/proc" {
        return Err(StartError::Failed {
            step: what(),
            why: "the target is inside /proc, where nothing may be mounted".to_owned(),
        });
    }
    rootfs::attach(&source, target.as_fd()).step(what)
}

/// The kernel's own file systems are only mounted where the image has a folder, or nothing: through a
/// link they would be somewhere else than those who protect them look (CVE-2019-19921, runc's sentence).
fn ordinary_folder(root: &OwnedFd, mount: &Mount) -> Result<(), StartError> {
    let MountSource::Filesystem { kind, .. } = &mount.source else {
        return Ok(());
    };
    if !matches!(mount.target.as_str(), "/proc" | "/sys" | "/dev") {
        return Ok(());
    }
    let name = mount.target.trim_start_matches('/');
    match rustix::fs::statat(root, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
            Err(StartError::Failed {
                step: format!("cannot mount on {}", mount.target),
                why: format!("filesystem {kind:?} must be mounted on ordinary directory"),
            })
        }
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e).step(|| format!("cannot look at {}", mount.target)),
    }
}

/// Whether this is on a proc file system.
pub fn is_procfs(fd: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == libc::PROC_SUPER_MAGIC)
}

/// A detached mount of a new file system.
pub fn filesystem(kind: &str, options: &[(String, Option<String>)]) -> Result<OwnedFd, StartError> {
    let what = || format!("cannot mount a {kind}");
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step(what)?;
    for (key, value) in options {
        let option = || match value {
            Some(value) => format!("cannot mount a {kind} with {key}={value}"),
            None => format!("cannot mount a {kind} with {key}"),
        };
        match value {
            Some(value) => {
                rustix::mount::fsconfig_set_string(fs.as_fd(), key.as_str(), value.as_str())
                    .step(option)?;
            }
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), key.as_str()).step(option)?,
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd()).step(what)?;
    rustix::mount::fsmount(
        fs.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .step(what)
}

/// The host's cgroup trees, read-only unless the container is privileged, each showing the container's
/// own group as its root (the cgroup namespace does that).
fn cgroups(root: &OwnedFd, target: &str, writable: bool) -> Result<(), StartError> {
    let what = || format!("cannot mount the cgroups on {target}");
    let read_only = if writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let attributes =
        read_only | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let folder = rootfs::make_folder_inside(root, target, 0o755).step(what)?;
    let hierarchies = crate::cgroup::Hierarchies::detect().step(what)?;
    if hierarchies.v1.is_empty() {
        if hierarchies.v2.is_none() {
            return Ok(());
        }
        let tree = filesystem("cgroup2", &[])?;
        mount_attr::set(&tree, attributes, 0, libc::MS_PRIVATE, false).step(what)?;
        return rootfs::attach(&tree, folder.as_fd()).step(what);
    }
    // v1: a tmpfs with a folder a hierarchy.
    let mode = ("mode".to_owned(), Some("755".to_owned()));
    let base = filesystem("tmpfs", &[mode])?;
    rootfs::attach(&base, folder.as_fd()).step(what)?;
    for hierarchy in &hierarchies.v1 {
        let Some(name) = hierarchy.path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let options: Vec<_> = hierarchy
            .options
            .iter()
            .map(|o| match o.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (o.clone(), None),
            })
            .collect();
        let tree = filesystem("cgroup", &options)?;
        mount_attr::set(&tree, attributes, 0, libc::MS_PRIVATE, false).step(what)?;
        rustix::fs::mkdirat(&base, name, Mode::from_raw_mode(0o755)).step(what)?;
        let place = rustix::fs::openat(
            &base,
            name,
            OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .step(what)?;
        rootfs::attach(&tree, place.as_fd()).step(what)?;
    }
    mount_attr::set(&base, attributes, 0, 0, false).step(what)
}

/// Makes the root file system read-only; what is mounted upon it stays as it is.
pub fn make_read_only(mount: &OwnedFd) -> Result<(), StartError> {
    mount_attr::set(mount, libc::MOUNT_ATTR_RDONLY, 0, 0, false)
        .step(|| "cannot make the root file system read-only".to_owned())
}

/// Whether a bind source is there.
pub fn exists(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok()
}
