//! Loading a seccomp filter.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a test holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A program as text: sixteen hex digits an instruction.
pub fn to_hex(program: &[Instruction]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(program.len() * 16);
    for i in program {
        // Writing into a String cannot fail.
        let _ = write!(text, "{:04x}{:02x}{:02x}{:08x}", i.code, i.jt, i.jf, i.k);
    }
    text
}

/// The program of [`to_hex`]; `None` when it is none.
pub fn from_hex(text: &str) -> Option<Vec<Instruction>> {
    let digits = text.as_bytes().chunks(16);
    let instruction = |chunk: &[u8]| {
        let chunk = std::str::from_utf8(chunk).ok().filter(|c| c.len() == 16)?;
        Some(Instruction {
            code: u16::from_str_radix(&chunk[..4], 16).ok()?,
            jt: u8::from_str_radix(&chunk[4..6], 16).ok()?,
            jf: u8::from_str_radix(&chunk[6..8], 16).ok()?,
            k: u32::from_str_radix(&chunk[8..], 16).ok()?,
        })
    };
    digits.map(instruction).collect()
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Whether the kernel knows these flags: it looks at them before it looks for the filter, of which there is
/// none here (seccomp(2), "EFAULT").
pub fn has_seccomp_flags(flags: u32) -> bool {
    let none = std::ptr::null::<Program>();
    // SAFETY: without a filter nothing is installed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            none,
        )
    };
    done < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Installs a filter for this process and all that it becomes (seccomp(2)). Needs `no_new_privs` or
/// CAP_SYS_ADMIN. With SECCOMP_FILTER_FLAG_NEW_LISTENER the answer is the descriptor of its listener.
pub fn install_seccomp(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let program = Program {
        len: u16::try_from(program.len()).map_err(|_| io::Error::other("filter too long"))?,
        filter: program.as_ptr(),
    };
    // SAFETY: `program` describes a slice that lives through the call; the kernel copies and checks it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let listens = libc::c_ulong::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    let number = i32::try_from(done).map_err(io::Error::other)?;
    // SAFETY: with that flag the kernel has just made this descriptor, for us alone.
    Ok(listens.then(|| unsafe { OwnedFd::from_raw_fd(number) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_which_flags_it_has() {
        const LOG: u32 = 2;
        assert!(has_seccomp_flags(0) && has_seccomp_flags(LOG));
        assert!(!has_seccomp_flags(1 << 30));
    }
}
