//! One foreign registry over HTTP: requests, its token and basic authentication, and what its answers
//! mean. Credentials go to the host that they belong to and nowhere else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Response, redirect};
use slipway_image::{Digest, manifest::MAX_SIZE, media_type};
use tokio::sync::Semaphore;
use url::Url;

use super::{rest::Scope, upstreams::Observed};
use crate::{
    config::UpstreamConfig,
    error::{Error, Result},
    names::parse_digest,
};

mod answer;
mod auth;
pub mod challenge;
pub mod link;
mod login;
mod push;
mod roots;
mod trust;

use answer::unavailable;
pub use roots::Roots;
use trust::Trust;

/// An account at a foreign registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Basic(String, String),
    /// docker's identity token: exchanged for an access token.
    IdentityToken(String),
}

/// See the module's page.
pub struct Client {
    http: reqwest::Client,
    /// For blobs that are sent.
    sending: reqwest::Client,
    /// For tokens: what carries an account follows no redirect.
    direct: reqwest::Client,
    host: String,
    base: Url,
    trust: Trust,
    /// How long it may be silent.
    timeout: Duration,
    credentials: Option<Credentials>,
    /// The account is ours, and not one of whoever calls.
    own_account: bool,
    observed: Arc<Observed>,
    tokens: Mutex<HashMap<String, (String, Instant)>>,
    /// Questions about blobs, and all others: they are counted apart.
    turns: [Turns; 2],
    /// A realm on another host that did not get the account.
    elsewhere: Mutex<Option<String>>,
}

/// How often a redirect is followed.
const REDIRECTS: usize = 5;

/// Most bytes of a list of tags, all pages together: some 500,000 tags.
const MOST_TAGS: usize = 16 << 20;

/// Most pages of a list of tags, and most bytes of one page.
const PAGES: usize = 1000;

/// Bytes a second that a transfer has at least, on the average of a while.
pub const SLOWEST: u64 = 1 << 10;

/// Requests of one kind that wait for their answer at once. Whoever would be one more hears what became of those.
const ASKING: usize = 16;

/// A manifest as upstream has it.
pub struct RemoteManifest {
    /// `Content-Type`.
    pub media_type: String,
    /// Its bytes.
    pub content: Bytes,
}

/// Who asks, one after the other.
struct Turns {
    asking: Semaphore,
    /// When it answered 429 the last time, and how long it wants to be left in peace.
    limited: Mutex<Option<(Instant, Option<Duration>)>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            asking: Semaphore::new(ASKING),
            limited: Mutex::default(),
        }
    }
}

/// What is asked to do in a repository.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

impl Client {
    /// A client for an upstream, with credentials other than its own or without.
    pub fn new(
        config: &UpstreamConfig,
        credentials: Option<Credentials>,
        observed: Arc<Observed>,
        roots: &Roots,
    ) -> Result<Self> {
        let trust = Trust::of(config);
        let tls = roots.tls().map_err(|message| Error::UpstreamUnavailable {
            host: config.host.clone(),
            message,
            scope: Scope::Repository,
        })?;
        let builder = || {
            let builder = reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(config.timeout.min(Duration::from_secs(10)))
                .pool_idle_timeout(Duration::from_secs(20));
            match trust.resolver() {
                Some(guard) => builder.dns_resolver(guard),
                None => builder,
            }
        };
        let judge = trust.clone();
        // reqwest takes Authorization away when host or port change.
        let policy = redirect::Policy::custom(move |attempt| {
            let from = attempt.previous().last();
            let checked = from.map(|from| judge.check_redirect(from, attempt.url()));
            if attempt.previous().len() > REDIRECTS {
                attempt.error("too many redirects")
            } else if let Some(Err(reason)) = checked {
                attempt.error(reason)
            } else {
                attempt.follow()
            }
        });
        let fail = |e: reqwest::Error| unavailable(&config.host, &e);
        let own = config.credentials.clone();
        let own = own.map(|(user, password)| Credentials::Basic(user, password));
        Ok(Self {
            http: builder()
                .redirect(policy)
                .read_timeout(config.timeout)
                .build()
                .map_err(fail)?,
            // The time that it may be silent would also be the time that sending may take (reqwest, issue 2784).
            sending: builder()
                .redirect(redirect::Policy::none())
                .build()
                .map_err(fail)?,
            direct: builder()
                .redirect(redirect::Policy::none())
                .read_timeout(config.timeout)
                .build()
                .map_err(fail)?,
            host: config.host.clone(),
            base: config.url.clone(),
            timeout: config.timeout,
            own_account: credentials.is_none(),
            credentials: credentials.or(own),
            trust,
            observed,
            tokens: Mutex::default(),
            turns: Default::default(),
            elsewhere: Mutex::default(),
        })
    }

