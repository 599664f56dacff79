//! What people are told when a bucket does not do what it should.

use std::error::Error as _;

use object_store::Error as S3Error;

use crate::error::Error;

/// What people are told of a failure.
pub fn failed(error: &S3Error) -> Error {
    let mut text = error.to_string();
    // Why nobody could be reached stands at the end of the chain.
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    Error::Bucket(sentence(&text))
}

/// There is no such object. Without a bucket nobody knows.
pub fn is_missing(error: &S3Error) -> bool {
    match error {
        S3Error::NotFound { source, .. } => code(&source.to_string()) != Some("NoSuchBucket"),
        _ => false,
    }
}

/// The error code of an answer (S3 API, "Error responses").
fn code(text: &str) -> Option<&str> {
    tagged(text, "Code")
}

fn tagged<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once('<')?.0)
}

/// What is to be done about an answer, where that is known.
pub fn sentence(text: &str) -> String {
    let Some(code) = code(text) else {
        return match text.contains("UnknownIssuer") {
            true => {
                "its certificate is of an authority that is not known here: set ca_file".to_owned()
            }
            false => text.to_owned(),
        };
    };
    let advice = match code {
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" => {
            "the server does not accept the keys: see credentials_file"
        }
        "AccessDenied" => {
            "the keys may not do that: they need to read, write, list and delete below the prefix"
        }
        "NoSuchBucket" => "the server has no bucket of that name: make it first",
        "RequestTimeTooSkewed" => {
            "this machine's clock and the server's are too far apart: set the clock"
        }
        "SlowDown" | "ServiceUnavailable" | "TooManyRequests" => "it is asked too much: try again",
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "IllegalLocationConstraintException" => "the bucket is in another region: see region",
        _ => {
            let message = tagged(text, "Message").filter(|m| !m.is_empty());
            return match message {
                Some(message) => format!("{message} ({code})"),
                None => format!("the server answered {code}"),
            };
        }
    };
    format!("{advice} ({code})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_to_do() {
        for (text, told) in [
            (
                "403 Forbidden: <Error><Code>InvalidAccessKeyId</Code><RequestId>1</RequestId>",
                "the server does not accept the keys: see credentials_file (InvalidAccessKeyId)",
            ),
            (
                "<Error><Code>NoSuchBucket</Code><Message></Message></Error>",
                "the server has no bucket of that name: make it first (NoSuchBucket)",
            ),
            (
                "<Error><Code>QuotaExceeded</Code><Message></Message></Error>",
                "the server answered QuotaExceeded",
            ),
            (
                "<Error><Code>KeyTooLongError</Code><Message>Your key is too long</Message>",
                "Your key is too long (KeyTooLongError)",
            ),
            (
                "error sending request: invalid peer certificate: UnknownIssuer",
                "its certificate is of an authority that is not known here: set ca_file",
            ),
            ("connection refused", "connection refused"),
        ] {
            assert_eq!(sentence(text), told);
        }
    }
}
