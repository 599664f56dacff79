//! What runtime-svc and a monitor say to each other: messages on a SOCK_SEQPACKET socket.
//!
//! The first byte tells the kind: [`JSON`] a [`Request`] or [`Event`], [`DATA`] bytes for standard
//! input, [`END`] the end of standard input.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::executor::{StartError, plan::ExecPlan};

/// Name of an [`ExitRecord`].
pub const EXIT_FILE: &str = "exit.json";

/// A message in JSON.
pub const JSON: u8 = b'J';
/// Bytes for the container's standard input.
pub const DATA: u8 = b'D';
/// End of standard input.
pub const END: u8 = b'E';

/// Longest message, bytes. The kernel's limit for unix sockets is about 208 KiB.
pub const MAX_MESSAGE: usize = 192 * 1024;
/// Most bytes of standard input in one message.
pub const MAX_DATA: usize = 32 * 1024;

/// What a client asks of a monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Tell me when the log grows, and when it ends.
    Attach {
        /// I may send standard input.
        stdin: bool,
        /// When I go, standard input ends.
        stdin_once: bool,
    },
    /// Keep the log from this position on, within bounds: an attached client has not read further. The
    /// monitor's first client holds all output until it says otherwise.
    Hold(Option<u64>),
    /// The terminal has this size now.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Send a signal to the first process. Answered with [`Event::Signalled`], so that who asked knows
    /// that it was not lost on the way.
    Signal(i32),
    /// Hand out a pidfd of the first process. Answered with [`Event::FirstProcess`]: since the monitor is
    /// the parent, the number still means that process.
    FirstProcess,
    /// Tell from now on when the kernel kills for want of memory: a limit was set.
    WatchMemory,
    /// The container is being removed: nobody will read its log or how it ended, so neither needs to wait for
    /// a disk that is full. Answered with [`Event::Discarded`].
    Discard,
    /// Run another process. Without a terminal three descriptors come along: its streams.
    Exec(Box<ExecPlan>),
}

/// What a monitor tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The container runs. First on every connection.
    Running(Running),
    /// It could not be started; the monitor is gone.
    Failed(StartError),
    /// The log ends at this position now.
    Grew(u64),
    /// The kernel killed something in it for want of memory.
    OutOfMemory,
    /// A segment of the log was begun at this position: those before it are complete.
    Rotated(u64),
    /// The first process ended. The disk is full: neither the last of the log nor this is on it yet. Also
    /// what whoever connects meanwhile hears next after [`Event::Running`].
    Ended(ExitRecord),
    /// The first process ended; the log is complete.
    Exited(ExitRecord),
    /// The process of [`Request::Exec`] runs. With a terminal its descriptor comes along.
    ExecStarted {
        /// Its pid on the host.
        pid: i32,
    },
    /// It could not be started.
    ExecFailed(StartError),
    /// It ended.
    ExecExited {
        /// As a shell reports it: 128 + signal when one killed it.
        code: i32,
    },
    /// The answer to [`Request::FirstProcess`]; the descriptor comes along.
    FirstProcess,
    /// The signal of [`Request::Signal`] was sent.
    Signalled,
    /// [`Request::Discard`] was heard.
    Discarded,
    /// What [`Request::Hold`] asks for is kept from now on.
    Held(Option<u64>),
    /// A request could not be done.
    Refused(String),
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its first process, on the host.
    pub pid: i32,
    /// Its monitor.
    pub monitor_pid: i32,
    /// Nanoseconds since the epoch.
    pub started: u64,
    /// Length of the log when it began, bytes.
    pub log_start: u64,
}

/// How a container ended. Written to the container's folder before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// As a shell reports it: 128 + signal when one killed it.
    pub code: i32,
    /// The kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub started: u64,
    /// Nanoseconds since the epoch.
    pub finished: u64,
    /// Why it ended without an exit code of its own, else "".
    #[serde(default)]
    pub error: String,
}

impl ExitRecord {
    /// Of what did not end by itself: just now, for this reason.
    pub fn without_code(code: i32, started: u64, error: String) -> Self {
        let finished = super::now();
        Self {
            code,
            oom_killed: false,
            started: if started == 0 { finished } else { started },
            finished,
            error,
        }
    }

    /// Of a container whose monitor was killed: it had to go with it, how it would have ended is not known.
    pub fn without_monitor(started: u64) -> Self {
        let why = "the container's monitor was killed".to_owned();
        Self::without_code(137, started, why)
    }

    /// Leaves it for whoever looks later: the old one or the new one is there, never half of one.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        let temporary = file.with_extension("new");
        // Plain data with string keys: serialising cannot fail.
        std::fs::write(&temporary, serde_json::to_vec(self).unwrap_or_default())?;
        std::fs::rename(temporary, file)
    }

    /// Where it is left while the disk is full: beside the monitor's socket, which is usually in memory.
    pub fn beside(socket: &Path) -> PathBuf {
        socket.with_file_name(EXIT_FILE)
    }

    /// What a monitor left; none when it did not come to that.
    pub fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }
}

/// Serialises a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = vec![JSON];
    // Plain data with string keys: serialising cannot fail.
    bytes.extend(serde_json::to_vec(message).unwrap_or_default());
    bytes
}
