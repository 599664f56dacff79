//! unshare(2).

use std::io;

use rustix::thread::UnshareFlags;

/// Begins new namespaces for this process, which is single-threaded.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: dangerous only with CLONE_FILES, which would unshare descriptors among threads; the
    // processes that call this have one thread and pass namespace flags only.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}
