//! Making processes: fork for the monitor, clone3 for the first process of a container.
//!
//! Only for single-threaded processes (the spawner and what it forks): there the child may run any
//! code, since no lock can be held by a thread that does not exist in it.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use rustix::process::Pid;

/// `<linux/sched.h>`; libc's constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent(Pid),
}

/// fork(2).
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the callers are single-threaded (see the module's documentation), so the child may go on
    // as if it were the parent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(to_pid(pid)?)),
    }
}

/// Which side of a [`clone3`] this is.
#[derive(Debug)]
pub enum Clone {
    /// The new process.
    Child,
    /// The old one: pid and pidfd of the new one.
    Parent(Pid, OwnedFd),
}

/// clone3(2), Linux 5.3: like fork, into new namespaces and, with `cgroup` (a directory of a cgroup v2
/// tree, Linux 5.7), straight into a cgroup.
///
/// `flags` are `CLONE_NEW*` and `CLONE_PARENT`. With `CLONE_PARENT` the exit signal is the caller's
/// own (the kernel insists on 0 there).
pub fn clone3(flags: i32, cgroup: Option<RawFd>) -> io::Result<Clone> {
    let mut pidfd: RawFd = -1;
    let mut flags = flags as u64 | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    let mut args = libc::clone_args {
        flags,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd as u64),
    };
    // SAFETY: no CLONE_VM and no stack: the child gets a copy of everything, as with fork. `args` is
    // initialised and lives through the call. The caller is single-threaded.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            std::mem::size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Clone::Child),
        pid => {
            // SAFETY: CLONE_PIDFD succeeded: the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Clone::Parent(to_pid(pid as i32)?, pidfd))
        }
    }
}

fn to_pid(raw: i32) -> io::Result<Pid> {
    Pid::from_raw(raw).ok_or_else(|| io::Error::other("the kernel returned pid 0"))
}

/// Ends this process without running destructors or exit handlers, which belong to the parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: always safe; it does not return.
    unsafe { libc::_exit(code) }
}

/// Takes over a descriptor that was inherited under a known number.
///
/// `None` when it is not open.
pub fn adopt_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl(F_GETFD) only asks.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and by the spawner's calling convention nobody else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // The next exec must not inherit it.
    // SAFETY: sets a flag of a descriptor that we own.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Some(fd)
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11), so that the
/// program of a container inherits nothing (CVE-2024-21626).
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: CLOSE_RANGE_CLOEXEC closes nothing now; it only sets flags.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets the program of the next exec inherit `count` descriptors from `first` on.
pub fn keep_at_exec(first: RawFd, count: u32) -> io::Result<()> {
    for number in first..first.saturating_add_unsigned(count) {
        // SAFETY: changes a flag only.
        if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes every descriptor from `first` on (close_range(2), Linux 5.9), for a process whose memory goes
/// on but which nothing that owns one of them ever returns to.
pub fn close_from(first: RawFd) {
    // SAFETY: the caller never uses the owners of these descriptors again.
    unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, 0) };
}

/// As [`close_from`], with one that stays open.
pub fn close_all_but(first: RawFd, kept: RawFd) {
    let close = |from: RawFd, to: u32| {
        // SAFETY: as in `close_from`.
        unsafe { libc::syscall(libc::SYS_close_range, from as u32, to, 0) };
    };
    if kept > first {
        close(first, kept as u32 - 1);
    }
    close(first.max(kept + 1), u32::MAX);
}

/// As [`close_from`], with two that stay open.
pub fn close_all_but_two(first: RawFd, one: RawFd, other: RawFd) {
    let (low, high) = (one.min(other), one.max(other));
    let close = |from: RawFd, to: RawFd| {
        if from <= to {
            // SAFETY: as in `close_from`.
            unsafe { libc::syscall(libc::SYS_close_range, from as u32, to as u32, 0) };
        }
    };
    close(first, low - 1);
    close(low + 1, high - 1);
    close_from(high + 1);
}

/// execve(2) with prepared arguments. Returns only to say why not.
pub fn execve(
    program: &std::ffi::CStr,
    argv: &[std::ffi::CString],
    env: &[std::ffi::CString],
) -> io::Error {
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays are null-terminated and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes the file behind a descriptor (execveat(2) with AT_EMPTY_PATH).
pub fn execveat_fd(
    file: RawFd,
    argv: &[std::ffi::CString],
    env: &[std::ffi::CString],
) -> io::Error {
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: as for execve; the empty path together with AT_EMPTY_PATH means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file,
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Closes a descriptor by number in a forked child, whose owner lives on in the parent's code path
/// only: the child never returns to it.
pub fn close_copy(number: RawFd) {
    // SAFETY: the caller never uses the descriptor again in this process.
    unsafe { libc::close(number) };
}
