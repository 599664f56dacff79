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

/// Whether this kernel has IPv6, and was not told to do without.
pub fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6/conf/all").unwrap_or(false)
}

/// Writes a setting.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value)
}

/// Writes settings of one of many namespaces, by a proc file system that is there for this only. Those that this kernel
/// does not have are passed over.
///
/// In a shared one every namespace that was looked at has a `net` of its own below `/proc/sys`, all of them
/// under one name and one hash: the kernel goes through them one by one at each look (proc_sys_compare).
pub fn write_apart(settings: &[(String, &str)]) -> io::Result<()> {
    let proc = own_proc();
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    for (name, value) in settings {
        let written = match &proc {
            Ok(proc) => rustix::fs::openat(proc, format!("sys/net/{name}"), flags, Mode::empty())
                .and_then(|file| rustix::io::write(&file, value.as_bytes()))
                .map(drop)
                .map_err(io::Error::from),
            Err(_) => write(name, value),
        };
        ignore_missing(written)?;
    }
    Ok(())
}

/// What cannot be found need not be changed.
pub fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Mounted nowhere; it goes with the descriptor.
fn own_proc() -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
