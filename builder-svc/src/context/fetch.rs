//! Fetches what URLs name into the files of contexts.
//!
//! What was fetched once is asked for with its etag; with a checksum whose content is here already nobody
//! is asked at all.

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{
    Client, Response, StatusCode,
    header::{self, HeaderValue},
};
use serde::{Deserialize, Serialize};
pub use slipway_egress::web::{CONNECT, redacted};
use slipway_egress::{
    Guard,
    web::{Web, cause},
};
use slipway_image::Digest;
use url::Url;

use super::{ContentStore, Entry, Kind, git::ssh::Hosts};
use crate::error::{Error, Result, Tried as _};

/// Where builds may fetch from: public addresses, and what `fetch_allow` of `builder.toml` names.
pub fn guard(allow: Vec<ipnet::IpNet>) -> Guard {
    Guard {
        allow,
        advice: "where builds may not fetch from: fetch_allow in builder.toml could allow it"
            .to_owned(),
        ..Guard::default()
    }
}

/// What may be fetched, and how much.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From where.
    pub guard: Guard,
    /// Most bytes of one answer.
    pub bytes: u64,
    /// How long a server may be silent in the middle of something.
    pub silence: Duration,
}

/// Fetches.
#[derive(Debug)]
pub struct Fetcher {
    web: Web,
    limits: Limits,
    hosts: Hosts,
    store: Arc<ContentStore>,
}

/// What an answer was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Its content.
    digest: String,
    /// Bytes.
    size: u64,
    /// Last-Modified, seconds since the epoch; 0 without (as BuildKit).
    modified: i64,
    #[serde(default)]
    etag: String,
}

impl Fetched {
    /// Content that has no more to it than that.
    pub(super) fn content(digest: &Digest, size: u64) -> Self {
        Self {
            digest: digest.to_string(),
            size,
            modified: 0,
            etag: String::new(),
        }
    }

    /// Which content that is, and its size; none where the record is broken.
    pub(super) fn place(&self) -> Option<(Digest, u64)> {
        Some((self.digest.parse().ok()?, self.size))
    }

    /// As a file: BuildKit's has mode 0600.
    pub fn entry(&self) -> Result<Entry> {
        let broken = || Error::Invalid("a record of what was fetched is broken".to_owned());
        let (digest, size) = self.place().ok_or_else(broken)?;
        Ok(Entry {
            kind: Kind::File { size, digest },
            mode: 0o600,
            mtime: self.modified.saturating_mul(1_000_000_000),
            same: 0,
            capability: None,
        })
    }
}

/// The name of the file that a URL stands for (BuildKit: the last part of its path).
pub fn file_name(url: &str) -> String {
    let path = Url::parse(url).map(|u| u.path().to_owned());
    let path = path.unwrap_or_default();
    let decoded = percent_decoded(&path);
    let name = decoded.trim_end_matches('/').rsplit('/').next();
    match name.unwrap_or_default() {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

/// Text of a URL without `%41`.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(code) if *first == b'%' => {
                out.push(code);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).replace('\0', "")
}

impl Fetcher {
    /// Into this store; over ssh from these hosts.
    pub fn new(store: Arc<ContentStore>, limits: Limits, hosts: Hosts) -> Result<Self> {
        // Only the first one counts: another one may be there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let web = Web::new(limits.guard.clone(), limits.silence).map_err(Error::Invalid)?;
        Ok(Self {
            web,
            limits,
            hosts,
            store,
        })
    }

    /// Where content goes.
    pub fn store(&self) -> &Arc<ContentStore> {
        &self.store
    }

    /// Fetches a URL; with a checksum nothing else is accepted.
    pub async fn fetch(&self, url: &str, checksum: Option<&str>) -> Result<Fetched> {
        let wanted = checksum.map(|text| {
            text.parse::<Digest>()
                .map_err(|e| Error::Dockerfile(format!("invalid checksum {text:?}: {e}")))
        });
        let wanted = wanted.transpose()?;
        let known = known(&self.store, url);
        if let (Some(known), Some(wanted)) = (&known, &wanted)
            && known.digest == wanted.to_string()
        {
            return Ok(known.clone());
        }
        let etag = known.as_ref().map(|k| k.etag.as_str()).unwrap_or_default();
        let headers = [(header::IF_NONE_MATCH.as_str(), etag)];
        let headers = if etag.is_empty() { &[][..] } else { &headers };
        let response = self.get_with(url, headers).await?;
        let fetched = match known {
            Some(known) if response.status() == StatusCode::NOT_MODIFIED => known,
            _ => self.keep(url, response).await?,
        };
        match wanted {
            Some(wanted) if fetched.digest != wanted.to_string() => {
                Err(Error::Dockerfile(format!(
                    "digest mismatch for {}: {}, wanted {wanted}",
                    redacted(url),
                    fetched.digest
                )))
            }
            _ => Ok(fetched),
        }
    }

