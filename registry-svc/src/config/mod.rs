//! Settings: `registry.toml` and what it means.

mod fsck;
mod limits;
mod mirror;
mod units;
mod upstream;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{
    access::policy::AccessRule,
    bucket::{BucketConfig, settings::StoreFile},
    http::{Proxies, TlsFiles},
    leases::GRACE,
    mirror::MirrorLimits,
    names::OwnNames,
    retention::rules::{RuleFile, Rules},
    unfinished::UploadLimits,
};

pub use self::{
    fsck::{FSCK_RATE, FsckFile},
    limits::LimitsFile,
    mirror::MirrorFile,
    units::{parse_duration, parse_size},
    upstream::{TAG_TTL, UpstreamConfig, UpstreamFile},
};

/// Where the Distribution API listens when nothing is said.
pub const DEFAULT_HTTP: &str = "127.0.0.1:5000";

/// `registry.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryFile {
    /// Addresses of the Distribution API.
    pub http: Vec<SocketAddr>,
    /// Plain HTTP off loopback was asked for by name.
    pub allow_plain_http: bool,
    /// Certificate of the Distribution API.
    pub http_tls: Option<TlsFiles>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Proxies,
    /// Users and passwords, as `htpasswd -B` writes them.
    pub htpasswd: Option<PathBuf>,
    /// The key of tokens that several registries share.
    pub token_key: Option<PathBuf>,
    /// Who may do what; with no rule everybody everything.
    pub access: Vec<AccessRule>,
    /// What one caller may take.
    pub limits: LimitsFile,
    /// Further names of this registry, as they stand in image names: `registry.example.com`.
    pub names: Vec<String>,
    /// How long content stays for whoever was told that it is here and has not named it yet.
    pub grace: Option<String>,
    /// Where everything is.
    pub store: StoreFile,
    /// Upstream registries.
    pub upstream: Vec<UpstreamFile>,
    /// What they may take.
    pub mirror: MirrorFile,
    /// What is taken away because nobody needs it any more.
    pub retention: Vec<RuleFile>,
    /// Checks of the store.
    pub fsck: FsckFile,
    /// Networks inside of the host or site that archives may be imported from.
    pub fetch_allow: Vec<ipnet::IpNet>,
}

impl RegistryFile {
    /// Checks the grace.
    pub fn grace(&self) -> Result<Duration, ConfigError> {
        match &self.grace {
            None => Ok(GRACE),
            Some(text) => parse_duration(text).ok_or_else(|| {
                ConfigError::of("grace", format!("{text:?}: write 30s, 15m, 1h or 1d"))
            }),
        }
    }
}

/// What the registry is opened with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which hosts are this registry itself.
    pub own: OwnNames,
    /// Configured upstreams; other hosts are asked over https.
    pub upstreams: Vec<UpstreamConfig>,
    /// What they may take.
    pub mirror: MirrorLimits,
    /// How long content stays for whoever was told that it is here and has not named it yet.
    pub grace: Duration,
    /// What is taken away because nobody needs it any more.
    pub retention: Rules,
    /// Bytes a second that a check of the store reads.
    pub fsck_rate: u64,
    /// What one caller may have under way over HTTP.
    pub uploads: UploadLimits,
    /// Where everything is, if not in the state folder.
    pub bucket: Option<BucketConfig>,
    /// Networks inside of the host or site that archives may be imported from.
    pub fetch_allow: Vec<ipnet::IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            own: OwnNames::default(),
            upstreams: Vec::new(),
            mirror: MirrorLimits::default(),
            grace: GRACE,
            retention: Rules::default(),
            fsck_rate: FSCK_RATE,
            uploads: UploadLimits::default(),
            bucket: None,
            fetch_allow: Vec::new(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("registry.toml: {setting}: {message}")]
pub struct ConfigError {
    setting: String,
    message: String,
}

impl ConfigError {
    fn of(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_is_a_time() {
        let grace = |text: &str| {
            let file: RegistryFile = toml::from_str(text).unwrap();
            file.grace().map_err(|e| e.to_string())
        };
        assert_eq!(grace(""), Ok(GRACE));
        assert_eq!(grace("grace = '0s'"), Ok(Duration::ZERO));
        let error = grace("grace = 'soon'").unwrap_err();
        assert!(error.contains("registry.toml: grace: \"soon\""), "{error}");
    }
}
