//! What can go wrong in a build, as callers can act on it.

/// Any failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Dockerfile that cannot be understood: a sentence with its place, an excerpt on further lines.
    #[error("{0}")]
    Dockerfile(String),
    /// A request that cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// Something that we don't support yet.
    #[error("{0}")]
    Unsupported(String),
    /// A source of COPY or ADD that is not there.
    #[error("{0}")]
    SourceMissing(String),
    /// A RUN ended with another code than 0.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Exit {
        /// What ran, or its beginning.
        command: String,
        /// Exit code.
        code: i32,
    },
    /// What another service said.
    #[error("{what}: {message}")]
    Remote {
        /// What was tried.
        what: String,
        /// Its gRPC code.
        code: i32,
        /// Its reason, "" when it gave none.
        reason: String,
        /// Its sentence.
        message: String,
    },
    /// There is no worker for a step.
    #[error("{0}")]
    NoWorker(String),
    /// The worker went away, or forgot the build.
    #[error(
        "{what}: the worker (runtime-svc) was lost in the middle of the build ({why}). Build again: steps that \
         were done are cached"
    )]
    WorkerLost {
        /// What was tried.
        what: String,
        /// What is known of it.
        why: String,
    },
    /// The caller did not send what the build needs.
    #[error("{0}")]
    Context(String),
    /// Not possible now.
    #[error("{0}")]
    Conflict(String),
    /// The host's own trouble.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// An error with its place in the Dockerfile.
    #[error("{text}")]
    At {
        /// Sentence, place and excerpt.
        text: String,
        /// What it was.
        source: Box<Error>,
    },
}

/// What this service's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error itself, without its place.
    pub fn root(&self) -> &Self {
        match self {
            Self::At { source, .. } => source.root(),
            other => other,
        }
    }
}

/// Attaches what was tried to a system error.
pub trait Tried<T> {
    /// `what` names the thing.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Tried<T> for std::result::Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::Io {
            what: what(),
            source: e.into(),
        })
    }
}
