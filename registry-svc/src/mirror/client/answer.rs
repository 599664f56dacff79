//! What the answers of a foreign registry mean.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use reqwest::Response;
use slipway_egress::Unresolved;

use super::{Client, SLOWEST, Scope};
use crate::{
    error::{Error, Result},
    mirror::{lock, rest::retry_after},
};

/// Most bytes of an answer that is a token or an error.
pub const SHORT: usize = 256 << 10;

/// A distribution error body.
#[derive(Default, serde::Deserialize)]
struct Told {
    errors: Vec<OneError>,
}

#[derive(serde::Deserialize)]
struct OneError {
    message: Option<String>,
}

impl Client {
    /// An error in the middle of a body.
    pub fn broken(&self, error: &reqwest::Error) -> Error {
        unavailable(&self.host, error)
    }

    pub fn nonsense(&self, what: &str) -> Error {
        Error::UpstreamUnavailable {
            host: self.host.clone(),
            message: format!("it answered with {what}"),
            scope: Scope::Repository,
        }
    }

    /// It sends so little that it would never end.
    pub fn too_slow(&self) -> Error {
        Error::UpstreamUnavailable {
            host: self.host.clone(),
            message: format!("it sends less than {SLOWEST} bytes a second"),
            scope: Scope::Repository,
        }
    }

    /// How long so many bytes may take.
    pub fn patience(&self, bytes: u64) -> Duration {
        self.timeout.saturating_mul(2) + Duration::from_secs(bytes / SLOWEST)
    }

    /// A URL that nobody goes to.
    pub(super) fn refused(&self, reason: String) -> Error {
        Error::UpstreamUnavailable {
            host: self.host.clone(),
            message: reason,
            scope: Scope::Refused,
        }
    }

    pub(super) fn failed(&self, response: &Response) -> Error {
        let status = response.status();
        let host = self.host.clone();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Error::RateLimited { host, retry_after };
        }
        Error::UpstreamUnavailable {
            host,
            message: format!("it answered {status}"),
            scope: match status {
                StatusCode::SERVICE_UNAVAILABLE => Scope::Host(retry_after),
                _ => Scope::Repository,
            },
        }
    }

    /// The account went to no other host: what to do when that is why it does not get in.
    fn hint(&self) -> Option<String> {
        let realm = lock(&self.elsewhere).clone()?;
        Some(format!(
            "its tokens are given at {realm}, which did not get the account: realm = \"{realm}\" for this upstream in registry.toml says that they belong together"
        ))
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
                message: self.message_of(response).await,
            }),
            StatusCode::UNAUTHORIZED if self.credentials.is_some() => Err(Error::Unauthorized {
                host: self.host.clone(),
                message: match self.hint() {
                    Some(hint) => hint,
                    None => self.message_of(response).await,
                },
            }),
            // Hub says 401 for what does not exist: docker's sentence covers both.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::PullDenied(name)),
            StatusCode::TOO_MANY_REQUESTS => Err(self.failed(&response)),
            _ if status.is_server_error() => Err(self.failed(&response)),
            _ => Err(Error::UpstreamUnavailable {
                host: self.host.clone(),
                message: format!("it answered {status}: {}", self.message_of(response).await),
                scope: Scope::Repository,
            }),
        }
    }

    /// The first sentence of a distribution error body.
    pub(super) async fn message_of(&self, response: Response) -> String {
        let body = self.content(response, "an error", SHORT).await;
        let told: Told = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let message = told.errors.into_iter().find_map(|error| error.message);
        let message = message.as_deref().unwrap_or("no reason given");
        message
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect()
    }
}

pub fn unavailable(host: &str, error: &reqwest::Error) -> Error {
    // reqwest's own sentence repeats the URL; the innermost source says what happened.
    let mut cause: &dyn std::error::Error = error;
    let mut refused = error.is_redirect();
    while let Some(source) = cause.source() {
        cause = source;
        // A name that is where nobody may go is found out when a connection is wanted.
        refused |= matches!(cause.downcast_ref(), Some(Unresolved::Refused(_)));
    }
    Error::UpstreamUnavailable {
        host: host.to_owned(),
        message: cause.to_string(),
        // A way that is refused, or a body that breaks off, says nothing of the rest of the host.
        scope: match error.is_connect() || (error.is_timeout() && !error.is_body()) {
            _ if refused => Scope::Refused,
            true => Scope::Host(None),
            false => Scope::Repository,
        },
    }
}
