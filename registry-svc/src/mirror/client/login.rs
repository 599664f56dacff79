//! `docker login`: whether a registry takes an account.

use http::{StatusCode, header};
use reqwest::Response;
use url::Url;

use super::{Client, Credentials, answer::SHORT, challenge::Challenge};
use crate::error::{Error, Result};

/// What distribution's token server gives in place of the password (distribution, spec/auth/token, "offline_token").
#[derive(serde::Deserialize)]
struct Granted {
    token: Option<String>,
    /// Some send both; both mean the same.
    access_token: Option<String>,
    refresh_token: Option<String>,
}

impl Client {
    /// Asks the registry whether it takes this client's account; the identity token that it gives for it, if any.
    pub async fn login(&self) -> Result<Option<String>> {
        let url = self.url("")?;
        self.trust.check(&url).map_err(|e| self.refused(e))?;
        let response = self.observe(self.direct.get(url.clone()).send().await)?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return match response.status().is_success() {
                // It wants to know nobody.
                true => Ok(None),
                false => Err(self.failed(&response)),
            };
        }
        let challenge = Challenge::of(response.headers())
            .ok_or_else(|| self.nonsense("401 and no challenge that is known"))?;
        let (response, identity) = match &challenge {
            Challenge::Bearer { realm, service } => {
                let realm = self.realm(realm)?;
                let (token, identity) = self.grant(realm, service.as_deref()).await?;
                (self.ask(url, Some(&token)).await?, identity)
            }
            Challenge::Basic => (self.ask(url, None).await?, None),
        };
        match response.status() {
            status if status.is_success() => Ok(identity),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = self.message_of(response).await;
                Err(self.unauthorized(&message))
            }
            _ => Err(self.failed(&response)),
        }
    }

    /// With a token, or else with name and password where there are any.
    async fn ask(&self, url: Url, token: Option<&str>) -> Result<Response> {
        let request = self.direct.get(url);
        let request = match (token, &self.credentials) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some(Credentials::Basic(user, password))) => {
                request.basic_auth(user, Some(password))
            }
            (None, _) => request,
        };
        self.observe(request.send().await)
    }

    /// The account goes to the registry's own token server, or to none.
    fn realm(&self, realm: &str) -> Result<Url> {
        let realm: Url = realm
            .parse()
            .map_err(|_| self.nonsense("a token realm that is no URL"))?;
        let refused = |why: &str| self.refused(format!("its token realm is refused: {why}"));
        self.trust.check(&realm).map_err(|why| refused(&why))?;
        match self.trust.owns(&realm) {
            true => Ok(realm),
            false => Err(refused(&format!(
                "{} gets no account of {}: realm for this upstream in registry.toml says that they belong together",
                realm.origin().ascii_serialization(),
                self.host
            ))),
        }
    }

    /// An access token without any right, and an identity token.
    async fn grant(
        &self,
        mut realm: Url,
        service: Option<&str>,
    ) -> Result<(String, Option<String>)> {
        let mut pairs = vec![("client_id", "slipway"), ("offline_token", "true")];
        pairs.extend(service.map(|service| ("service", service)));
        let request = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(pairs)
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", token)
                    .finish();
                self.direct
                    .post(realm)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form)
            }
            Some(Credentials::Basic(user, password)) => {
                pairs.push(("account", user));
                realm.query_pairs_mut().extend_pairs(pairs);
                self.direct.get(realm).basic_auth(user, Some(password))
            }
            None => return Err(self.unauthorized("no account was given")),
        };
        let response = self.observe(request.send().await)?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = self.message_of(response).await;
                return Err(self.unauthorized(&message));
            }
            _ => return Err(self.failed(&response)),
        }
        let content = self
            .content(response, "the token server's answer", SHORT)
            .await?;
        let granted: Granted = serde_json::from_slice(&content)
            .map_err(|_| self.nonsense("a token that is no JSON"))?;
        let token = granted
            .token
            .or(granted.access_token)
            .ok_or_else(|| self.nonsense("an answer without a token"))?;
        Ok((token, granted.refresh_token))
    }

    fn unauthorized(&self, message: &str) -> Error {
        Error::Unauthorized {
            host: self.host.clone(),
            message: message.to_owned(),
        }
    }
}
