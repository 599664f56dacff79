//! When the worker is gone in the middle of a build.

use slipway_service::error::{SERVICE_UNAVAILABLE, is_away, reason};
use tonic::Status;

use crate::{error::Error, registry::remote};

/// What a worker said that it does not have any more, or cannot reach: another one may.
const LOST: [&str; 4] = [
    "LEASE_NOT_FOUND",
    "SNAPSHOT_NOT_FOUND",
    "SNAPSHOT_ENDED",
    SERVICE_UNAVAILABLE,
];

/// A worker's answer as an error of ours. A root filesystem that is gone cannot be made again in the middle
/// of a step: the step is done again elsewhere, or there.
pub fn failed(what: String, status: &Status) -> Error {
    match is_away(status) || LOST.contains(&&*reason(status)) {
        true => Error::WorkerLost {
            what,
            why: status.message().to_owned(),
        },
        false => remote(what, status),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn who_is_gone_and_who_refuses() {
        let lost = |status| matches!(failed("x".to_owned(), &status), Error::WorkerLost { .. });
        let said = |code, reason| slipway_service::error::status(code, reason, "no".to_owned());
        assert!(lost(Status::unavailable("transport error")));
        assert!(lost(Status::unknown("h2 protocol error")));
        assert!(lost(said(Code::NotFound, "LEASE_NOT_FOUND")));
        assert!(lost(said(Code::Aborted, "SNAPSHOT_ENDED")));
        assert!(lost(said(Code::Unavailable, "SERVICE_UNAVAILABLE")));
        assert!(!lost(said(Code::Unavailable, "UPSTREAM_UNAVAILABLE")));
        assert!(!lost(said(Code::ResourceExhausted, "LEASE_LIMIT")));
        assert!(!lost(Status::invalid_argument("no")));
    }
}
