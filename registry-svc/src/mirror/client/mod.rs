//! One foreign registry over HTTP: requests, its token and basic authentication, and what its answers
//! mean. Credentials go to the host that they belong to and nowhere else.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Response, redirect};
use slipway_image::{Digest, media_type};
use url::Url;

use crate::{
    error::{Error, Result},
    names::parse_digest,
};

mod answer;
mod auth;
mod challenge;
mod push;
mod trust;

use answer::unavailable;
use trust::is_inside;

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
    host: String,
    base: Url,
    credentials: Option<Credentials>,
    tokens: Mutex<HashMap<String, (String, Instant)>>,
}

/// A manifest as upstream has it.
pub struct RemoteManifest {
    /// `Content-Type`.
    pub media_type: String,
    /// Its bytes.
    pub content: Bytes,
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
    /// A client for the registry at `base`, which image names call `host`.
    pub fn new(host: &str, base: Url, credentials: Option<Credentials>) -> Result<Self> {
        let plain = base.scheme() == "http";
        let http = reqwest::Client::builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .pool_idle_timeout(Duration::from_secs(20))
            .redirect(redirect::Policy::custom(move |attempt| {
                // reqwest drops Authorization when the host changes. What is left to forbid: loops, a
                // downgrade to http, and being sent to addresses inside the site.
                if attempt.previous().len() > 5 {
                    attempt.error("too many redirects")
                } else if !plain && attempt.url().scheme() != "https" {
                    attempt.error("redirect from https to http refused")
                } else if !plain && is_inside(attempt.url()) {
                    attempt.error("redirect to a private address refused")
                } else {
                    attempt.follow()
                }
            }))
            .build()
            .map_err(|e| unavailable(host, &e))?;
        Ok(Self {
            http,
            host: host.to_owned(),
            base,
            credentials,
            tokens: Mutex::default(),
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
        let content = self.content(response, "the upstream's manifest").await?;
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
        let content = self.content(response, "the upstream's index").await?;
        Ok(Some((content, next)))
    }

    /// Where the next page is (RFC 8288). Only this registry's own are followed.
    fn next_page(&self, current: &Url, response: &Response) -> Option<Url> {
        let link = response.headers().get(header::LINK)?.to_str().ok()?;
        let (next, _) = link.split_once('<')?.1.split_once('>')?;
        let next = current.join(next).ok()?;
        (next.origin() == self.base.origin()).then_some(next)
    }

    /// A body that is no larger than a manifest may be.
    async fn content(&self, mut response: Response, what: &'static str) -> Result<Bytes> {
        let mut content = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(&e))? {
            if content.len() + chunk.len() > slipway_image::manifest::MAX_SIZE {
                return Err(Error::TooLarge {
                    what,
                    limit: slipway_image::manifest::MAX_SIZE as u64,
                });
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content.into())
    }

    /// Opens a blob from `offset`. Returns the response and where its body really begins.
    pub async fn blob(&self, path: &str, digest: &Digest, offset: u64) -> Result<(Response, u64)> {
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
                Err(Error::Interrupted("upstream has fewer bytes".to_owned()))
            }
            StatusCode::NOT_FOUND => Err(Error::BlobNotFound(digest.clone())),
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
        let mut tags = Vec::new();
        while let Some(current) = url.take() {
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
            let body = response.bytes().await.map_err(|e| self.broken(&e))?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|_| self.nonsense("a tags list that is no JSON"))?;
            tags.extend(page.tags.unwrap_or_default());
        }
        Ok(tags)
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
    let value = media_type::MANIFESTS.join(", ");
    headers.insert(header::ACCEPT, value.parse().expect("ASCII"));
    headers
}

fn empty() -> HeaderMap {
    HeaderMap::new()
}
