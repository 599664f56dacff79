//! Makes a process a container: what is to be done ([`plan`]), and the doing of it ([`init`]).
//!
//! A [`plan::ContainerPlan`] is a plain value that says everything; nothing here decides. The steps of
//! a start stand in [`init`] in the order in which they happen, each in a file of its own: root file
//! system and mounts ([`rootfs`], [`mounts`], [`copy_up`], [`dev`], [`protect`]), then who the process is
//! ([`user`], [`capabilities`], [`seccomp`]), then the exec ([`launch`]), as a child of an init if that is asked
//! for ([`reaper`]). Where the caller is an OCI runtime's, its programs run on the way ([`hooks`]), and just
//! before the exec the process waits for its start ([`gate`]).
//!
//! Architecture invariants: nothing here knows gRPC, images, or where state is kept; all code runs in
//! single-threaded processes; every path inside a root file system is resolved from a descriptor with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`.

pub mod capabilities;
pub mod copy_up;
pub mod dev;
pub mod gate;
pub mod hooks;
pub mod init;
pub mod join;
pub mod launch;
pub mod mounts;
pub mod nodes;
pub mod plan;
pub mod procfs;
pub mod protect;
pub mod reaper;
pub mod rootfs;
pub mod seccomp;
pub mod user;
pub mod userns;

use std::io;

/// Why a process could not become a container. Crosses from the new process to the service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum StartError {
    /// The program is not there: docker's exit code 127. The sentence is docker's.
    #[error("exec: {0:?}: {1}")]
    NotFound(String, String),
    /// The program is there but cannot be run: docker's exit code 126.
    #[error("exec: {0:?}: {1}")]
    NotExecutable(String, String),
    /// Everything else: what was tried and why it failed.
    #[error("{step}: {why}")]
    Failed {
        /// What was tried, with the name that matters.
        step: String,
        /// The system's answer.
        why: String,
    },
}

/// Attaches what was tried to a system error.
pub(crate) trait Step<T> {
    /// `step` names the thing and the path or value that matters.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StartError> {
        self.map_err(|e| StartError::Failed {
            step: step(),
            why: e.into().to_string(),
        })
    }
}
