//! What can go wrong in the registry's domain: one variant for each thing that a caller can act on.

use std::{path::PathBuf, time::Duration};

use slipway_image::Digest;

use crate::{mirror::Scope, names::Repository};

/// Result of a domain operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A domain error. `http/errors.rs` and `grpc/status.rs` translate it, each in one place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not docker's grammar.
    #[error("invalid reference format: {reason}: {text:?}")]
    InvalidReference {
        /// What was given.
        text: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// Not a digest, or one of an algorithm that is not supported.
    #[error("invalid digest {0:?}: write sha256:<64 hex digits> or sha512:<128 hex digits>")]
    InvalidDigest(String),
    /// A parameter that makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// No image of that name or id.
    #[error("No such image: {0}")]
    ImageNotFound(String),
    /// An id prefix that several images share.
    #[error("image id prefix {prefix:?} is ambiguous: {matches} images begin with it")]
    AmbiguousId {
        /// The prefix.
        prefix: String,
        /// How many images match.
        matches: usize,
    },
    /// No manifest of that tag or digest.
    #[error("manifest for {0} not found: manifest unknown")]
    ManifestNotFound(String),
    /// The index has nothing for the platform.
    #[error("no matching manifest for {platform} in the manifest list entries of {name}")]
    PlatformNotFound {
        /// The image.
        name: String,
        /// What was asked for.
        platform: String,
    },
    /// No blob of that digest here.
    #[error("blob {0} unknown to this registry")]
    BlobNotFound(Digest),
    /// What the store has of a blob is not what it should be.
    #[error("blob {digest} is damaged: {why}; see ctl registry fsck")]
    Damaged {
        /// Which.
        digest: Digest,
        /// What is wrong.
        why: String,
    },
    /// A part that a blob was to be made of.
    #[error("part {0} is not here (any more): send it")]
    PartUnknown(Digest),
    /// No repository of that name here.
    #[error("repository {0} is not known to this registry")]
    RepositoryNotFound(Repository),
    /// A manifest names content that is not here.
    #[error(
        "the manifest names {}, which is not here: push it first",
        list(digests)
    )]
    ManifestBlobUnknown {
        /// What is missing, at least one.
        digests: Vec<Digest>,
    },
    /// A manifest whose bytes do not fit its media type, or are no manifest.
    #[error("manifest invalid: {0}")]
    ManifestInvalid(String),
    /// An archive of images that is not one, or not sound.
    #[error("invalid archive: {0}")]
    ArchiveInvalid(String),
    /// Larger than a limit allows.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Bytes.
        limit: u64,
    },
    /// Content is not what its digest says.
    #[error("content does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// As promised.
        expected: Digest,
        /// As computed.
        actual: Digest,
    },
    /// Content has another size than promised.
    #[error("content has {actual} bytes where {expected} were promised")]
    SizeMismatch {
        /// As promised.
        expected: u64,
        /// As counted.
        actual: u64,
    },
    /// No upload session of that id in that repository.
    #[error("upload {0} is not known: it ended, expired or belongs to another repository")]
    UploadNotFound(String),
    /// A chunk that does not begin where the session ends, or does not say so.
    #[error("{reason}, but the upload stands at {expected}")]
    UploadRange {
        /// What is wrong with it.
        reason: String,
        /// Where the session ends.
        expected: u64,
    },
    /// Two requests write to one session at once.
    #[error("upload {0} is being written by another request")]
    UploadBusy(String),
    /// One caller has more under way than he may.
    #[error("too many uploads: {0}")]
    TooManyUploads(String),
    /// More is asked for at once than there may be.
    #[error("too many requests are under way: try again in a moment")]
    Busy,
    /// docker's refusal to remove what others use.
    #[error("{0}")]
    Conflict(String),
    /// Upstream said no: no such repository, or not for us.
    #[error("pull access denied for {0}, repository does not exist or may require 'docker login'")]
    PullDenied(String),
    /// The remote did not take our credentials.
    #[error("unauthorized: {host} did not accept the credentials: {message}")]
    Unauthorized {
        /// The registry.
        host: String,
        /// What it said.
        message: String,
    },
    /// Push was refused by the remote.
    #[error("denied: requested access to {name} is denied: {message}")]
    PushDenied {
        /// What was pushed.
        name: String,
        /// What the remote said.
        message: String,
    },
    /// Upstream cannot be reached, or answers nonsense.
    #[error("{host} is unavailable: {message}")]
    UpstreamUnavailable {
        /// The registry.
        host: String,
        /// What happened.
        message: String,
        /// What does not answer.
        scope: Scope,
    },
    /// Upstream counts requests and we had too many.
    #[error("{host} answers 429, too many requests: try again later, or log in there")]
    RateLimited {
        /// The registry.
        host: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The index failed.
    #[error("the index database failed: {0}; restart registry-svc to rebuild it from the files")]
    Index(#[from] sled::Error),
    /// The bucket that everything is in does not answer, or answers nonsense.
    #[error("the bucket cannot be used now: {0}")]
    Bucket(String),
    /// The transfer of content into the registry broke off.
    #[error("the transfer broke off: {0}")]
    Interrupted(String),
    /// Whoever asks again finds the next instance.
    #[error("registry-svc is stopping: try again")]
    Stopping,
    /// A shared transfer failed for everyone who waited for it.
    #[error("{0}")]
    Shared(std::sync::Arc<Error>),
}

impl Error {
    /// Makes an [`Error::Io`]; for `map_err`.
    pub fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// The error itself, where several waited for one transfer.
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(inner) => inner.root(),
            other => other,
        }
    }

    /// What came from upstream is not what it must be: that is no fault of whoever asked here.
    pub fn of_upstream(self, host: &str) -> Self {
        match self.root() {
            Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::ManifestInvalid(_)
            | Self::TooLarge { .. }
            | Self::InvalidDigest(_)
            | Self::Interrupted(_) => Self::UpstreamUnavailable {
                host: host.to_owned(),
                message: self.to_string(),
                scope: Scope::Repository,
            },
            _ => self,
        }
    }

    /// Upstream is the problem and what is here may be served instead.
    pub fn is_upstream_down(&self) -> bool {
        matches!(
            self.root(),
            Self::UpstreamUnavailable { .. } | Self::RateLimited { .. }
        )
    }
}

fn list(digests: &[Digest]) -> String {
    let digests: Vec<_> = digests.iter().map(Digest::to_string).collect();
    digests.join(", ")
}

impl From<std::sync::Arc<Error>> for Error {
    fn from(shared: std::sync::Arc<Error>) -> Self {
        Self::Shared(shared)
    }
}
