//! A proc file system of our own, mounted nowhere.
//!
//! What is written to /proc on the way into a container (kernel parameters, security labels, scores) goes
//! through it: it shows the namespaces that this process is in, and nothing that the image, a volume or a
//! process of the container does to /proc can turn the writing elsewhere.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{StartError, Step as _, mounts};

/// Mounts it; it goes with the descriptor.
pub fn open() -> Result<OwnedFd, StartError> {
    mounts::filesystem("proc", &[])
}

/// Writes a value into one of its files, all of it or nothing. Nothing on the path may be a link but
/// `self`, and nothing may be mounted there.
pub fn write(
    proc: &OwnedFd,
    path: &str,
    value: &str,
    what: impl Fn() -> String,
) -> Result<(), StartError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(
        proc,
        path,
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
    .step(&what)?;
    let written = rustix::io::write(&file, value.as_bytes()).step(&what)?;
    match written == value.len() {
        true => Ok(()),
        false => Err(StartError::Failed {
            step: what(),
            why: "the kernel took a part of it only".to_owned(),
        }),
    }
}
