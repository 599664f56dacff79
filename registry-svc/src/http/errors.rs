//! Domain errors as the Distribution API tells them (distribution-spec, "Error Codes"). The only place
//! that maps them to HTTP.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tracing::error;

use super::{body::Body, set};
use crate::error::Error;

/// Seconds until a client asks again when the bucket does not answer, this service is started anew, or others had too
/// much.
const RETRY_AFTER: &str = "5";

/// Status and code of an error.
fn code_of(error: &Error) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match error {
        Error::InvalidReference { .. } => (S::BAD_REQUEST, "NAME_INVALID"),
        Error::InvalidDigest(_) | Error::DigestMismatch { .. } => {
            (S::BAD_REQUEST, "DIGEST_INVALID")
        }
        Error::SizeMismatch { .. } => (S::BAD_REQUEST, "SIZE_INVALID"),
        Error::InvalidArgument(_) => (S::BAD_REQUEST, "UNSUPPORTED"),
        Error::ImageNotFound(_) | Error::ManifestNotFound(_) | Error::PlatformNotFound { .. } => {
            (S::NOT_FOUND, "MANIFEST_UNKNOWN")
        }
        Error::AmbiguousId { .. } => (S::BAD_REQUEST, "NAME_INVALID"),
        Error::BlobNotFound(_) | Error::PartUnknown(_) => (S::NOT_FOUND, "BLOB_UNKNOWN"),
        Error::RepositoryNotFound(_) | Error::PullDenied(_) => (S::NOT_FOUND, "NAME_UNKNOWN"),
        Error::ManifestBlobUnknown { .. } => (S::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
        Error::ManifestInvalid(_) | Error::ArchiveInvalid(_) => {
            (S::BAD_REQUEST, "MANIFEST_INVALID")
        }
        Error::TooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        Error::UploadNotFound(_) => (S::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        Error::UploadRange { .. } => (S::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        Error::UploadBusy(_) => (S::CONFLICT, "BLOB_UPLOAD_INVALID"),
        Error::Conflict(_) => (S::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        Error::Unauthorized { .. } | Error::PushDenied { .. } => (S::FORBIDDEN, "DENIED"),
        Error::RateLimited { .. } | Error::TooManyUploads(_) | Error::Busy => {
            (S::TOO_MANY_REQUESTS, "TOOMANYREQUESTS")
        }
        Error::UpstreamUnavailable { .. } => (S::BAD_GATEWAY, "UNKNOWN"),
        Error::Bucket(_) | Error::Stopping => (S::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Error::Interrupted(_) => (S::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            (S::INSUFFICIENT_STORAGE, "UNKNOWN")
        }
        Error::Io { .. } | Error::Index(_) | Error::Damaged { .. } => {
            (S::INTERNAL_SERVER_ERROR, "UNKNOWN")
        }
        Error::Shared(inner) => code_of(inner),
    }
}

/// What is said of an error. Where this registry keeps its things is nobody's business who asks over HTTP: the log has
/// it.
fn sentence(error: &Error) -> String {
    let own = match error.root() {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            "the registry's disk is full (No space left on device): try again when there is room"
        }
        Error::Io { .. } | Error::Index(_) => "the registry failed: its log says how",
        Error::Bucket(_) => "the bucket cannot be used now: try again, the registry's log says why",
        _ => return error.to_string(),
    };
    own.to_owned()
}

/// The response that tells an error.
pub fn response(error: &Error) -> Response<Body> {
    let (status, code) = code_of(error);
    if status.is_server_error() {
        error!(%error, "request failed");
    }
    match error.root() {
        Error::ManifestBlobUnknown { digests } => {
            let message = "the manifest names what is not here: push it first";
            let each = digests.iter().map(|digest| {
                json!({ "code": code, "message": message, "detail": { "digest": digest } })
            });
            told(status, each.collect())
        }
        Error::UploadRange { expected, .. } => {
            let mut response = plain(status, code, &error.to_string());
            let range = format!("0-{}", expected.saturating_sub(1));
            set(&mut response, "range", range);
            response
        }
        Error::RateLimited {
            retry_after: Some(after),
            ..
        } => {
            let mut response = plain(status, code, &error.to_string());
            set(&mut response, "retry-after", after.as_secs().to_string());
            response
        }
        Error::Bucket(_)
        | Error::Stopping
        | Error::RateLimited { .. }
        | Error::TooManyUploads(_) => {
            let mut response = plain(status, code, &sentence(error));
            set(&mut response, "retry-after", RETRY_AFTER);
            response
        }
        Error::Busy => {
            let mut response = plain(status, code, &error.to_string());
            set(&mut response, "retry-after", "1");
            response
        }
        Error::Conflict(_) => {
            let mut response = plain(status, code, &error.to_string());
            set(&mut response, "allow", "GET, HEAD");
            response
        }
        _ => plain(status, code, &sentence(error)),
    }
}

/// A response with one error.
pub fn plain(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let error = json!({ "code": code, "message": message, "detail": null });
    told(status, vec![error])
}

fn told(status: StatusCode, errors: Vec<serde_json::Value>) -> Response<Body> {
    let body = json!({ "errors": errors });
    let mut response = Response::new(Body::Whole(body.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_where_the_registry_keeps_its_things() {
        let of = |kind: std::io::ErrorKind| {
            Error::io("cannot write", "/var/lib/secret/x")(std::io::Error::from(kind))
        };
        let bucket = || Error::Bucket("https://s3.secret/bucket answered 403".to_owned());
        for (error, status) in [
            (of(std::io::ErrorKind::PermissionDenied), 500),
            (of(std::io::ErrorKind::StorageFull), 507),
            (bucket(), 503),
            (Error::Shared(std::sync::Arc::new(bucket())), 503),
            (Error::Stopping, 503),
        ] {
            let response = response(&error);
            assert_eq!(response.status(), status);
            let again = response.headers().contains_key("retry-after");
            assert_eq!(again, status == 503);
            let Body::Whole(told) = response.into_body() else {
                panic!("no sentence")
            };
            let told = String::from_utf8(told.to_vec()).unwrap();
            assert!(
                !told.contains("secret") && told.contains("registry"),
                "{told}"
            );
        }
    }
}
