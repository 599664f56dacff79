//! From the container's streams to its log.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use rustix::io::Errno;

use super::log_format::{self, HEADER, Header, Stream};

/// How much is read at once, bytes. Small, since every monitor has one such buffer.
const BUFFER: usize = 32 * 1024;

/// An open stream.
pub struct Source {
    /// Where to read.
    pub fd: OwnedFd,
    /// What it is.
    pub stream: Stream,
}

/// The log and the streams that are read into it.
pub struct Output {
    /// Streams that have not ended.
    pub sources: Vec<Source>,
    log: Option<File>,
    /// Length of the log, bytes.
    pub length: u64,
    buffer: Vec<u8>,
    /// A record that could not be written yet (the disk is full): header and payload, and how much of
    /// it is written. Until it is, nothing more is read: the container waits, no byte is lost.
    pending: Option<(Vec<u8>, usize)>,
}

impl Output {
    /// Opens the log at its end.
    pub fn open(log: Option<&Path>) -> io::Result<Self> {
        let (log, length) = match log {
            Some(path) => {
                let mut file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(path)?;
                let length = log_format::valid_length(&mut file)?;
                file.set_len(length)?;
                drop(file);
                (Some(OpenOptions::new().append(true).open(path)?), length)
            }
            None => (None, 0),
        };
        Ok(Self {
            sources: Vec::new(),
            log,
            length,
            buffer: vec![0; BUFFER + HEADER],
            pending: None,
        })
    }

    /// Whether something waits for room on the disk.
    pub const fn is_stuck(&self) -> bool {
        self.pending.is_some()
    }

    /// Tries again to write what waits.
    pub fn retry(&mut self) {
        if let Some((record, done)) = self.pending.take() {
            self.write(record, done);
        }
    }

    /// Reads once from a source; drops it at its end. Returns whether the log grew.
    pub fn pump(&mut self, index: usize) -> bool {
        if self.is_stuck() {
            return false;
        }
        let source = &self.sources[index];
        let stream = source.stream;
        match rustix::io::read(&source.fd, &mut self.buffer[HEADER..]) {
            Ok(0) => {
                self.sources.swap_remove(index);
                false
            }
            Ok(n) => {
                let header = Header {
                    time: now(),
                    length: n as u32,
                    stream,
                };
                self.buffer[..HEADER].copy_from_slice(&header.encode());
                let record = &self.buffer[..HEADER + n];
                match self.log.as_mut().map(|log| log.write(record)) {
                    None => false,
                    Some(Ok(written)) if written == record.len() => {
                        self.length += written as u64;
                        true
                    }
                    Some(Ok(written)) => {
                        let rest = record.to_vec();
                        self.write(rest, written);
                        true
                    }
                    Some(Err(_)) => {
                        self.pending = Some((record.to_vec(), 0));
                        false
                    }
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => false,
            // EIO: the last process with the terminal has closed it.
            Err(_) => {
                self.sources.swap_remove(index);
                false
            }
        }
    }

    fn write(&mut self, record: Vec<u8>, mut done: usize) {
        let Some(log) = &mut self.log else { return };
        while done < record.len() {
            match log.write(&record[done..]) {
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.pending = Some((record, done));
                    return;
                }
            }
        }
        self.length += record.len() as u64;
    }
}

/// Nanoseconds since the epoch.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
