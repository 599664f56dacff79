//! Containers' logs as runtime-svc sees them: reading, finding, packing, and handing on to drivers.
//!
//! The monitor writes every container's output to one log, whatever the driver
//! ([`crate::monitor::log_files`]). Attached clients and followers read that. For `local`, the default,
//! it is also what `logs` shows; for `json-file` and `journald` it is where their lines come from
//! ([`sink`]): so a journal that hangs, or a restart of runtime-svc, holds no container up.
//!
//! * [`config`]: drivers and their options; [`attributes`]: what labels, env and tag add to lines;
//! * [`reader`]: from a position on, across rotations; [`find`]: the position of the last lines, or of a
//!   time, by the index; [`pack`]: complete segments, made small;
//! * [`hold`]: what attached clients have still to read.

pub mod attributes;
pub mod config;
pub mod find;
pub mod hold;
pub mod pack;
pub mod reader;
pub mod sink;

use crate::monitor::log_format::Stream;

/// One piece of output, exactly as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Where it came from.
    pub stream: Stream,
    /// The bytes.
    pub data: Vec<u8>,
}

/// What of a log is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Not before (nanoseconds since the epoch).
    pub since: Option<u64>,
    /// Not after.
    pub until: Option<u64>,
}

impl Selection {
    /// Whether a piece is wanted.
    pub fn takes(&self, piece: &Piece) -> bool {
        let stream = match piece.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream
            && self.since.is_none_or(|since| piece.time >= since)
            && self.until.is_none_or(|until| piece.time <= until)
    }
}
