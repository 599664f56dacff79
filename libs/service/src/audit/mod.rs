//! Who did what, when, from where, and what came of it: a JSON object a line for each call that changes
//! something or was refused.
//!
//! Of a call its method is told, the names of what it is about, and how it ended; nothing else of what was sent:
//! requests have passwords in them.

mod fields;
pub mod file;
mod subject;
mod watch;

use std::time::{Duration, Instant};

use jiff::{Timestamp, Unit};
use serde_json::{Map, Value, json};
use tonic::{Code, Status, body::Body};

pub use file::AuditLog;
pub(crate) use watch::watched;

use crate::{
    error,
    identity::{Caller, Way},
};

/// A call that is to be told of. It is when this is dropped, as one that was broken off if nothing else is known.
#[derive(Debug)]
pub struct Entry {
    log: AuditLog,
    path: String,
    seen: subject::Seen,
    line: Map<String, Value>,
    begun: Instant,
    outcome: Outcome,
}

#[derive(Debug)]
struct Outcome {
    code: Code,
    reason: String,
}

impl Entry {
    /// Of a call that begins now.
    pub fn new(log: AuditLog, path: &str, caller: Option<&Caller>) -> Self {
        let mut line = Map::new();
        line.insert("method".into(), path.trim_start_matches('/').into());
        if let Some(caller) = caller {
            line.extend(told(caller));
        }
        Self {
            log,
            path: path.to_owned(),
            seen: subject::Seen::default(),
            line,
            begun: Instant::now(),
            outcome: Outcome {
                code: Code::Cancelled,
                reason: String::new(),
            },
        }
    }

    /// As [`new`](Self::new), of a call that was refused; `None` when there were too many of those just now, and the
    /// next line says how many.
    pub fn refused(log: AuditLog, path: &str, caller: Option<&Caller>) -> Option<Self> {
        log.admits_refused().then(|| Self::new(log, path, caller))
    }

    /// The same request, of whose first message the names are told.
    pub fn about(&mut self, body: Body) -> Body {
        let (seen, body) = subject::Seen::of(&self.path, body);
        self.seen = seen;
        body
    }

    /// Tells of it now, too: it may go on for hours, and its end may never come.
    pub fn tell_begin(&self) {
        self.write(json!({ "result": "begun" }));
    }

    /// How it ended, as a status says; the last word counts.
    pub fn ended(&mut self, status: &Status) {
        self.outcome = Outcome {
            code: status.code(),
            reason: error::reason(status),
        };
    }

    fn write(&self, more: Value) {
        let now = Timestamp::now().round(Unit::Millisecond);
        let mut line = Map::new();
        // Rounding fails at the end of time only.
        line.insert("time".into(), now.unwrap_or_default().to_string().into());
        line.extend(self.line.clone());
        let told = self.seen.told();
        if !told.names.is_empty() {
            line.insert("what".into(), told.names.into());
        }
        if told.truncated {
            line.insert("truncated".into(), true.into());
        }
        let left_out = self.log.left_out();
        if left_out > 0 {
            line.insert("left_out".into(), left_out.into());
        }
        line.extend(more.as_object().cloned().unwrap_or_default());
        self.log.write(&Value::from(line).to_string());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Outcome { code, reason } = &self.outcome;
        let mut end = json!({
            "result": name(*code),
            "milliseconds": milliseconds(self.begun.elapsed()),
        });
        if !reason.is_empty() {
            end["reason"] = reason.as_str().into();
        }
        self.write(end);
    }
}

fn told(caller: &Caller) -> Map<String, Value> {
    let mut line = Map::new();
    let mut tell = |key: &str, value: Value| line.insert(key.to_owned(), value);
    tell("who", caller.name.as_str().into());
    if let Some(role) = caller.role {
        tell("role", role.name().into());
    }
    match &caller.way {
        Way::Unix { pid } => {
            tell("by", "unix".into());
            if let Some(pid) = pid {
                tell("pid", (*pid).into());
            }
        }
        Way::Certificate { address, serial } => {
            tell("by", "certificate".into());
            tell("serial", serial.as_str().into());
            tell("from", address.to_string().into());
        }
        Way::Open { address } => {
            tell("by", "plain tcp".into());
            tell("from", address.to_string().into());
        }
    }
    line
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As the gRPC specification writes it (statuscodes.md).
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
