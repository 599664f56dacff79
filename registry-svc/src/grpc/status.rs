//! Domain errors as gRPC statuses with a reason. The only place that maps them.

use slipway_service::error::{status, status_with};
use tonic::{Code, Status};

use crate::error::Error;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        of(&error)
    }
}

/// The status that tells an error.
pub fn of(error: &Error) -> Status {
    use Code as C;
    let message = error.to_string();
    match error.root() {
        Error::InvalidReference { .. } => status(C::InvalidArgument, "INVALID_REFERENCE", message),
        Error::InvalidDigest(_) => status(C::InvalidArgument, "INVALID_DIGEST", message),
        Error::InvalidArgument(_) => status(C::InvalidArgument, "INVALID_ARGUMENT", message),
        Error::ImageNotFound(image) => status_with(
            C::NotFound,
            "IMAGE_NOT_FOUND",
            message,
            [("image", image.clone())],
        ),
        Error::AmbiguousId { prefix, .. } => status_with(
            C::InvalidArgument,
            "AMBIGUOUS_ID",
            message,
            [("prefix", prefix.clone())],
        ),
        Error::ManifestNotFound(name) => status_with(
            C::NotFound,
            "MANIFEST_NOT_FOUND",
            message,
            [("image", name.clone())],
        ),
        Error::PlatformNotFound { name, platform } => status_with(
            C::NotFound,
            "PLATFORM_NOT_FOUND",
            message,
            [("image", name.clone()), ("platform", platform.clone())],
        ),
        Error::BlobNotFound(digest) => status_with(
            C::NotFound,
            "BLOB_NOT_FOUND",
            message,
            [("digest", digest.to_string())],
        ),
        Error::Damaged { digest, .. } => status_with(
            C::DataLoss,
            "BLOB_DAMAGED",
            message,
            [("digest", digest.to_string())],
        ),
        Error::PartUnknown(_) => status(C::FailedPrecondition, "PART_UNKNOWN", message),
        Error::RepositoryNotFound(_) => status(C::NotFound, "REPOSITORY_NOT_FOUND", message),
        Error::ManifestBlobUnknown { digests } => status_with(
            C::FailedPrecondition,
            "BLOB_NOT_FOUND",
            message,
            [(
                "digest",
                digests
                    .iter()
                    .map(|d| d.to_string())
                    .next()
                    .unwrap_or_default(),
            )],
        ),
        Error::ManifestInvalid(_) => status(C::InvalidArgument, "MANIFEST_INVALID", message),
        Error::ArchiveInvalid(_) => status(C::InvalidArgument, "ARCHIVE_INVALID", message),
        Error::TooLarge { .. } => status(C::InvalidArgument, "TOO_LARGE", message),
        Error::DigestMismatch { expected, actual } => status_with(
            C::DataLoss,
            "DIGEST_MISMATCH",
            message,
            [
                ("expected", expected.to_string()),
                ("actual", actual.to_string()),
            ],
        ),
        Error::SizeMismatch { .. } => status(C::DataLoss, "SIZE_MISMATCH", message),
        Error::UploadNotFound(_) => status(C::NotFound, "UPLOAD_NOT_FOUND", message),
        Error::UploadRange { .. } => status(C::OutOfRange, "UPLOAD_RANGE", message),
        Error::UploadBusy(_) => status(C::Aborted, "UPLOAD_BUSY", message),
        Error::TooManyUploads(_) => status(C::ResourceExhausted, "TOO_MANY_UPLOADS", message),
        Error::Busy => status(C::ResourceExhausted, "BUSY", message),
        Error::Conflict(_) => status(C::FailedPrecondition, "CONFLICT", message),
        Error::PullDenied(_) => status(C::NotFound, "PULL_DENIED", message),
        Error::Unauthorized { host, .. } => status_with(
            C::Unauthenticated,
            "UNAUTHORIZED",
            message,
            [("host", host.clone())],
        ),
        Error::PushDenied { .. } => status(C::PermissionDenied, "PUSH_DENIED", message),
        Error::UpstreamUnavailable { host, .. } => status_with(
            C::Unavailable,
            "UPSTREAM_UNAVAILABLE",
            message,
            [("host", host.clone())],
        ),
        Error::Bucket(_) => status(C::Unavailable, "STORE_UNAVAILABLE", message),
        Error::RateLimited { host, .. } => status_with(
            C::ResourceExhausted,
            "RATE_LIMITED",
            message,
            [("host", host.clone())],
        ),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            status(C::ResourceExhausted, "DISK_FULL", message)
        }
        Error::Io { .. } | Error::Index(_) => status(C::Internal, "STORE_FAILED", message),
        Error::Interrupted(_) => status(C::Aborted, "INTERRUPTED", message),
        Error::Stopping => status(C::Unavailable, "STOPPING", message),
        Error::Shared(inner) => of(inner),
    }
}
