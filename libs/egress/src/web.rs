//! GET over http and https, redirects followed, to addresses that the guard permits.

use std::{sync::Arc, time::Duration};

use reqwest::{
    Client, Response, StatusCode,
    header::{self, HeaderValue},
    redirect::Policy,
};
use url::Url;

use crate::Guard;

/// Redirects that are followed (as Go's http.Client).
const REDIRECTS: usize = 10;

/// How long a host may take to accept a connection.
pub const CONNECT: Duration = Duration::from_secs(10);

/// See the module's page.
#[derive(Debug, Clone)]
pub struct Web {
    http: Client,
    guard: Guard,
}

impl Web {
    /// To whom the guard permits, and who is never silent for longer than that. Errors are sentences.
    pub fn new(guard: Guard, silence: Duration) -> Result<Self, String> {
        let http = Client::builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(silence)
            // Each address is judged before it is used: no redirect by itself, and no proxy, which
            // would resolve names on its own.
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(guard.clone()))
            .build()
            .map_err(|e| format!("cannot make an HTTP client: {e}"))?;
        Ok(Self { http, guard })
    }

    /// Who may be asked.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The client, for requests to URLs that the guard has seen ([`Guard::check`]).
    pub fn client(&self) -> &Client {
        &self.http
    }

    /// The answer to a GET; 304 only where a header asked for it. Nobody but the server that was meant is told who
    /// asks. Errors say why it cannot be fetched, without the URL.
    pub async fn get(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        who: Option<&HeaderValue>,
    ) -> Result<Response, String> {
        let mut at = Url::parse(url).map_err(|e| e.to_string())?;
        let meant = at.origin();
        for _ in 0..=REDIRECTS {
            self.guard.check(&at)?;
            let mut request = self.http.get(at.clone());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(who) = who.filter(|_| at.origin() == meant) {
                request = request.header(header::AUTHORIZATION, who);
            }
            let response = request.send().await.map_err(|e| cause(&e))?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION);
            if let (true, Some(location)) = (status.is_redirection(), location)
                && status != StatusCode::NOT_MODIFIED
            {
                let location = location.to_str().unwrap_or_default();
                at = at
                    .join(location)
                    .map_err(|e| format!("it leads to {location:?}: {e}"))?;
                continue;
            }
            if status.is_success() || (status == StatusCode::NOT_MODIFIED && !headers.is_empty()) {
                return Ok(response);
            }
            return Err(format!("invalid response status {status}"));
        }
        Err("it leads from one address to the next".to_owned())
    }
}

/// What happened: reqwest's own sentence repeats the URL, the innermost source does not.
pub fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A URL for people: without a user's name and password (BuildKit, util/urlutil).
pub fn redacted(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            // They fail only where there is no host, and then there is no user either.
            if !parsed.username().is_empty() {
                let _ = parsed.set_username("xxxxx");
            }
            if parsed.password().is_some() {
                let _ = parsed.set_password(Some("xxxxx"));
            }
            parsed.to_string()
        }
        Ok(_) => url.to_owned(),
        // What is none may have a password all the same: ssh://git:TOKEN@host:org/repo.git.
        Err(_) => {
            let Some((scheme, rest)) = url.split_once("://") else {
                return url.to_owned();
            };
            let host = rest.split('/').next().unwrap_or_default();
            match host.rfind('@') {
                Some(at) => format!("{scheme}://xxxxx{}", &rest[at..]),
                None => url.to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn nobody_reads_a_password() {
        for (url, shown) in [
            ("https://u:p@h/x?y", "https://xxxxx:xxxxx@h/x?y"),
            ("https://token@h/r.git", "https://xxxxx@h/r.git"),
            ("https://:p@h/r.git", "https://:xxxxx@h/r.git"),
            ("ssh://git@h:22/r.git", "ssh://xxxxx@h:22/r.git"),
            ("git@h:r.git", "git@h:r.git"),
            ("https://h/a b", "https://h/a b"),
            ("ssh://git:token@h:org/r.git", "ssh://xxxxx@h:org/r.git"),
            ("https://h:port/a@b", "https://h:port/a@b"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }
}
