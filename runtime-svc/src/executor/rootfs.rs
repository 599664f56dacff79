//! The root file system: mounted in the container's own mount namespace, then made the root. What it is made of
//! is in [`overlay`], how places in it are found in `inside`.

mod inside;
mod overlay;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

pub use inside::{INSIDE, is_folder, make_file_inside, make_folder_inside, open_inside};
pub use overlay::{Upper, forget_volatile, idmap, idmapped_overlay, overlay, overlay_in_service};

use super::{StartError, Step as _, plan::Root, userns::UserNamespace};
use crate::sys::mount_attr;

/// Cuts this mount namespace off from the host's: nothing propagates either way.
pub fn make_private() -> Result<(), StartError> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step(|| "cannot open /".to_owned())?;
    mount_attr::set(&root, 0, 0, libc::MS_PRIVATE, true)
        .step(|| "cannot make the mounts private".to_owned())
}

/// The root file system of a bundle, still connected with the host's mounts: what is mounted below it there
/// shows in the container. The other way needs it to be shared, which comes after the pivot.
pub fn open_connected(root: &Root, propagation: u64) -> Result<Option<OwnedFd>, StartError> {
    let connected = propagation == libc::MS_SLAVE || propagation == libc::MS_SHARED;
    let (Root::Bundle(folder), true) = (root, connected) else {
        return Ok(None);
    };
    let mount = bind_tree(folder, true)?;
    mount_attr::set(&mount, 0, 0, libc::MS_SLAVE, true)
        .step(|| "cannot connect the root file system with the host's mounts".to_owned())?;
    Ok(Some(mount))
}

/// A detached mount of the root file system: visible nowhere until it is moved.
fn open(
    root: &Root,
    mount_point: &Path,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, StartError> {
    match (root, user) {
        (
            Root::Overlay {
                lower,
                upper,
                work,
                volatile,
            },
            user,
        ) => {
            let upper = Some(Upper {
                upper,
                work,
                volatile: *volatile,
            });
            match user {
                None => overlay(lower, upper),
                Some(user) => idmapped_overlay(lower, upper, mount_point, user),
            }
        }
        (Root::Folder(folder), None) | (Root::Bundle(folder), _) => bind_tree(folder, true),
        (Root::Folder(folder), Some(user)) => {
            let mount = bind_tree(folder, false)?;
            idmap(&mount, user)?;
            Ok(mount)
        }
    }
}

/// A detached bind mount of a host path.
pub fn bind_tree(path: &Path, recursive: bool) -> Result<OwnedFd, StartError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
        .step(|| format!("cannot use {} as a mount source", path.display()))
}

/// A detached bind mount of what is below a folder; nothing leads out of that.
pub fn bind_beneath(base: impl AsFd, path: &str) -> Result<OwnedFd, StartError> {
    let what = || format!("cannot access path {path}");
    let found = loop {
        let opened = rustix::fs::openat2(
            &base,
            if path.is_empty() { "." } else { path },
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        );
        match opened {
            // A rename raced with the lookup: it may have led out, or not.
            Err(Errno::AGAIN) => {}
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(StartError::Failed {
                    step: what(),
                    why: "it leads out of what it is a part of".to_owned(),
                });
            }
            opened => break opened.step(what)?,
        }
    };
    rustix::mount::open_tree(
        &found,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .step(what)
}

/// A detached bind mount of what a path is inside a tree that is taken for the root: links in it are
/// followed there, and lead nowhere else. `None` where the kernel takes no part of a detached mount.
pub fn bind_in_root(root: impl AsFd, path: &str) -> Result<Option<OwnedFd>, StartError> {
    let what = || format!("cannot access path {path}");
    let found = open_inside(&root, path, OFlags::empty()).step(what)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    match rustix::mount::open_tree(&found, "", flags) {
        Err(Errno::INVAL) => Ok(None),
        made => made.step(what).map(Some),
    }
}

/// Puts a detached mount onto what `target` is.
pub fn attach(mount: &OwnedFd, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::mount::move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Mounts the root file system on `mount_point` and returns it; `connected` is it already.
pub fn mount_root(
    root: &Root,
    mount_point: &Path,
    user: Option<&UserNamespace>,
    connected: Option<OwnedFd>,
) -> Result<OwnedFd, StartError> {
    let what = || {
        format!(
            "cannot mount the root file system on {}",
            mount_point.display()
        )
    };
    let mount = match connected {
        Some(mount) => mount,
        None => open(root, mount_point, user)?,
    };
    let target = rustix::fs::open(
        mount_point,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(what)?;
    attach(&mount, target.as_fd()).step(what)?;
    Ok(mount)
}

/// Makes the mounted root file system the root of this process, and the host's unreachable.
///
/// pivot_root(2), NOTES: with `.` twice the old root ends up mounted over the new one, and is then
/// detached; no folder for it is needed.
pub fn pivot(root: &OwnedFd) -> Result<(), StartError> {
    rustix::process::fchdir(root).step(|| "cannot enter the root file system".to_owned())?;
    rustix::process::pivot_root(".", ".").step(|| "pivot_root failed".to_owned())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .step(|| "cannot detach the host's root".to_owned())?;
    rustix::process::chdir("/").step(|| "cannot enter /".to_owned())
}
