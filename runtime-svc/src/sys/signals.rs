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

/// Blocks every signal that can be blocked.
pub fn block_all() -> nix::Result<()> {
    SigSet::all().thread_block()
}

/// Has a program begin with no signal blocked, whatever is blocked here.
pub fn unblock_in(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let unblock = || {
        // A filter of system calls may forbid it; then nothing is blocked, or the program lives with it.
        let _ = SigSet::empty().thread_set_mask();
        Ok(())
    };
    // SAFETY: between fork and exec it does nothing but sigprocmask(2).
    unsafe { command.pre_exec(unblock) };
}

/// Waits for any signal, all of which are blocked, and takes it (sigwaitinfo(2)). Also the real-time
/// ones, for which nix has no names.
pub fn wait_any() -> std::io::Result<i32> {
    let all = SigSet::all();
    // SAFETY: a set that lives through the call, and no wish for details.
    match unsafe { libc::sigwaitinfo(all.as_ref(), std::ptr::null_mut()) } {
        -1 => Err(std::io::Error::last_os_error()),
        signal => Ok(signal),
    }
}

/// Sends a signal by number to a child that was not collected yet.
pub fn send_to(child: rustix::process::Pid, signal: i32) -> std::io::Result<()> {
    // SAFETY: integers.
    match unsafe { libc::kill(child.as_raw_nonzero().get(), signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
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
