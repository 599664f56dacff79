//! Signal dispositions.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The usual action for every signal that can have one.
pub fn reset_all() -> nix::Result<()> {
    let usual = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &usual) }?;
    }
    Ok(())
}

/// Ignores a signal.
pub fn ignore(signal: Signal) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring runs no code of ours.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Sends a signal by number through a pidfd (pidfd_send_signal(2), Linux 5.1): never to another
/// process that got the same pid. No process any more is fine.
pub fn send(pidfd: impl std::os::fd::AsFd, signal: i32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: integers and a null pointer, which means a plain kill-like signal.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        Ok(())
    } else {
        Err(error)
    }
}
