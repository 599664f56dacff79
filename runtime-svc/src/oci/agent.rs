//! A seccomp agent gets the descriptor by which it answers calls of a container's processes
//! (config-linux.md, "Containers Process State").

use std::{
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use rustix::{
    net::SendFlags,
    process::{Pid, PidfdGetfdFlags},
};
use serde::{Deserialize, Serialize};

use super::error::{Error, Tried as _};
use crate::sys::fdpass;

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
        let socket = UnixStream::connect(&self.path).tried(what)?;
        let message = message.to_string();
        let flags = SendFlags::empty();
        fdpass::send(&socket, message.as_bytes(), &[listener.as_fd()], flags).tried(what)
    }
}

/// The listener of a process, by its number there.
pub fn take(process: &OwnedFd, number: i32) -> Result<OwnedFd, Error> {
    rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
        .tried(|| "cannot take the seccomp listener".to_owned())
}
