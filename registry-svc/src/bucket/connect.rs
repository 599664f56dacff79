//! Clients of a bucket: where it is, with which keys, and how patient they are.

use std::{env, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
};

use url::Url;

use super::{BucketConfig, failed};
use crate::error::Result;

/// How long a request may take, its retries too, before whoever waits is told.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a request may take that moves little.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a server may be silent while content is moved; a piece of a blob must get there in that time.
const SILENCE: Duration = Duration::from_secs(60);

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

/// For what is answered at once.
pub fn for_requests(config: &BucketConfig) -> ClientOptions {
    trusting(config).with_timeout(REQUEST)
}

/// For content, which takes as long as it takes.
pub fn for_content(config: &BucketConfig) -> ClientOptions {
    trusting(config)
        .with_timeout_disabled()
        .with_read_timeout(SILENCE)
}

fn trusting(config: &BucketConfig) -> ClientOptions {
    let plain = config.endpoint.as_ref().map(|e| e.scheme() == "http");
    let options = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_allow_http(plain.unwrap_or_default());
    let authorities = config.authorities.iter().cloned();
    authorities.fold(options, ClientOptions::with_root_certificate)
}

/// Where Amazon's buckets of a region are; `None`: that is no name of one.
pub(super) fn amazon(region: &str) -> Option<Url> {
    format!("https://s3.{region}.amazonaws.com").parse().ok()
}

/// Where the bucket answers: objects are below.
pub fn address(config: &BucketConfig) -> Url {
    let endpoint = config.endpoint.clone();
    let mut url = endpoint
        .unwrap_or_else(|| amazon(&config.region).expect("the settings refuse what is no region"));
    match config.path_style {
        true => url.set_path(&config.bucket),
        false => {
            let host = url
                .host_str()
                .map(|host| format!("{}.{host}", config.bucket));
            // A name before a name is a name; addresses were refused.
            let _ = url.set_host(host.as_deref());
        }
    }
    url
}

/// A client of a bucket; nothing is asked yet.
pub fn client(config: &BucketConfig, options: ClientOptions) -> Result<AmazonS3> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(!config.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_tagging(true)
        .with_client_options(options)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 4.,
            },
            max_retries: 8,
            retry_timeout: PATIENCE,
        });
    if let Some(endpoint) = &config.endpoint {
        let base = match config.path_style {
            true => endpoint.clone(),
            false => address(config),
        };
        builder = builder.with_endpoint(base.as_str().trim_end_matches('/'));
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
