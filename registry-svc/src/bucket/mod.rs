//! A bucket of an S3 server: whole objects, made once and never changed.
//!
//! The one module that knows `object_store`. A name is never used twice but by [`Bucket::create`], which makes an
//! object only where none is (`If-None-Match: *`); so nothing that was read can be something else later, and whoever
//! removes an object removes what he looked at.

use std::{
    env,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    BackoffConfig, ClientOptions, Error as S3Error, GetOptions, GetRange, ObjectStore as _,
    ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    path::Path as Key,
    signer::Signer as _,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use url::Url;

use crate::{
    error::{Error, Result},
    files,
};

#[cfg(test)]
pub(crate) mod server;
pub mod settings;
mod upload;

pub use settings::BucketConfig;
pub use upload::Segment;

/// How long a request may take, its retries too, before whoever waits is told.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a request may take that moves little.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a server may be silent while content is moved; a piece of a blob must get there in that time.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a signed address is good.
const SIGNED: Duration = Duration::from_secs(20 * 60);
/// Says what the bucket is used for.
const MARK: &str = "slipway.json";
/// Form of what is in the bucket.
const FORMAT: u32 = 1;

/// What may be asked of the environment; anything else of it stays without effect.
const ENVIRONMENT: [&str; 8] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_web_identity_token_file",
    "aws_role_arn",
    "aws_role_session_name",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
];

/// See the module's page.
pub struct Bucket {
    /// For what is answered at once.
    requests: AmazonS3,
    /// For content, which takes as long as it takes.
    content: AmazonS3,
    prefix: String,
    /// MiB of pieces on their way, so that memory is bounded however many push.
    memory: Arc<Semaphore>,
}

/// An object in a list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Without the prefix.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was made, by the server's clock.
    pub made: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    id: String,
}

impl Bucket {
    /// A client of the bucket; nothing is asked yet.
    pub fn new(config: &BucketConfig) -> Result<Self> {
        let requests = ClientOptions::new().with_timeout(REQUEST);
        let content = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(SILENCE);
        Ok(Self {
            requests: client(config, requests)?,
            content: client(config, content)?,
            prefix: config.prefix.clone(),
            memory: Arc::new(Semaphore::new(upload::MEMORY)),
        })
    }

    /// Makes the bucket ours, or finds that it is. Tells its id.
    ///
    /// A server that does not know `If-None-Match` is refused: several who write would lose what they were told is
    /// stored.
    pub async fn claim(&self) -> Result<String> {
        let mark = Mark {
            format: FORMAT,
            id: files::random_uuid(),
        };
        let mark = serde_json::to_vec(&mark).expect("marks are plain data");
        self.create(MARK, mark.clone().into()).await?;
        if self.create(MARK, mark.into()).await? {
            return Err(Error::Bucket(
                "the server replaces objects in spite of If-None-Match".to_owned(),
            ));
        }
        let found = self.get(MARK).await?.unwrap_or_default();
        match serde_json::from_slice::<Mark>(&found) {
            Ok(mark) if mark.format == FORMAT => Ok(mark.id),
            Ok(mark) => Err(Error::Bucket(format!(
                "it has form {}, and this version of registry-svc knows form {FORMAT}",
                mark.format
            ))),
            Err(_) => Err(Error::Bucket(format!("its {MARK} is not of registry-svc"))),
        }
    }

    /// Makes a small object where none is; false: there is one.
    pub async fn create(&self, name: &str, content: Bytes) -> Result<bool> {
        let options = PutOptions::from(PutMode::Create);
        let key = self.key(name);
        match self.requests.put_opts(&key, content.into(), options).await {
            Ok(_) => Ok(true),
            Err(S3Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The content of a small object.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let read = async { self.requests.get(&self.key(name)).await?.bytes().await };
        match read.await {
            Ok(content) => Ok(Some(content)),
            Err(S3Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Reads a range of an object, which is not empty, in one request: who reads goes on when it is removed.
    pub async fn read(
        &self,
        name: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes>>>> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        match self.content.get_opts(&self.key(name), options).await {
            Ok(found) => Ok(Some(found.into_stream().map_err(|e| failed(&e)).boxed())),
            Err(S3Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Removes an object; one that is not there is as good.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.requests.delete(&self.key(name)).await {
            Ok(()) | Err(S3Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The objects of a folder in the order of their names, those behind one if that is given.
    pub fn list(&self, folder: &str, after: Option<&str>) -> BoxStream<'static, Result<Listed>> {
        let folder = self.key(folder);
        let found = match after {
            Some(after) => self
                .requests
                .list_with_offset(Some(&folder), &self.key(after)),
            None => self.requests.list(Some(&folder)),
        };
        let skip = match self.prefix.len() {
            0 => 0,
            prefix => prefix + 1,
        };
        found
            .map_ok(move |meta| Listed {
                name: meta.location.as_ref()[skip..].to_owned(),
                size: meta.size,
                made: meta.last_modified.into(),
            })
            .map_err(|e| failed(&e))
            .boxed()
    }

    /// An address where anybody reads an object for a while.
    pub async fn signed(&self, name: &str) -> Result<Url> {
        let key = self.key(name);
        let signing = self.requests.signed_url(http::Method::GET, &key, SIGNED);
        signing.await.map_err(|e| failed(&e))
    }

    /// Puts content of local files, in pieces where it is large. What a crash leaves of it is told in `notes`.
    pub async fn put(
        self: &Arc<Self>,
        name: String,
        content: Vec<Segment>,
        notes: &Path,
    ) -> Result<()> {
        upload::put(Arc::clone(self), name, content, notes.to_owned()).await
    }

    /// Gives up what a crash left half put.
    pub async fn forget_halves(&self, notes: &Path) -> Result<()> {
        upload::forget(self, notes).await
    }

    fn key(&self, name: &str) -> Key {
        match &*self.prefix {
            "" => Key::from(name),
            prefix => Key::from(format!("{prefix}/{name}")),
        }
    }
}

fn client(config: &BucketConfig, options: ClientOptions) -> Result<AmazonS3> {
    let options = options
        .with_connect_timeout(Duration::from_secs(5))
        .with_allow_http(
            config
                .endpoint
                .as_ref()
                .is_some_and(|e| e.scheme() == "http"),
        );
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(!config.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_tagging(true)
        .with_client_options(options)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(2),
                base: 2.,
            },
            max_retries: 6,
            retry_timeout: PATIENCE,
        });
    if let Some(endpoint) = &config.endpoint {
        let mut endpoint = endpoint.clone();
        if !config.path_style
            && let Some(host) = endpoint.host_str()
        {
            let host = format!("{}.{host}", config.bucket);
            // A name before a name is a name.
            let _ = endpoint.set_host(Some(&host));
        }
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    match &config.keys {
        Some(keys) => {
            builder = builder
                .with_access_key_id(&keys.id)
                .with_secret_access_key(&keys.secret);
            if let Some(token) = &keys.token {
                builder = builder.with_token(token);
            }
        }
        None => {
            for name in ENVIRONMENT {
                if let (Ok(value), Ok(key)) = (
                    env::var(name.to_ascii_uppercase()),
                    name.parse::<AmazonS3ConfigKey>(),
                ) {
                    builder = builder.with_config(key, value);
                }
            }
        }
    }
    builder.build().map_err(|e| failed(&e))
}

/// What people are told of a failure.
fn failed(error: &S3Error) -> Error {
    Error::Bucket(error.to_string())
}
