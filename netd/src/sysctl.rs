//! Kernel settings below `/proc/sys/net`, of the calling thread's network namespace.

use std::os::fd::OwnedFd;
use std::{fs, io};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Reads a setting, for example `ipv4/ip_forward`.
pub fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/net/{name}"))?
        .trim()
        .to_owned())
}

/// Writes a setting.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value)
}

/// Writes a setting of one of many namespaces, by a proc file system that is there for this only.
///
/// In a shared one every namespace that was looked at has a `net` of its own below `/proc/sys`, all of them
/// under one name and one hash: the kernel goes through them one by one at each look (proc_sys_compare).
pub fn write_apart(name: &str, value: &str) -> io::Result<()> {
    let Ok(proc) = own_proc() else {
        return write(name, value);
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&proc, format!("sys/net/{name}"), flags, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// Mounted nowhere; it goes with the descriptor.
fn own_proc() -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
