//! Descriptors in tokio's event loop.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Registers a descriptor. Must be called inside a tokio runtime.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always returns the same open descriptor, and closes it only when the
    // `AsyncFd`, which owns it from here on, is dropped after deregistering it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
