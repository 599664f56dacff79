//! What the answers of a foreign registry mean.

use http::StatusCode;
use reqwest::Response;

use super::Client;
use crate::error::{Error, Result};

impl Client {
    /// An error in the middle of a body.
    pub fn broken(&self, error: &reqwest::Error) -> Error {
        unavailable(&self.host, error)
    }

    pub(super) fn nonsense(&self, what: &str) -> Error {
        Error::UpstreamUnavailable {
            host: self.host.clone(),
            message: format!("it answered with {what}"),
        }
    }

    pub(super) fn failed(&self, status: StatusCode) -> Error {
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Error::RateLimited {
                host: self.host.clone(),
            };
        }
        Error::UpstreamUnavailable {
            host: self.host.clone(),
            message: format!("it answered {status}"),
        }
    }

    /// Turns an answer that is no success into an error.
    pub(super) async fn check(&self, response: Response, path: &str) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let name = format!("{}/{path}", self.host);
        let writing = response.url().path().contains("/blobs/uploads/");
        match status {
            StatusCode::NOT_FOUND => Err(Error::ManifestNotFound(name)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if writing => Err(Error::PushDenied {
                name,
                message: message_of(response).await,
            }),
            StatusCode::UNAUTHORIZED if self.credentials.is_some() => Err(Error::Unauthorized {
                host: self.host.clone(),
                message: message_of(response).await,
            }),
            // Hub says 401 for what does not exist: docker's sentence covers both.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::PullDenied(name)),
            StatusCode::TOO_MANY_REQUESTS => Err(self.failed(status)),
            _ if status.is_server_error() => Err(self.failed(status)),
            _ => Err(Error::UpstreamUnavailable {
                host: self.host.clone(),
                message: format!("it answered {status}: {}", message_of(response).await),
            }),
        }
    }
}

/// The first sentence of a distribution error body.
async fn message_of(response: Response) -> String {
    let body = response.bytes().await.unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    value["errors"][0]["message"]
        .as_str()
        .unwrap_or("no reason given")
        .chars()
        .take(200)
        .collect()
}

pub fn unavailable(host: &str, error: &reqwest::Error) -> Error {
    // reqwest's own sentence repeats the URL; the innermost source says what happened.
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Error::UpstreamUnavailable {
        host: host.to_owned(),
        message: cause.to_string(),
    }
}
