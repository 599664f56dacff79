//! The disk takes what was written while more comes, so that at the end only the last is waited for.

use std::fs::File;

use slipway_service::begin_writeback;

/// Bytes that it is asked to take at once.
pub const AHEAD: u64 = 8 << 20;

/// See the module's page.
///
/// It is asked to begin, and never synced here: a sync writes the file system's journal each time, and an error is
/// told once only, to whoever syncs first (fsync(2)). Who makes a blob of the file is the one who is to hear of it.
pub struct WriteBehind {
    /// Bytes that it was asked to take so far.
    asked: u64,
}

impl WriteBehind {
    /// Of a file with so many bytes, which the disk has or is left to take at the end.
    pub const fn after(written: u64) -> Self {
        Self { asked: written }
    }

    /// Bytes that the disk was asked to take so far.
    #[cfg(test)]
    pub const fn asked(&self) -> u64 {
        self.asked
    }

    /// What of a file of `written` bytes the disk may take now.
    pub fn go_on(&mut self, file: &File, written: u64) {
        let more = written - self.asked;
        if more >= AHEAD {
            begin_writeback(file, self.asked, more);
            self.asked = written;
        }
    }
}
