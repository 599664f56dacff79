//! mount_setattr(2), Linux 5.12: properties of a mount, of a whole tree of mounts at once.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Changes attributes (`MOUNT_ATTR_*`) and propagation (`MS_PRIVATE`, ...; 0 = as it is) of the mount
/// that `mount` is the root of, and with `recursive` of all below it.
pub fn set(
    mount: impl AsFd,
    attr_set: u64,
    attr_clear: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    change(mount, attr_set, attr_clear, propagation, 0, recursive)
}

/// Shows owners of a detached mount as ids of a user namespace.
pub fn idmap(mount: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    let namespace = user_namespace.as_fd().as_raw_fd() as u64;
    change(mount, libc::MOUNT_ATTR_IDMAP, 0, 0, namespace, false)
}

/// As [`idmap`], also for mounts below.
pub fn idmap_tree(mount: impl AsFd, user_namespace: impl AsFd, recursive: bool) -> io::Result<()> {
    let namespace = user_namespace.as_fd().as_raw_fd() as u64;
    change(mount, libc::MOUNT_ATTR_IDMAP, 0, 0, namespace, recursive)
}

fn change(
    mount: impl AsFd,
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set,
        attr_clr,
        propagation,
        userns_fd,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string and `attr` lives through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
