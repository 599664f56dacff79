//! A build's messages while they are written.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Most bytes of one build's log.
const LOG: u64 = 8 << 20;
/// Bytes that are gathered before they are written.
const BATCH: usize = 64 * 1024;

/// A build's messages on their way to the disk.
pub struct Log {
    pub(super) id: String,
    path: PathBuf,
    pub(super) file: Option<File>,
    batch: Vec<u8>,
    bytes: u64,
}

impl Log {
    /// Of a build, in a file that is made when there is something to write.
    pub(super) const fn new(id: String, path: PathBuf) -> Self {
        Self {
            id,
            path,
            file: None,
            batch: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds a message; beyond the limit nothing is kept any more.
    pub fn add(&mut self, message: &[u8]) {
        let Ok(length) = u32::try_from(message.len()) else {
            return;
        };
        self.bytes += u64::from(length) + 4;
        if self.bytes > LOG {
            return;
        }
        self.batch.extend(length.to_le_bytes());
        self.batch.extend(message);
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Err(error) = self.write() {
            tracing::warn!(%error, "a build's log cannot be written");
        }
        self.batch.clear();
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        file.write_all(&self.batch)
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}
