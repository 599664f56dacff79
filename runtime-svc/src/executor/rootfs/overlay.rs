//! Overlays of layers: by the new mount API or by mount(2), with the owners that they have or a container's.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags},
};

use super::{attach, bind_tree, make_private};
use crate::{
    executor::{StartError, Step as _, mounts, userns::UserNamespace},
    sys::mount_attr,
};

/// An overlay of layers whose owners are shown as the container's. Its layers have to be mounted
/// somewhere for that: on a tmpfs upon `mount_point`, which is taken off again.
/// overlayfs makes its own files as who mounts it: as the container's root ([`UserNamespace::own_files`]).
pub fn idmapped_overlay(
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
    mount_point: &Path,
    user: &UserNamespace,
) -> Result<OwnedFd, StartError> {
    let what = || "cannot show the layers with the container's ids".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(mount_point, flags, Mode::empty()).step(what)?;
    let stage = mounts::filesystem("tmpfs", &[("mode".to_owned(), Some("700".to_owned()))])?;
    attach(&stage, target.as_fd()).step(what)?;
    let put = |folder: &Path, name: &str| -> Result<PathBuf, StartError> {
        let mount = bind_tree(folder, false)?;
        idmap(&mount, user)?;
        rustix::fs::mkdirat(&stage, name, Mode::from_raw_mode(0o700)).step(what)?;
        let place = rustix::fs::openat(&stage, name, flags, Mode::empty()).step(what)?;
        attach(&mount, place.as_fd()).step(what)?;
        Ok(mount_point.join(name))
    };
    let mut layers = Vec::with_capacity(lower.len());
    for (number, layer) in lower.iter().enumerate() {
        layers.push(put(layer, &format!("l{number}"))?);
    }
    let name = |path: &Path| {
        let name = path.file_name().map(PathBuf::from);
        name.ok_or(Errno::INVAL).step(what)
    };
    let own = match upper {
        Some(Upper { upper, work, .. }) => {
            // One mount for both: overlayfs insists on that.
            let own = upper.parent().ok_or(Errno::INVAL).step(what)?;
            let own = put(own, "own")?;
            Some((own.join(name(upper)?), own.join(name(work)?)))
        }
        None => None,
    };
    let own = own.as_ref().map(|(own_upper, own_work)| Upper {
        upper: own_upper,
        work: own_work,
        volatile: upper.is_some_and(|u| u.volatile),
    });
    let made = overlay(&layers, own).map_err(explain)?;
    // overlayfs has its layers now; nobody else shall see them.
    rustix::mount::unmount(mount_point, UnmountFlags::DETACH).step(what)?;
    Ok(made)
}

/// Shows the owners in a detached mount as the container's.
pub fn idmap(mount: &OwnedFd, user: &UserNamespace) -> Result<(), StartError> {
    mount_attr::idmap(mount, user.namespace())
        .step(|| "cannot map the owners of files".to_owned())
        .map_err(explain)
}

/// What EINVAL means there.
fn explain(error: StartError) -> StartError {
    match error {
        StartError::Failed { step, why } if why.contains("os error 22") => StartError::Failed {
            step,
            why: "user namespaces need Linux 5.19 and a state folder on a file system with idmapped mounts (ext4, xfs, btrfs): run the container with --userns=host".to_owned(),
        },
        other => other,
    }
}

/// A detached overlay mount; read-only without an upper layer. For a process with one thread and a mount
/// namespace of its own.
pub fn overlay(lower: &[PathBuf], upper: Option<Upper<'_>>) -> Result<OwnedFd, StartError> {
    match overlay_directly(lower, upper)? {
        Some(mount) => Ok(mount),
        None => overlay_by_mount(lower, upper),
    }
}

/// As [`overlay`], for a process with several threads that shares its mount namespace with the host.
pub fn overlay_in_service(
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
) -> Result<OwnedFd, StartError> {
    match overlay_directly(lower, upper)? {
        Some(mount) => Ok(mount),
        None => overlay_apart(lower, upper),
    }
}

/// Where an overlay is written to.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// Writable layer.
    pub upper: &'a Path,
    /// overlayfs' own folder.
    pub work: &'a Path,
    /// See [`crate::executor::plan::Root::Overlay`].
    pub volatile: bool,
}

impl<'a> Upper<'a> {
    /// One that is written to the disk when it is unmounted.
    pub const fn new(upper: &'a Path, work: &'a Path) -> Self {
        Self {
            upper,
            work,
            volatile: false,
        }
    }

    /// For a kernel that refuses a volatile mount with EIO: there was an error in writing to that file system,
    /// and only a mount that syncs it shows who has seen that (ovl_fill_super).
    fn synced(self) -> Option<Self> {
        let synced = Self {
            volatile: false,
            ..self
        };
        self.volatile.then_some(synced)
    }
}

/// Makes a work folder usable again that a volatile mount had. overlayfs marks it and refuses it from then
/// on, since the host may have crashed meanwhile; after a crash of the host nobody mounts ours again.
pub fn forget_volatile(work: &Path) -> rustix::io::Result<()> {
    let mark = work.join("work/incompat/volatile");
    let gone = |done: rustix::io::Result<()>| match done {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    };
    gone(rustix::fs::unlink(mark.join("dirty")))?;
    gone(rustix::fs::rmdir(mark))
}

