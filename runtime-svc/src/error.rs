//! What can go wrong in this service, as callers can act on it.

use crate::executor::StartError;

/// Any failure. The sentences are docker's where docker has one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container of that name or id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// It is there, and nobody knows what it is.
    #[error(
        "the record of container {0} cannot be read, and what it may use is kept: see the log of runtime-svc, or \
         remove the container with rm -f, which also ends what runs of it"
    )]
    Unreadable(String),
    /// A prefix that fits several ids.
    #[error("multiple containers found with provided prefix: {0}")]
    AmbiguousId(String),
    /// The name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to \
         remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// A request that cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// An option that we don't support yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// No volume of that name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// Containers have it.
    #[error("remove {name}: volume is in use - [{users}]")]
    VolumeInUse {
        /// The volume.
        name: String,
        /// Who has it.
        users: String,
    },
    /// Nothing is there.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchPath {
        /// The path.
        path: String,
        /// In which container.
        container: String,
    },
    /// The container is not in the state that the request needs.
    #[error("{0}")]
    Conflict(String),
    /// No lease of that id.
    #[error("there is no lease {0}: it has lapsed, or runtime-svc was started anew")]
    NoSuchLease(String),
    /// No snapshot of that id.
    #[error("there is no snapshot {0}: it was released, or its lease has ended")]
    NoSuchSnapshot(String),
    /// It was released, or its lease ended, while something was done with it.
    #[error("snapshot {0} was taken back meanwhile: it was released, or its lease has ended")]
    SnapshotEnded(String),
    /// Other snapshots are based upon it.
    #[error("snapshot {0} cannot be changed any more: others are based upon it")]
    SnapshotInUse(String),
    /// A lease has as much as it may.
    #[error("{0}")]
    LeaseLimit(String),
    /// Its monitor was killed while it started.
    #[error("cannot start container {0}: the container's monitor was killed")]
    NoMonitor(String),
    /// The program could not be started.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The registry's answer.
    #[error("{}", .0.message())]
    Registry(Box<Remote>),
    /// netd's answer to what it was only asked.
    #[error("{}", .0.message())]
    Netd(Box<Remote>),
    /// netd's answer.
    #[error("failed to set up the network of container {container}: {}", status.message())]
    Network {
        /// Whose.
        container: String,
        /// What it said.
        status: Box<Remote>,
    },
    /// A layer was refused.
    #[error("layer {digest}: {why}")]
    Layer {
        /// Which.
        digest: String,
        /// Why.
        why: String,
    },
    /// The host's own trouble.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the same request may succeed a moment later: a service was away, a transfer broke.
    pub fn may_pass(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Registry(remote) => !matches!(
                Code::from_i32(remote.code),
                Code::NotFound
                    | Code::InvalidArgument
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::FailedPrecondition
                    | Code::OutOfRange
                    | Code::Unimplemented
                    | Code::DataLoss
            ),
            _ => false,
        }
    }
}

/// An answer of another service that is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// gRPC code.
    pub code: i32,
    /// Reason, "" when it gave none.
    pub reason: String,
    /// Sentence.
    message: String,
}

impl Remote {
    /// From its parts.
    pub const fn new(code: i32, reason: String, message: String) -> Self {
        Self {
            code,
            reason,
            message,
        }
    }

    /// Of a service that did not answer.
    pub fn away(message: String) -> Self {
        let reason = slipway_service::error::SERVICE_UNAVAILABLE.to_owned();
        Self::new(tonic::Code::Unavailable as i32, reason, message)
    }

    /// As an error of netd's.
    pub fn into_netd(self) -> Error {
        Error::Netd(Box::new(self))
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Error {
    /// Whether netd did not answer: what it was asked for may be done or not.
    pub fn is_away(&self) -> bool {
        let unavailable = tonic::Code::Unavailable as i32;
        matches!(self, Self::Netd(remote) if remote.code == unavailable)
    }
}

/// Attaches what was tried to a system error.
pub trait Tried<T> {
    /// `what` names the thing.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<std::io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::Io {
            what: what(),
            source: e.into(),
        })
    }
}
