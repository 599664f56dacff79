//! Descriptors that were there before the program was.

#![expect(
    unsafe_code,
    reason = "only the environment tells that these numbers are ours to own"
)]

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// The sockets that a service manager opened for this process (sd_listen_fds(3)); none without one.
///
/// To be called once, before anything else opens or closes descriptors.
pub fn sockets() -> io::Result<Vec<OwnedFd>> {
    let numbers = sd_notify::listen_fds()?;
    // SAFETY: LISTEN_PID says that these are meant for this process, each was just found to be open, and nobody else
    // here knows of them.
    Ok(numbers
        .map(|number| unsafe { OwnedFd::from_raw_fd(number) })
        .collect())
}
