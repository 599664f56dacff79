//! How a domain error crosses gRPC, and how it is read on the other side.
//!
//! A status carries one sentence for people and a `google.rpc.ErrorInfo` for programs: `reason` in
//! UPPER_SNAKE_CASE, `domain` [`DOMAIN`], and the names that the sentence mentions.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "slipway.dev";

/// The reason of a status that says: another service, which is needed for this one's answer, is away.
pub const SERVICE_UNAVAILABLE: &str = "SERVICE_UNAVAILABLE";

/// A status with a machine-readable reason.
///
/// `reason` is UPPER_SNAKE_CASE and part of the contract; `message` is one sentence, without a full
/// stop at the end, that says what to do where something can be done.
pub fn status(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    status_with(code, reason, message, [])
}

/// As [`status`], with names and values that programs may want.
pub fn status_with<const N: usize>(
    code: Code,
    reason: &'static str,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let metadata = metadata.into_iter().map(|(k, v)| (k.to_owned(), v));
    with_info(code, reason, message.into(), metadata.collect())
}

/// What another service said, under its own code and reason.
pub fn passed_on(code: Code, reason: &str, message: impl Into<String>) -> Status {
    with_info(code, reason, message.into(), HashMap::new())
}

fn with_info(
    code: Code,
    reason: &str,
    message: String,
    metadata: HashMap<String, String>,
) -> Status {
    let info = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    // The message is in a header of its own: twice it would soon be too long.
    let details = Status::with_error_details(code, "", info);
    Status::with_details(code, bounded(message), details.details().to_vec().into())
}

/// Most bytes of a message. It travels in a header, where a byte may take three, and of all headers together
/// peers take 16 KiB: of a longer one nothing would arrive.
const LONGEST: usize = 4 << 10;

fn bounded(mut message: String) -> String {
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push_str("...");
    }
    message
}

/// The reason that a status carries, "" when it is none of ours.
pub fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// Whether nobody has answered, or not to the end: services give a reason, so one without is the transport's
/// own. What was asked for may be done or not.
pub fn is_away(status: &Status) -> bool {
    let transports = [
        Code::Unavailable,
        Code::Unknown,
        Code::Internal,
        Code::Cancelled,
    ];
    transports.contains(&status.code()) && reason(status).is_empty()
}

/// A value from the status's metadata.
pub fn metadata(status: &Status, key: &str) -> Option<String> {
    status
        .get_details_error_info()
        .and_then(|mut info| info.metadata.remove(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_and_metadata_survive_the_wire() {
        let sent = status_with(
            Code::NotFound,
            "IMAGE_NOT_FOUND",
            "No such image: x",
            [("image", "x".to_owned())],
        );
        assert_eq!(reason(&sent), "IMAGE_NOT_FOUND");
        assert_eq!(metadata(&sent, "image").as_deref(), Some("x"));
        assert_eq!(reason(&Status::internal("plain")), "");
    }

    #[test]
    fn a_long_message_is_cut_and_goes_once() {
        let long = "é ".repeat(10_000);
        let sent = status(Code::Internal, "X", long.as_str());
        assert!(long.starts_with(sent.message().trim_end_matches('.')));
        assert!(sent.message().len() <= LONGEST + 3);
        assert_eq!(reason(&sent), "X");
        assert!(sent.details().len() < 200);
    }

    #[test]
    fn who_is_away_and_who_refuses() {
        // What tonic says when a service is killed in the middle of a call.
        assert!(is_away(&Status::unknown("transport error")));
        assert!(is_away(&Status::unavailable("tcp connect error")));
        assert!(is_away(&Status::internal("h2 protocol error")));
        assert!(!is_away(&status(Code::Unavailable, "RATE_LIMITED", "no")));
        assert!(!is_away(&Status::invalid_argument("no")));
    }
}
