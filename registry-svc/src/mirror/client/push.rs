//! What a push needs of a foreign registry.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Body, Response};
use slipway_image::Digest;
use tokio::sync::watch;
use url::Url;

use super::{Access, Client, answer::unavailable, auth::scope, empty};
use crate::{
    error::{Error, Result},
    mirror::Scope,
};

impl Client {
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
        let url = self.url(&format!("{path}/blobs/uploads/"))?;
        let mounting = match mount {
            Some(mount) => self.mount(&url, path, mount).await?,
            None => None,
        };
        let response = match mounting {
            Some(response) => response,
            None => {
                self.send(Method::POST, url.clone(), path, Access::Push, empty(), None)
                    .await?
            }
        };
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

    /// Asks for a blob of another repository of the remote, for which one must be let in there, too; `None` when one is
    /// not, which is no reason not to send it.
    async fn mount(
        &self,
        url: &Url,
        path: &str,
        (digest, from): (&Digest, &str),
    ) -> Result<Option<Response>> {
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let scopes = format!(
            "{} {}",
            scope(path, Access::Push),
            scope(from, Access::Pull)
        );
        let response = self
            .send_for(Method::POST, url, &scopes, empty(), None)
            .await?;
        let denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&response.status());
        Ok((!denied).then_some(response))
    }

    /// Sends a whole blob to where [`Self::start_upload`] said.
    pub async fn upload(
        &self,
        path: &str,
        mut location: Url,
        digest: &Digest,
        size: u64,
        content: impl Stream<Item = Result<Bytes>> + Send + 'static,
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
        self.trust.check(&location).map_err(|e| self.refused(e))?;
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
        let (taking, taken) = watch::channel(());
        let content = content.inspect(move |_| taking.send_replace(()));
        let sent = self
            .sending
            .put(location)
            .headers(headers)
            .body(Body::wrap_stream(content))
            .send();
        let response = tokio::select! {
            response = sent => response.map_err(|e| unavailable(&self.host, &e))?,
            () = stands_still(taken, self.timeout) => {
                return Err(Error::UpstreamUnavailable {
                    host: self.host.clone(),
                    message: format!("it stopped taking a blob that is sent to it for {:?}", self.timeout),
                    scope: Scope::Repository,
                });
            }
        };
        self.check(response, path).await.map(|_| ())
    }

    /// Stores a manifest under a tag or digest. Returns whether the remote lists what refers to others by itself
    /// (`OCI-Subject`: distribution-spec, "Pushing Manifests with Subject").
    pub async fn put_manifest(
        &self,
        path: &str,
        reference: &str,
        media_type: &str,
        content: Bytes,
    ) -> Result<bool> {
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
        let response = self.check(response, path).await?;
        Ok(response.headers().contains_key("oci-subject"))
    }
}

/// Returns when nothing more of a body was taken for so long, or there was no answer four times as long after its end:
/// the remote may look at all of it once more.
async fn stands_still(mut taken: watch::Receiver<()>, patience: Duration) {
    loop {
        match tokio::time::timeout(patience, taken.changed()).await {
            Ok(Ok(())) => {}
            // All is sent.
            Ok(Err(_)) => return tokio::time::sleep(patience.saturating_mul(4)).await,
            Err(_) => return,
        }
    }
}
