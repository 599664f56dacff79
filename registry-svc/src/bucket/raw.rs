//! Requests that are written and signed here, for what `object_store` does not know or does not tell.

use http::{Method, Response};
use object_store::{
    aws::AwsAuthorizer,
    client::{
        HttpClient, HttpConnector as _, HttpRequest, HttpRequestBody, HttpResponseBody,
        ReqwestConnector,
    },
};
use url::Url;

use super::{Bucket, BucketConfig, connect, failed};
use crate::error::{Error, Result};

/// See the module's page.
pub struct Raw {
    client: HttpClient,
    /// Of the bucket: objects are below.
    pub address: Url,
    region: String,
}

impl Raw {
    /// For this bucket; nothing is asked yet.
    pub fn new(config: &BucketConfig) -> Result<Self> {
        let client = ReqwestConnector::default().connect(&connect::for_requests(config));
        Ok(Self {
            client: client.map_err(|e| failed(&e))?,
            address: connect::address(config),
            region: config.region.clone(),
        })
    }

    /// Makes a request without content, with the keys of the bucket; whatever is answered is an answer.
    pub async fn ask(
        &self,
        bucket: &Bucket,
        method: Method,
        url: &Url,
    ) -> Result<Response<HttpResponseBody>> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        let nonsense = |e: &dyn std::fmt::Display| Error::Bucket(format!("{}: {e}", url.path()));
        *request.uri_mut() = url.as_str().parse().map_err(|e| nonsense(&e))?;
        let keys = bucket.requests.credentials().get_credential().await;
        let keys = keys.map_err(|e| failed(&e))?;
        AwsAuthorizer::new(&keys, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|e| failed(&e))?;
        let answer = self.client.execute(request).await;
        answer.map_err(|e| nonsense(&e))
    }
}
