//! One foreign registry over HTTP: requests, its token and basic authentication, and what its answers
//! mean. Credentials go to the host that they belong to and nowhere else.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Body, Response, redirect};
use slipway_image::{Digest, media_type};
use url::Url;

use super::trust::{Challenge, is_inside, same_owner};
use crate::{
    error::{Error, Result},
    names::parse_digest,
};

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

    /// The remote has this blob in this repository.
    pub async fn has_blob(&self, path: &str, digest: &Digest) -> Result<bool> {
        let url = self.url(&format!("{path}/blobs/{digest}"))?;
        let response = self
            .send(
                Method::HEAD,
                url,
                path,
                Access::Push,
                HeaderMap::new(),
                None,
            )
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        self.check(response, path).await.map(|_| true)
    }

    /// Starts an upload, or mounts the blob from another repository of the remote: then `None`.
    pub async fn start_upload(
        &self,
        path: &str,
        mount: Option<(&Digest, &str)>,
    ) -> Result<Option<Url>> {
        let mut url = self.url(&format!("{path}/blobs/uploads/"))?;
        if let Some((digest, from)) = mount {
            url.query_pairs_mut()
                .append_pair("mount", &digest.to_string())
                .append_pair("from", from);
        }
        let response = self
            .send(Method::POST, url.clone(), path, Access::Push, empty(), None)
            .await?;
        let response = self.check(response, path).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| self.nonsense("an upload without Location"))?;
        url.join(location)
            .map(Some)
            .map_err(|_| self.nonsense("a Location that is no URL"))
    }

    /// Sends a whole blob to where [`Self::start_upload`] said.
    pub async fn upload(
        &self,
        path: &str,
        mut location: Url,
        digest: &Digest,
        size: u64,
        body: Body,
    ) -> Result<()> {
        location
            .query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            "application/octet-stream".parse().expect("ASCII"),
        );
        headers.insert(header::CONTENT_LENGTH, size.into());
        let own = location.origin() == self.base.origin();
        let authorization = own
            .then(|| self.token(&scope(path, Access::Push)))
            .flatten();
        if let Some(value) = authorization {
            headers.insert(
                header::AUTHORIZATION,
                value.parse().map_err(|_| self.nonsense("a token"))?,
            );
        }
        // The body can be sent once only, so there is no second try after a 401: the POST before it
        // has fetched the token.
        let response = self
            .http
            .put(location)
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(|e| unavailable(&self.host, &e))?;
        self.check(response, path).await.map(|_| ())
    }

    /// Stores a manifest under a tag or digest.
    pub async fn put_manifest(
        &self,
        path: &str,
        reference: &str,
        media_type: &str,
        content: Bytes,
    ) -> Result<()> {
        let url = self.url(&format!("{path}/manifests/{reference}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            media_type
                .parse()
                .map_err(|_| Error::ManifestInvalid("media type".to_owned()))?,
        );
        let response = self
            .send(Method::PUT, url, path, Access::Push, headers, Some(content))
            .await?;
        self.check(response, path).await.map(|_| ())
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

    /// An error in the middle of a body.
    pub fn broken(&self, error: &reqwest::Error) -> Error {
        unavailable(&self.host, error)
    }

    fn nonsense(&self, what: &str) -> Error {
        Error::UpstreamUnavailable {
            host: self.host.clone(),
            message: format!("it answered with {what}"),
        }
    }

    fn url(&self, path: &str) -> Result<Url> {
        // The base may have a path of its own (a mirror behind a prefix).
        let base = self.base.as_str().trim_end_matches('/');
        format!("{base}/v2/{path}")
            .parse()
            .map_err(|_| self.nonsense("an address that is no URL"))
    }

    /// Sends a request, and once more with a token when the registry asks for one.
    async fn send(
        &self,
        method: Method,
        url: Url,
        path: &str,
        access: Access,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response> {
        let scope = scope(path, access);
        let mut authorization = self.token(&scope);
        for attempt in 0..2 {
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .headers(headers.clone());
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            match &body {
                Some(body) => request = request.body(body.clone()),
                None if method == Method::POST => {
                    request = request.header(header::CONTENT_LENGTH, 0);
                }
                None => {}
            }
            let response = request
                .send()
                .await
                .map_err(|e| unavailable(&self.host, &e))?;
            if response.status() != StatusCode::UNAUTHORIZED || attempt > 0 {
                return Ok(response);
            }
            let Some(challenge) = response
                .headers()
                .get(header::WWW_AUTHENTICATE)
                .and_then(|v| v.to_str().ok())
                .and_then(Challenge::parse)
            else {
                return Ok(response);
            };
            let Some((value, lifetime)) = self.authorize(&challenge, &scope).await? else {
                return Ok(response);
            };
            let until = Instant::now() + lifetime;
            self.tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(scope.clone(), (value.clone(), until));
            authorization = Some(value);
        }
        unreachable!("the second attempt returns")
    }

    fn token(&self, scope: &str) -> Option<String> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .get(scope)
            .filter(|(_, until)| *until > Instant::now())
            .map(|(value, _)| value.clone())
    }

    /// The Authorization header that answers a challenge.
    async fn authorize(
        &self,
        challenge: &Challenge,
        scope: &str,
    ) -> Result<Option<(String, Duration)>> {
        use base64::Engine as _;
        let basic = |user: &str, password: &str| {
            let pair =
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            format!("Basic {pair}")
        };
        let realm = match challenge {
            Challenge::Basic => {
                return Ok(match &self.credentials {
                    Some(Credentials::Basic(user, password)) => {
                        Some((basic(user, password), Duration::from_secs(3600)))
                    }
                    _ => None,
                });
            }
            Challenge::Bearer { realm, service } => {
                let mut realm: Url = realm
                    .parse()
                    .map_err(|_| self.nonsense("a token realm that is no URL"))?;
                if self.base.scheme() == "https" && (realm.scheme() != "https" || is_inside(&realm))
                {
                    return Err(self.nonsense("a token realm that is not to be trusted"));
                }
                let trusted = same_owner(&self.base, &realm);
                realm.query_pairs_mut().append_pair("scope", scope);
                if let Some(service) = service {
                    realm.query_pairs_mut().append_pair("service", service);
                }
                (realm, trusted)
            }
        };
        let (url, trusted) = realm;
        let request = match self.credentials.as_ref().filter(|_| trusted) {
            Some(Credentials::Basic(user, password)) => self
                .http
                .get(url)
                .header(header::AUTHORIZATION, basic(user, password)),
            Some(Credentials::IdentityToken(token)) => {
                let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
                let mut bare = url.clone();
                bare.set_query(None);
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(pairs)
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "slipway")
                    .append_pair("refresh_token", token)
                    .finish();
                self.http
                    .post(bare)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form)
            }
            None => self.http.get(url),
        };
        let response = request
            .send()
            .await
            .map_err(|e| unavailable(&self.host, &e))?;
        if response.status() == StatusCode::UNAUTHORIZED
            || response.status() == StatusCode::FORBIDDEN
        {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(self.failed(response.status()));
        }
        #[derive(serde::Deserialize)]
        struct Token {
            #[serde(alias = "access_token")]
            token: String,
            expires_in: Option<u64>,
        }
        let body = response.bytes().await.map_err(|e| self.broken(&e))?;
        let value: serde_json::Value =
            serde_json::from_slice(&body).map_err(|_| self.nonsense("a token that is no JSON"))?;
        // Some registries send both names; both mean the same.
        let token = Token {
            token: value
                .get("token")
                .or_else(|| value.get("access_token"))
                .and_then(|v| v.as_str())
                .ok_or_else(|| self.nonsense("an answer without a token"))?
                .to_owned(),
            expires_in: value.get("expires_in").and_then(serde_json::Value::as_u64),
        };
        // The token specification: 60 seconds when nothing is said. Renewed a little early.
        let lifetime = Duration::from_secs(token.expires_in.unwrap_or(60).max(20) - 10);
        Ok(Some((format!("Bearer {}", token.token), lifetime)))
    }

    fn failed(&self, status: StatusCode) -> Error {
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
    async fn check(&self, response: Response, path: &str) -> Result<Response> {
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

fn unavailable(host: &str, error: &reqwest::Error) -> Error {
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

fn accept() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = media_type::MANIFESTS.join(", ");
    headers.insert(header::ACCEPT, value.parse().expect("ASCII"));
    headers
}

fn empty() -> HeaderMap {
    HeaderMap::new()
}

fn scope(path: &str, access: Access) -> String {
    let actions = match access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    format!("repository:{path}:{actions}")
}
