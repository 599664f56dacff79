//! A seccomp agent gets the descriptor by which it answers calls of a container's processes
//! (config-linux.md, "Containers Process State").
//!
//! An agent may be there and do nothing. It gets so long, [`PATIENCE`], to take the descriptor, and so long to
//! let a process of ours get to its program: a call that waits for an answer waits without end (seccomp_unotify(2)).

use std::{io, os::fd::AsFd, os::fd::OwnedFd, path::PathBuf, time::Duration};

use rustix::{
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{self, Timeout},
    },
    process::{Pid, PidfdGetfdFlags},
};
use serde::{Deserialize, Serialize};

use super::error::{Error, Tried as _};
use crate::{executor::plan::Hooks, sys::fdpass};

/// How long an agent has.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its socket.
    pub path: PathBuf,
    /// What it is told besides.
    pub metadata: String,
}

impl Agent {
    /// Sends it the descriptor, of which process it is, and the state of the container.
    pub fn tell(&self, state: &str, pid: Pid, listener: &OwnedFd) -> Result<(), Error> {
        let what = || {
            format!(
                "cannot hand the seccomp listener to {}",
                self.path.display()
            )
        };
        let state: serde_json::Value = serde_json::from_str(state).map_err(Error::invalid)?;
        let message = serde_json::json!({
            "ociVersion": state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": pid.as_raw_pid(),
            "metadata": self.metadata,
            "state": state,
        });
        let sent = (|| {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            // Also of connect(2), which waits while as many as the agent wants have not been accepted.
            sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
            let address = SocketAddrUnix::new(&self.path)?;
            rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
            let (message, flags) = (message.to_string(), SendFlags::empty());
            fdpass::send(&socket, message.as_bytes(), &[listener.as_fd()], flags)
        })();
        match sent {
            Err(e) if late(&e) => Err(self.silent("take the listener")),
            sent => sent.tried(what),
        }
    }

    /// From here on what is heard by this socket waits for the agent, no longer than that.
    pub fn limit(&self, report: impl AsFd, patience: Option<Duration>) -> Result<(), Error> {
        sockopt::set_socket_timeout(report, Timeout::Recv, patience)
            .tried(|| "cannot limit how long the seccomp agent is waited for".to_owned())
    }

    /// How long it has from the gate to the program: hooks on that way have timeouts of their own.
    pub fn patience(&self, hooks: &Hooks) -> Option<Duration> {
        hooks.start_container.is_empty().then_some(PATIENCE)
    }

    /// It did nothing for so long.
    pub fn silent(&self, what: &str) -> Error {
        Error::Conflict(format!(
            "the seccomp agent {} did not {what} within {} s",
            self.path.display(),
            PATIENCE.as_secs()
        ))
    }

    /// It did not let a process get to its program.
    pub fn held_up(&self) -> Error {
        self.silent("let the process get to its program")
    }
}

/// Whether that is the end of a wait that is limited (socket(7), SO_RCVTIMEO).
pub fn late(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// The listener of a process, by its number there.
pub fn take(process: &OwnedFd, number: i32) -> Result<OwnedFd, Error> {
    rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
        .tried(|| "cannot take the seccomp listener".to_owned())
}
