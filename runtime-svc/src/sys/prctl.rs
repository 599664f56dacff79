//! prctl(2) switches of the process that becomes a container.

use std::io;

fn prctl(option: i32, a: u64, b: u64, c: u64, d: u64) -> io::Result<()> {
    // SAFETY: the options used here take integers only.
    if unsafe { libc::prctl(option, a, b, c, d) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether other processes may look into this one with ptrace and /proc.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on), 0, 0, 0)
}

/// Dies with its parent. Cleared by the kernel when credentials change, so set it after that.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64, 0, 0, 0)
}

/// No exec gives more privileges from here on.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

/// Capabilities stay permitted across a change of user id, until the next exec.
pub fn set_keep_capabilities(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on), 0, 0, 0)
}

/// Orphaned descendants become children of this process.
pub fn set_child_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

/// Name as `ps` shows it, at most 15 bytes.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: PR_SET_NAME reads a null-terminated string.
    if unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
