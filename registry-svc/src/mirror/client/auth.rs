//! Requests with the authorization that the registry asks for: its token and basic authentication.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::Response;
use url::Url;

use super::{
    Access, Client, Credentials, Turns,
    answer::{SHORT, unavailable},
    challenge::Challenge,
};
use crate::{
    error::{Error, Result},
    mirror::{lock, rest::retry_after},
};

/// Tokens that are kept at once, one for each repository and kind of access.
const TOKENS: usize = 256;

/// Most bytes of a token.
const LONGEST_TOKEN: usize = 64 << 10;

/// Longest life of a token that is believed, in seconds.
const LIFETIME: u64 = 24 * 3600;

/// What a token server gives. Some send both names; both mean the same.
#[derive(serde::Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds. What is no number of them is not believed.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Client {
    /// Sends a request, and once more with a token when the registry asks for one.
    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        path: &str,
        access: Access,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response> {
        self.send_for(method, url, &scope(path, access), headers, body)
            .await
    }

    /// The same for scopes of one's own, separated by spaces.
    pub(super) async fn send_for(
        &self,
        method: Method,
        url: Url,
        scope: &str,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response> {
        self.trust.check(&url).map_err(|e| self.refused(e))?;
        let blob = url.path().contains("/blobs/sha");
        let came = Instant::now();
        let turns = &self.turns[usize::from(blob)];
        let _turn = turns.asking.acquire().await;
        self.not_limited(turns, came)?;
        let mut authorization = self.token(scope);
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
            if method != Method::GET || !blob {
                request = request.timeout(self.timeout.saturating_mul(4));
            }
            let response = self.observe(request.send().await)?;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                let asked = retry_after(response.headers(), SystemTime::now());
                *lock(&turns.limited) = Some((Instant::now(), asked));
            }
            // Whoever we were sent to may not ask for anything.
            let own = response.url().origin() == self.base.origin();
            if response.status() != StatusCode::UNAUTHORIZED || attempt > 0 || !own {
                return Ok(response);
            }
            let Some(challenge) = Challenge::of(response.headers()) else {
                return Ok(response);
            };
            let Some((value, lifetime)) = self.authorize(&challenge, scope).await? else {
                return Ok(response);
            };
            self.keep(scope, &value, lifetime);
            authorization = Some(value);
        }
        unreachable!("the second attempt returns")
    }

    /// Whoever asked at the same moment was told 429 for all.
    pub(super) fn not_limited(&self, turns: &Turns, since: Instant) -> Result<()> {
        match *lock(&turns.limited) {
            Some((at, retry_after)) if at > since => Err(Error::RateLimited {
                host: self.host.clone(),
                retry_after,
            }),
            _ => Ok(()),
        }
    }

    /// Takes note of what an answer says of the upstream.
    pub(super) fn observe(&self, answer: reqwest::Result<Response>) -> Result<Response> {
        let seen = answer.as_ref().ok();
        // Who stores for it says nothing of it.
        let seen = seen.filter(|response| response.url().origin() == self.base.origin());
        let seen = seen.map(|response| (response.status().as_u16(), response.headers()));
        if seen.is_some() || answer.is_err() {
            self.observed.note(seen, self.own_account);
        }
        answer.map_err(|e| unavailable(&self.host, &e))
    }

    fn keep(&self, scope: &str, token: &str, lifetime: Duration) {
        let now = Instant::now();
        let mut tokens = lock(&self.tokens);
        if tokens.len() >= TOKENS {
            tokens.retain(|_, (_, until)| *until > now);
            if tokens.len() >= TOKENS {
                tokens.clear();
            }
        }
        tokens.insert(scope.to_owned(), (token.to_owned(), now + lifetime));
    }

    pub(super) fn token(&self, scope: &str) -> Option<String> {
        let tokens = lock(&self.tokens);
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
                self.trust.check(&realm).map_err(|reason| {
                    self.refused(format!("its token realm is refused: {reason}"))
                })?;
                let trusted = self.trust.owns(&realm);
                if !trusted && self.credentials.is_some() {
                    let origin = realm.origin().ascii_serialization();
                    *lock(&self.elsewhere) = Some(origin);
                }
                // A parameter each in a query, all in one in a form (distribution, docs/spec/auth).
                let form =
                    matches!(self.credentials, Some(Credentials::IdentityToken(_))) && trusted;
                let scopes: Vec<_> = match form {
                    true => vec![scope],
                    false => scope.split(' ').collect(),
                };
                let scopes = scopes.into_iter().map(|scope| ("scope", scope));
                realm.query_pairs_mut().extend_pairs(scopes);
                if let Some(service) = service {
                    realm.query_pairs_mut().append_pair("service", service);
                }
                (realm, trusted)
            }
        };
        let (url, trusted) = realm;
        let request = match self.credentials.as_ref().filter(|_| trusted) {
            Some(Credentials::Basic(user, password)) => self
                .direct
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
                self.direct
                    .post(bare)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form)
            }
            None => self.direct.get(url),
        };
        let response = request
            .timeout(self.timeout)
            .send()
            .await
            .map_err(|e| unavailable(&self.host, &e))?;
        if response.status() == StatusCode::UNAUTHORIZED
            || response.status() == StatusCode::FORBIDDEN
        {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(self.failed(&response));
        }
        let body = self
            .content(response, "the upstream's token", SHORT)
            .await?;
        let given: Given =
            serde_json::from_slice(&body).map_err(|_| self.nonsense("a token that is no JSON"))?;
        let token = given
            .token
            .or(given.access_token)
            .ok_or_else(|| self.nonsense("an answer without a token"))?;
        // It goes into a header, and is kept.
        if token.len() > LONGEST_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.nonsense("a token that is none"));
        }
        // The token specification: 60 seconds when nothing is said. Renewed a little early.
        let lifetime = given.expires_in.as_u64().unwrap_or(60).clamp(20, LIFETIME) - 10;
        let lifetime = Duration::from_secs(lifetime);
        Ok(Some((format!("Bearer {token}"), lifetime)))
    }
}

pub fn scope(path: &str, access: Access) -> String {
    let actions = match access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    format!("repository:{path}:{actions}")
}
