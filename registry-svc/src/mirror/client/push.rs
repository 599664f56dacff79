//! What a push needs of a foreign registry.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::Body;
use slipway_image::Digest;
use url::Url;

use super::{Access, Client, answer::unavailable, auth::scope, empty};
use crate::error::{Error, Result};

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
