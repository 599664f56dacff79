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

/// Arguments as `ps` shows them: words that each end with a zero byte. They take the place of those
/// that the process began with, as far as those reach (as setproctitle(3)): the kernel's own way,
/// PR_SET_MM, needs a capability that not every root has. Nothing in the process may use its arguments
/// any more.
pub fn set_command_line(words: &[u8]) -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // proc_pid_stat(5): fields 48 and 49; the second field, in brackets, may hold blanks.
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    let field = |number: usize| -> Option<usize> {
        fields.split_whitespace().nth(number - 3)?.parse().ok()
    };
    let (Some(start @ 1..), Some(end)) = (field(48), field(49)) else {
        return Err(io::Error::other("the kernel does not tell where they are"));
    };
    let room = end.saturating_sub(start);
    let used = words.len().min(room.saturating_sub(1));
    // SAFETY: the kernel says that the arguments are there, on the stack of the first thread, which is
    // writable; by the rule above nobody holds a reference to them.
    unsafe {
        let at = start as *mut u8;
        std::ptr::write_bytes(at, 0, room);
        std::ptr::copy_nonoverlapping(words.as_ptr(), at, used);
    }
    Ok(())
}

/// Name as `ps` shows it, at most 15 bytes.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: PR_SET_NAME reads a null-terminated string.
    if unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
