//! How a command fails: one sentence for stderr and an exit code, or an exit code alone.

use std::error::Error as _;

use tonic::{Code, Status};

use slipway_service::tls::client::TROUBLE;

use crate::client::Unreachable;

/// Result of every command: what it exits with when it worked.
pub type Outcome<T = u8> = Result<T, Failure>;

/// A command that did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Shown as `Error: ...`; empty = everything was said already.
    pub text: String,
    /// Exit code.
    pub code: u8,
}

impl Failure {
    /// A sentence; exit code 1.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: 1,
        }
    }

    /// Nothing to say: everything was said.
    pub fn silent(code: u8) -> Self {
        Self {
            text: String::new(),
            code,
        }
    }

    /// The same with another exit code.
    #[must_use]
    pub fn exits(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = exit_code(&status);
        Self {
            text: one_line(&sentence(&status)),
            code,
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::new(one_line(&text))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// docker's codes for commands that could not run; 1 for the rest.
fn exit_code(status: &Status) -> u8 {
    if let Some(code) = slipway_service::error::metadata(status, "exit_code")
        && let Ok(code) = code.parse()
    {
        return code;
    }
    match slipway_service::error::reason(status).as_str() {
        "COMMAND_NOT_FOUND" => 127,
        "COMMAND_NOT_EXECUTABLE" => 126,
        _ => 1,
    }
}

fn sentence(status: &Status) -> String {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(unreachable) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<Unreachable>())
        {
            return unreachable.to_string();
        }
        // Of our certificate a server may say what it thinks after we have begun to send.
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == TROUBLE
            && error.get_ref().is_some()
        {
            return error.to_string();
        }
        source = error.source();
    }
    if status.source().is_some() && matches!(status.code(), Code::Unavailable | Code::Unknown) {
        return "the service went away before it answered: see its log, and start it with: ctl up"
            .to_owned();
    }
    match (status.code(), status.message()) {
        (Code::Unimplemented, "") => {
            "this service does not know the call: is it an older version? See: ctl version"
                .to_owned()
        }
        (code, "") => format!("the service answered {code:?} without a reason: see its log"),
        (_, text) => text.to_owned(),
    }
}

/// Messages of services may quote what users wrote: one line stays one line.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r'])
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_becomes_one_line_and_dockers_code() {
        let status = slipway_service::error::status(
            Code::NotFound,
            "COMMAND_NOT_FOUND",
            "\"x\" was not\nfound",
        );
        let failure = Failure::from(status);
        assert_eq!(failure.text, "\"x\" was not | found");
        assert_eq!(failure.code, 127);
    }

    #[test]
    fn an_empty_status_still_says_something() {
        assert!(!Failure::from(Status::internal("")).text.is_empty());
    }
}
