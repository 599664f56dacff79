//! The disk taking what is written while more of it comes.

#![expect(unsafe_code, reason = "sync_file_range(2) has no safe form")]

use std::{fs::File, os::fd::AsRawFd as _};

/// Has the disk begin with `length` bytes of a file from `offset` on, and does not wait for it. It promises nothing,
/// and takes no error away from whoever syncs the file in the end (sync_file_range(2), SYNC_FILE_RANGE_WRITE).
pub fn begin_writeback(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else {
        return;
    };
    // SAFETY: two numbers and a descriptor that is open for the time of the call. It can only refuse, and then all is
    // left to the sync.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}
