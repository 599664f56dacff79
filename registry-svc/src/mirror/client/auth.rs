//! Requests with the authorization that the registry asks for: its token and basic authentication.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::Response;
use url::Url;

use super::{
    Access, Client, Credentials,
    answer::unavailable,
    challenge::Challenge,
    trust::{is_inside, same_owner},
};
use crate::error::Result;

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

    pub(super) fn token(&self, scope: &str) -> Option<String> {
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
}

pub fn scope(path: &str, access: Access) -> String {
    let actions = match access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    format!("repository:{path}:{actions}")
}