    /// Digest that a tag names now, by HEAD; `None` when there is no such tag.
    pub async fn resolve(&self, path: &str, reference: &str) -> Result<Option<Digest>> {
        let url = self.url(&format!("{path}/manifests/{reference}"))?;
        let response = self
            .send(Method::HEAD, url, path, Access::Pull, accept(), None)
            .await?;
        match self.check(response, path).await {
            Ok(response) => match response.headers().get("docker-content-digest") {
                Some(digest) => parse_digest(digest.to_str().unwrap_or_default()).map(Some),
                // An old registry: the manifest itself tells.
                None => Ok(self
                    .manifest(path, reference)
                    .await?
                    .map(|m| Digest::of(&m.content))),
            },
            Err(Error::ManifestNotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A manifest; `None` when there is none.
    pub async fn manifest(&self, path: &str, reference: &str) -> Result<Option<RemoteManifest>> {
        let url = self.url(&format!("{path}/manifests/{reference}"))?;
        let response = self
            .send(Method::GET, url, path, Access::Pull, accept(), None)
            .await?;
        let response = match self.check(response, path).await {
            Ok(response) => response,
            Err(Error::ManifestNotFound(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or(media_type::OCI_MANIFEST)
            .to_owned();
        let content = self
            .content(response, "the upstream's manifest", MAX_SIZE)
            .await?;
        Ok(Some(RemoteManifest {
            media_type,
            content,
        }))
    }

    /// Where the referrers API tells what refers to a manifest.
    pub fn referrers(&self, path: &str, subject: &Digest) -> Result<Url> {
        self.url(&format!("{path}/referrers/{subject}"))
    }

    /// A page of an index that the registry makes, and where the next one is; `None` when there is none.
    pub async fn index(&self, path: &str, place: Url) -> Result<Option<(Bytes, Option<Url>)>> {
        let response = self
            .send(
                Method::GET,
                place.clone(),
                path,
                Access::Pull,
                accept(),
                None,
            )
            .await?;
        let response = match self.check(response, path).await {
            Ok(response) => response,
            Err(Error::ManifestNotFound(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        let next = self.next_page(&place, &response);
        let content = self
            .content(response, "the upstream's index", MAX_SIZE)
            .await?;
        Ok(Some((content, next)))
    }

    /// Where the next page is (RFC 8288). Only this registry's own are followed.
    fn next_page(&self, current: &Url, response: &Response) -> Option<Url> {
        let link = response.headers().get(header::LINK)?.to_str().ok()?;
        link::next(link, current).filter(|next| next.origin() == self.base.origin())
    }

    /// A body of at most `limit` bytes, which does not take for ever.
    async fn content(
        &self,
        mut response: Response,
        what: &'static str,
        limit: usize,
    ) -> Result<Bytes> {
        let read = async {
            let mut content = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(&e))? {
                if content.len() + chunk.len() > limit {
                    let limit = limit as u64;
                    return Err(Error::TooLarge { what, limit });
                }
                content.extend_from_slice(&chunk);
            }
            Ok(content.into())
        };
        // Whoever sends a byte now and then is never silent.
        let whole = self.timeout.saturating_mul(4);
        let read = tokio::time::timeout(whole, read).await;
        read.unwrap_or_else(|_| Err(self.nonsense("a body that does not end")))
    }

    /// Opens a blob from `offset`, which somebody wants since then. Returns the response and where its body really
    /// begins.
    pub async fn blob(
        &self,
        path: &str,
        digest: &Digest,
        offset: u64,
        since: Instant,
    ) -> Result<(Response, u64)> {
        self.not_limited(&self.turns[1], since)?;
        let url = self.url(&format!("{path}/blobs/{digest}"))?;
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = format!("bytes={offset}-");
            headers.insert(header::RANGE, range.parse().expect("ASCII"));
        }
        let response = self
            .send(Method::GET, url, path, Access::Pull, headers, None)
            .await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => Ok((response, offset)),
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
                Err(self.nonsense("fewer bytes than it had before"))
            }
            StatusCode::NOT_FOUND => Err(Error::BlobNotFound(digest.clone())),
            _ => Ok((self.check(response, path).await?, 0)),
        }
    }

    /// Asks for a piece of a blob. Returns the response and where its body really begins.
    pub async fn piece(
        &self,
        path: &str,
        digest: &Digest,
        piece: std::ops::RangeInclusive<u64>,
    ) -> Result<(Response, u64)> {
        let url = self.url(&format!("{path}/blobs/{digest}"))?;
        let mut headers = HeaderMap::new();
        let range = format!("bytes={}-{}", piece.start(), piece.end());
        headers.insert(header::RANGE, range.parse().expect("ASCII"));
        let response = self
            .send(Method::GET, url, path, Access::Pull, headers, None)
            .await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => Ok((response, *piece.start())),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(Error::BlobNotFound(digest.clone()))
            }
            _ => Ok((self.check(response, path).await?, 0)),
        }
    }

    /// All tags of a repository.
    pub async fn tags(&self, path: &str) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut url = Some(self.url(&format!("{path}/tags/list"))?);
        let (mut tags, mut bytes) = (Vec::new(), 0);
        for _ in 0..PAGES {
            let Some(current) = url.take() else {
                return Ok(tags);
            };
            let response = self
                .send(
                    Method::GET,
                    current.clone(),
                    path,
                    Access::Pull,
                    empty(),
                    None,
                )
                .await?;
            let response = self.check(response, path).await?;
            url = self.next_page(&current, &response);
            let body = self
                .content(response, "the upstream's list of tags", MAX_SIZE)
                .await?;
            bytes += body.len();
            if bytes > MOST_TAGS {
                return Err(Error::TooLarge {
                    what: "the upstream's list of tags",
                    limit: MOST_TAGS as u64,
                });
            }
            let page: Page = serde_json::from_slice(&body)
                .map_err(|_| self.nonsense("a tags list that is no JSON"))?;
            tags.extend(page.tags.unwrap_or_default());
        }
        Err(self.nonsense("a list of tags that does not end"))
    }

    fn url(&self, path: &str) -> Result<Url> {
        // The base may have a path of its own (a mirror behind a prefix).
        let base = self.base.as_str().trim_end_matches('/');
        format!("{base}/v2/{path}")
            .parse()
            .map_err(|_| self.nonsense("an address that is no URL"))
    }
}

fn accept() -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Those of other forms are kept too, as they are.
    let value = format!("{}, */*;q=0.1", media_type::MANIFESTS.join(", "));
    headers.insert(header::ACCEPT, value.parse().expect("ASCII"));
    headers
}

fn empty() -> HeaderMap {
    HeaderMap::new()
}