    /// The answer to a GET, redirects followed; 304 only where a header asked for it.
    pub async fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response> {
        self.get_as(url, headers, None).await
    }

    /// The same, saying who asks. Nobody but the server that was meant is told.
    pub async fn get_as(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        who: Option<&HeaderValue>,
    ) -> Result<Response> {
        let got = self.web.get(url, headers, who).await;
        got.map_err(|why| Error::Invalid(format!("cannot fetch {}: {why}", redacted(url))))
    }

    /// Sends a request to an address that was judged; `url` is for errors.
    pub async fn send(&self, url: &str, request: reqwest::RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|e| broken(url, &e))
    }

    /// The client, for requests to addresses that [`Fetcher::judge`] has seen.
    pub fn client(&self) -> &Client {
        self.web.client()
    }

    /// Judges a URL before it is used.
    pub fn judge(&self, url: &Url) -> Result<()> {
        let checked = self.limits.guard.check(url);
        checked.map_err(|why| {
            Error::Invalid(format!("cannot fetch {}: {why}", redacted(url.as_str())))
        })
    }

    /// What may be fetched.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The hosts that are known over ssh.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Most bytes of an answer.
    pub fn most(&self) -> u64 {
        self.limits.bytes
    }

    async fn keep(&self, url: &str, mut response: Response) -> Result<Fetched> {
        let what = || format!("cannot keep {}", redacted(url));
        let text = |name: header::HeaderName| {
            let value = response.headers().get(name).and_then(|v| v.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let etag = text(header::ETAG);
        let modified = jiff::fmt::rfc2822::parse(&text(header::LAST_MODIFIED))
            .map_or(0, |time| time.timestamp().as_second());
        let mut incoming = self.store.begin_unknown().tried(what)?;
        let mut size = 0;
        while let Some(chunk) = response.chunk().await.map_err(|e| broken(url, &e))? {
            size += chunk.len() as u64;
            if size > self.limits.bytes {
                return Err(Error::Invalid(format!(
                    "cannot fetch {}: it has more than {} bytes (fetch_max_bytes in builder.toml)",
                    redacted(url),
                    self.limits.bytes
                )));
            }
            let written = tokio::task::spawn_blocking(move || {
                let at = incoming.bytes();
                incoming.write(at, &chunk).map(|()| incoming)
            });
            incoming = written
                .await
                .map_err(io::Error::other)
                .and_then(|r| r)
                .tried(what)?;
        }
        let digest = self.store.finish(incoming).tried(what)?;
        let fetched = Fetched {
            digest: digest.to_string(),
            size,
            modified,
            etag,
        };
        remember(&self.store, url, &fetched).tried(what)?;
        Ok(fetched)
    }
}

fn record(store: &ContentStore, url: &str) -> PathBuf {
    store.fetched().join(Digest::of(url).encoded())
}

/// What was fetched before, if its content is here still.
pub(super) fn known(store: &ContentStore, url: &str) -> Option<Fetched> {
    let record = record(store, url);
    let known: Fetched = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
    let (digest, size) = known.place()?;
    if !store.has(&digest, size) {
        return None;
    }
    // Only decides what is evicted first.
    let used = fs::File::open(record).and_then(|f| f.set_modified(SystemTime::now()));
    used.is_ok().then_some(known)
}

/// Remembers what was fetched.
pub(super) fn remember(store: &ContentStore, url: &str, fetched: &Fetched) -> io::Result<()> {
    fs::create_dir_all(store.fetched())?;
    // Half of a record is read as none.
    fs::write(record(store, url), serde_json::to_vec(fetched)?)
}

fn broken(url: &str, error: &reqwest::Error) -> Error {
    let why = cause(error);
    Error::Invalid(format!("cannot fetch {}: {why}", redacted(url)))
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn files_are_named_after_the_path() {
        for (url, name) in [
            ("https://h/a/b.tgz?x=/y#z", "b.tgz"),
            ("https://h/a/b/", "b"),
            ("https://h/", "__unnamed__"),
            ("https://h", "__unnamed__"),
            ("https://h/a%20b", "a b"),
            ("https://h/%2e%2e%2fpasswd", "passwd"),
            ("https://h/..%2f", "__unnamed__"),
            ("https://h/100%", "100%"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }
}
