//! Why a verb could not do what it was asked.

use std::{fmt, io};

use crate::executor::StartError;

/// A sentence for whoever called.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// containerd looks for "does not exist".
    #[error("container {0:?} does not exist")]
    Missing(String),
    /// Two containers of one name.
    #[error("container with id exists: {0}")]
    Exists(String),
    /// containerd looks for "container not running".
    #[error("container not running: {0}")]
    NotRunning(String),
    /// It is not in the state for that.
    #[error("{0}")]
    Conflict(String),
    /// The bundle, a file or an option is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Right, but not offered here.
    #[error("{0}")]
    Unsupported(String),
    /// The container's first process, or a further one, could not be made.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system refused something.
    #[error("{0}: {1}")]
    System(String, io::Error),
}

impl Error {
    /// Bad input.
    pub fn invalid(what: impl fmt::Display) -> Self {
        Self::Invalid(what.to_string())
    }
}

/// Attaches what was tried to a system error.
pub trait Tried<T> {
    /// `what` names the thing and the path or value that matters.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::System(what(), e.into()))
    }
}
