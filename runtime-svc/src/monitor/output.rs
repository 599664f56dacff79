//! From the container's streams to its log.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::io::Errno;

use super::{
    log_files,
    log_format::{HEADER, Header, Stream},
    log_writer::LogWriter,
};
use crate::executor::plan::LogLimits;

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
    /// The first position that an attached client has not read.
    pub needed: Option<u64>,
    log: Option<LogWriter>,
    buffer: Vec<u8>,
    /// A record that could not be written yet (the disk is full). Until it is, nothing more is read: the
    /// container waits, no byte is lost.
    pending: Option<Pending>,
}

struct Pending {
    record: Vec<u8>,
    /// How much of it is written.
    done: usize,
    lines: u64,
    time: u64,
}

impl Output {
    /// Opens the log at its end.
    pub fn open(log: Option<&Path>, limits: LogLimits) -> io::Result<Self> {
        Ok(Self {
            sources: Vec::new(),
            needed: None,
            log: log
                .map(|folder| LogWriter::open(folder, limits))
                .transpose()?,
            // A record is not to be longer than a segment.
            buffer: vec![
                0;
                BUFFER
                    .min(usize::try_from(limits.max_size).unwrap_or(BUFFER))
                    .max(512)
                    + HEADER
            ],
            pending: None,
        })
    }

    /// Where the next record will begin.
    pub fn position(&self) -> u64 {
        self.log.as_ref().map_or(0, LogWriter::position)
    }

    /// Where the segment that is written to begins.
    pub fn segment(&self) -> u64 {
        self.log.as_ref().map_or(0, LogWriter::segment)
    }

    /// Somebody has read on, or gone: what nobody needs any more goes.
    pub fn set_needed(&mut self, needed: Option<u64>) {
        if self.needed != needed {
            self.needed = needed;
            if let Some(log) = &mut self.log {
                log.prune(needed);
            }
        }
    }

    /// Whether something waits for room on the disk.
    pub const fn is_stuck(&self) -> bool {
        self.pending.is_some()
    }

    /// Tries again to write what waits.
    pub fn retry(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.write(pending);
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
                let time = now();
                let header = Header {
                    time,
                    length: n as u32,
                    stream,
                };
                self.buffer[..HEADER].copy_from_slice(&header.encode());
                let record = &self.buffer[..HEADER + n];
                let Some(log) = &mut self.log else {
                    return false;
                };
                let lines = log_files::newlines(&record[HEADER..]);
                let written = log
                    .make_room(record.len(), self.needed)
                    .and_then(|()| log.write(record));
                match written {
                    Ok(written) if written == record.len() => log.wrote(written, lines, time),
                    other => {
                        let pending = Pending {
                            record: record.to_vec(),
                            done: other.unwrap_or(0),
                            lines,
                            time,
                        };
                        self.write(pending);
                    }
                }
                true
            }
            Err(Errno::INTR | Errno::AGAIN) => false,
            // EIO: the last process with the terminal has closed it.
            Err(_) => {
                self.sources.swap_remove(index);
                false
            }
        }
    }

    fn write(&mut self, mut pending: Pending) {
        let Some(log) = &mut self.log else { return };
        let length = pending.record.len();
        if pending.done == 0 && log.make_room(length, self.needed).is_err() {
            self.pending = Some(pending);
            return;
        }
        while pending.done < length {
            match log.write(&pending.record[pending.done..]) {
                Ok(n) => pending.done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.pending = Some(pending);
                    return;
                }
            }
        }
        log.wrote(length, pending.lines, pending.time);
    }
}

/// Nanoseconds since the epoch.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