/// By a thread with a working directory and a mount namespace of its own: unshare(2) works on threads.
fn overlay_apart(lower: &[PathBuf], upper: Option<Upper<'_>>) -> Result<OwnedFd, StartError> {
    let what = || "cannot mount an overlay apart".to_owned();
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| {
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).step(what)?;
            make_private()?;
            overlay_by_mount(lower, upper)
        });
        mounting.join().unwrap_or_else(|_| {
            Err(StartError::Failed {
                step: what(),
                why: "its thread panicked".to_owned(),
            })
        })
    })
}

/// Through the new mount API, one option a layer; `None` = this kernel cannot.
fn overlay_directly(
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
) -> Result<Option<OwnedFd>, StartError> {
    let what = || format!("cannot mount the overlay of {} layers", lower.len());
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(what)?;
    let fs = fs.as_fd();
    for layer in lower {
        match rustix::mount::fsconfig_set_string(fs, "lowerdir+", layer.as_path()) {
            Ok(()) => {}
            // Linux 6.5 and 6.6 know the new API for overlayfs, but not this option (6.7).
            Err(Errno::INVAL) => return Ok(None),
            Err(e) => return Err(e).step(what),
        }
    }
    if let Some(upper) = upper {
        rustix::mount::fsconfig_set_string(fs, "upperdir", upper.upper).step(what)?;
        rustix::mount::fsconfig_set_string(fs, "workdir", upper.work).step(what)?;
        if upper.volatile {
            rustix::mount::fsconfig_set_flag(fs, "volatile").step(what)?;
        }
    }
    for (key, value) in TRUST {
        rustix::mount::fsconfig_set_string(fs, key, value).step(what)?;
    }
    match rustix::mount::fsconfig_create(fs) {
        Ok(()) => {}
        // Before 6.5 options are only collected (legacy_parse_param), and refused all together here.
        Err(Errno::INVAL) => return Ok(None),
        Err(Errno::IO) if let Some(synced) = upper.and_then(Upper::synced) => {
            return overlay_directly(lower, Some(synced));
        }
        Err(e) => return Err(e).step(what),
    }
    rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .step(what)
        .map(Some)
}

/// Layers come from strangers: an attribute in one of them must not lead anywhere else, and an upper
/// layer must be whole, since it becomes a layer itself.
/// Without an index files of several names become several when they are written to, as in docker.
const TRUST: [(&str, &str); 3] = [
    ("redirect_dir", "nofollow"),
    ("metacopy", "off"),
    ("index", "off"),
];

/// For kernels before 6.5: mount(2) takes a page of options. The layers are named relative to their
/// common folder, so that some hundred fit.
fn overlay_by_mount(lower: &[PathBuf], upper: Option<Upper<'_>>) -> Result<OwnedFd, StartError> {
    let what = || format!("cannot mount the overlay of {} layers", lower.len());
    let fail = |why: &str| StartError::Failed {
        step: what(),
        why: why.to_owned(),
    };
    let first = lower.first().ok_or_else(|| fail("there is no layer"))?;
    let base = first
        .parent()
        .and_then(Path::parent)
        .ok_or_else(|| fail("layer without folder"))?;
    let names = lower
        .iter()
        .map(|l| l.strip_prefix(base).unwrap_or(l).display().to_string())
        .collect::<Vec<_>>()
        .join(":");
    let mut options = format!("lowerdir={names}");
    if let Some(upper) = upper {
        let (folder, work) = (upper.upper.display(), upper.work.display());
        options += &format!(",upperdir={folder},workdir={work}");
        if upper.volatile {
            options += ",volatile";
        }
    }
    for (key, value) in TRUST {
        options += &format!(",{key}={value}");
    }
    if options.len() >= 4096 {
        return Err(fail(
            "this kernel takes only 4096 bytes of layer names; Linux 6.5 has no limit",
        ));
    }
    let old = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(what)?;
    rustix::process::chdir(base).step(what)?;
    // Any folder serves as the mount point: the mount is taken off it again at once.
    let options = std::ffi::CString::new(options).map_err(|_| fail("zero byte in a path"))?;
    let mounted = rustix::mount::mount(
        "overlay",
        first.as_path(),
        "overlay",
        rustix::mount::MountFlags::empty(),
        Some(options.as_c_str()),
    );
    if let (Err(Errno::IO), Some(synced)) = (mounted, upper.and_then(Upper::synced)) {
        rustix::process::fchdir(&old).step(what)?;
        return overlay_by_mount(lower, Some(synced));
    }
    let cloned = mounted.and_then(|()| {
        let tree = rustix::mount::open_tree(
            CWD,
            first.as_path(),
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        );
        rustix::mount::unmount(first.as_path(), UnmountFlags::DETACH)?;
        tree
    });
    rustix::process::fchdir(old).step(what)?;
    cloned.step(what)
}

#[cfg(test)]
mod tests;
