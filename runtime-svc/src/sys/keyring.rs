//! Kernel keys (keyrings(7)).

use std::io;

/// `<linux/keyctl.h>`
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// A new, anonymous session keyring for this process, in place of the one that it inherited. A kernel
/// without keys, or a filter that forbids them, is fine: then there is nothing to inherit.
pub fn begin_session() -> io::Result<()> {
    // SAFETY: a null name means an anonymous keyring; nothing else is read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    if done >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => Ok(()),
        _ => Err(error),
    }
}
