//! Settings: `registry.toml` and what it means.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{
    access::policy::AccessRule,
    bucket::{BucketConfig, settings::StoreFile},
    http::{Limits, Proxies, TlsFiles},
    leases::GRACE,
    mirror::MirrorLimits,
    names::{OwnNames, plain_host},
    retention::rules::{RuleFile, Rules},
    unfinished::UploadLimits,
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

/// `[fsck]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FsckFile {
    /// Bytes a second that a check reads.
    pub rate: Option<String>,
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

/// `[limits]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsFile {
    /// Connections at once.
    pub connections: Option<usize>,
    /// Connections at once from one address.
    pub connections_per_client: Option<usize>,
    /// Uploads under way of one caller.
    pub uploads: Option<usize>,
    /// Bytes of them together.
    pub upload_bytes: Option<u64>,
}

impl LimitsFile {
    /// Of connections.
    pub fn connections(&self) -> Limits {
        let default = Limits::default();
        let per_client = self.connections_per_client;
        Limits {
            connections: self.connections.unwrap_or(default.connections),
            connections_per_client: per_client.unwrap_or(default.connections_per_client),
            ..default
        }
    }

    /// Of uploads.
    pub fn uploads(&self) -> UploadLimits {
        let default = UploadLimits::default();
        UploadLimits {
            count: self.uploads.unwrap_or(default.count),
            bytes: self.upload_bytes.unwrap_or(default.bytes),
        }
    }
}

/// `[mirror]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorFile {
    /// The largest blob.
    pub max_blob: Option<String>,
    /// What broken transfers may leave.
    pub partial: Option<String>,
    /// What stays free.
    pub min_free: Option<String>,
}

impl MirrorFile {
    /// Checks the sizes.
    pub fn check(&self) -> Result<MirrorLimits, ConfigError> {
        let size = |name: &str, text: &Option<String>| {
            let parse = |text: &String| {
                parse_size(text).ok_or_else(|| {
                    ConfigError::of(format!("mirror: {name}"), format!("{text:?}: write 20GB"))
                })
            };
            text.as_ref().map(parse).transpose()
        };
        let default = MirrorLimits::default();
        Ok(MirrorLimits {
            max_blob: size("max_blob", &self.max_blob)?.unwrap_or(default.max_blob),
            partial: size("partial", &self.partial)?.unwrap_or(default.partial),
            min_free: size("min_free", &self.min_free)?,
        })
    }
}

/// `[[upstream]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamFile {
    /// As it stands in image names.
    pub host: String,
    /// Where it is.
    #[serde(default)]
    pub url: Option<String>,
    /// Allows http.
    #[serde(default)]
    pub insecure: bool,
    /// Account there.
    #[serde(default)]
    pub username: Option<String>,
    /// File with its password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// How long a tag is believed without asking.
    #[serde(default)]
    pub tag_ttl: Option<String>,
    /// It may be on a private network, and may send us to others there.
    #[serde(default)]
    pub private: bool,
    /// Where its tokens are given, when that is another host: it gets the account too.
    #[serde(default)]
    pub realm: Option<String>,
    /// How long it may be silent.
    #[serde(default)]
    pub timeout: Option<String>,
}

/// An upstream, checked.
#[derive(Clone)]
pub struct UpstreamConfig {
    /// As it stands in image names.
    pub host: String,
    /// Where it is.
    pub url: url::Url,
    /// Account there.
    pub credentials: Option<(String, String)>,
    /// How long a tag is believed without asking.
    pub tag_ttl: Duration,
    /// It may be on a private network, and may send us to others there.
    pub private: bool,
    /// Where its tokens are given, when that is another host: it gets the account too.
    pub realm: Option<url::Url>,
    /// How long it may be silent.
    pub timeout: Duration,
}

impl std::fmt::Debug for UpstreamConfig {
    /// Without the password: this is for logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let username = self.credentials.as_ref().map(|(username, _)| username);
        f.debug_struct("UpstreamConfig")
            .field("host", &self.host)
            .field("url", &self.url.as_str())
            .field("username", &username)
            .field("tag_ttl", &self.tag_ttl)
            .field("private", &self.private)
            .field("realm", &self.realm.as_ref().map(url::Url::as_str))
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl UpstreamConfig {
    /// One for which nothing but its place is said.
    pub fn at(host: &str, url: url::Url) -> Self {
        Self {
            host: host.to_owned(),
            url,
            credentials: None,
            tag_ttl: TAG_TTL,
            private: false,
            realm: None,
            timeout: TIMEOUT,
        }
    }

    /// Where a host is that nothing is configured for; `None` when that is no host name.
    pub fn of_host(host: &str) -> Option<Self> {
        default_url(host).map(|url| Self::at(host, url))
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

/// How long a tag is believed without asking, by default.
pub const TAG_TTL: Duration = Duration::from_secs(300);

/// How many bytes a second a check of the store reads, by default: a disk has room for others beside it.
pub const FSCK_RATE: u64 = 100_000_000;

/// How long an upstream may be silent, by default.
pub const TIMEOUT: Duration = Duration::from_secs(30);

fn default_url(host: &str) -> Option<url::Url> {
    let host = match host {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    format!("https://{host}").parse().ok()
}

impl UpstreamFile {
    /// Checks the settings and reads the password.
    pub fn check(self) -> Result<UpstreamConfig, ConfigError> {
        let host = plain_host(&self.host);
        let fail = |message: String| ConfigError::of(format!("upstream {host:?}"), message);
        let url = match &self.url {
            Some(url) => url
                .parse::<url::Url>()
                .map_err(|e| fail(format!("url {url:?}: {e}")))?,
            None => default_url(&host).ok_or_else(|| fail("that is no host name".to_owned()))?,
        };
        match url.scheme() {
            "https" => {}
            "http" if self.insecure => {}
            "http" => return Err(fail("an http:// url needs insecure = true".to_owned())),
            other => return Err(fail(format!("{other}:// is not supported"))),
        }
        let credentials = match (self.username, self.password_file) {
            (Some(username), Some(file)) => {
                let password = std::fs::read_to_string(&file)
                    .map_err(|e| fail(format!("cannot read {}: {e}", file.display())))?;
                Some((username, password.trim_end_matches(['\r', '\n']).to_owned()))
            }
            (None, None) => None,
            _ => return Err(fail("username and password_file go together".to_owned())),
        };
        let duration = |name: &str, text: &Option<String>, default| match text {
            Some(text) => parse_duration(text)
                .ok_or_else(|| fail(format!("{name} {text:?}: write 30s, 5m, 1h or 1d"))),
            None => Ok(default),
        };
        let realm = match &self.realm {
            Some(text) => Some(
                text.parse::<url::Url>()
                    .map_err(|e| fail(format!("realm {text:?}: {e}")))?,
            ),
            None => None,
        };
        if let Some(realm) = &realm
            && realm.scheme() != "https"
            && !(realm.scheme() == "http" && self.insecure)
        {
            return Err(fail(
                "a realm is https://, unless insecure = true".to_owned(),
            ));
        }
        let timeout = duration("timeout", &self.timeout, TIMEOUT)?;
        if timeout.is_zero() {
            return Err(fail("timeout must not be 0".to_owned()));
        }
        Ok(UpstreamConfig {
            tag_ttl: duration("tag_ttl", &self.tag_ttl, TAG_TTL)?,
            private: self.private,
            timeout,
            realm,
            host,
            url,
            credentials,
        })
    }
}

impl FsckFile {
    /// Bytes a second.
    pub fn rate(&self) -> Result<u64, ConfigError> {
        let parse = |text: &String| {
            parse_size(text).filter(|rate| *rate > 0).ok_or_else(|| {
                let message = format!("{text:?}: write bytes a second, as 100MB");
                ConfigError::of("fsck: rate", message)
            })
        };
        self.rate.as_ref().map_or(Ok(FSCK_RATE), parse)
    }
}

/// `1024`, `500kB`, `20GB`, `1TB`; `MiB` and the like are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim_end().parse().ok()?;
    let unit: u64 = match &*text[digits.len()..].to_ascii_lowercase() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// `300`, `30s`, `5m`, `1h`, `1d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(text: &str) -> Result<UpstreamConfig, String> {
        let file: RegistryFile = toml::from_str(text).map_err(|e| e.to_string())?;
        file.upstream[0].clone().check().map_err(|e| e.to_string())
    }

    #[test]
    fn plain_http_must_be_asked_for() {
        let text = "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://127.0.0.1:1\"\n";
        assert!(upstream(text).unwrap_err().contains("insecure = true"));
        let config = upstream(&format!("{text}insecure = true\ntag_ttl = \"0s\"\n")).unwrap();
        assert_eq!(config.tag_ttl, Duration::ZERO);
        let defaults = upstream("[[upstream]]\nhost = \"docker.io\"\n").unwrap();
        assert_eq!(defaults.url.as_str(), "https://registry-1.docker.io/");
        assert_eq!(defaults.tag_ttl, TAG_TTL);
        let named = upstream("[[upstream]]\nhost = \"Reg.example:443\"\n").unwrap();
        assert_eq!(named.host, "reg.example");
        assert_eq!((defaults.private, defaults.timeout), (false, TIMEOUT));
    }

    #[test]
    fn a_realm_gets_the_account_over_https_only() {
        let text = "[[upstream]]\nhost = \"a.example\"\nprivate = true\ntimeout = \"5s\"\n";
        let config = upstream(&format!("{text}realm = \"https://auth.example\"\n")).unwrap();
        assert!(config.private && config.timeout == Duration::from_secs(5));
        assert_eq!(config.realm.unwrap().as_str(), "https://auth.example/");
        let plain = format!("{text}realm = \"http://auth.example\"\n");
        assert!(upstream(&plain).unwrap_err().contains("https://"));
        assert!(upstream(&format!("{plain}insecure = true\n")).is_ok());
        let never = text.replace("5s", "0s");
        assert!(upstream(&never).unwrap_err().contains("timeout"));
    }

    #[test]
    fn no_password_is_written_to_a_log() {
        let mut upstream = UpstreamConfig::of_host("a.example").unwrap();
        upstream.credentials = Some(("ann".to_owned(), "secret".to_owned()));
        let config = Config {
            upstreams: vec![upstream],
            ..Config::default()
        };
        let text = format!("{config:?}");
        assert!(text.contains("ann") && !text.contains("secret"), "{text}");
    }

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

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("7", Some(7)),
            ("20GB", Some(20_000_000_000)),
            ("2 MiB", Some(2 << 20)),
            ("1XB", None),
            ("GB", None),
            ("99999999999TB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
        let file: RegistryFile = toml::from_str("[fsck]\nrate = \"0MB\"\n").unwrap();
        let error = file.fsck.rate().unwrap_err().to_string();
        assert!(error.contains("bytes a second"), "{error}");
    }

    #[test]
    fn what_upstreams_may_take_is_sizes() {
        let check = |text: &str| {
            let file: RegistryFile = toml::from_str(text).unwrap();
            file.mirror.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(""), Ok(MirrorLimits::default()));
        let set = MirrorLimits {
            max_blob: 1000,
            partial: 2000,
            min_free: Some(0),
        };
        let text = "[mirror]\nmax_blob = '1kB'\npartial = '2kB'\nmin_free = '0'";
        assert_eq!(check(text), Ok(set));
        let error = check("[mirror]\nmin_free = 'much'").unwrap_err();
        assert!(error.contains("mirror: min_free: \"much\""), "{error}");
    }

    #[test]
    fn unknown_settings_are_named() {
        let error = upstream("[[upstream]]\nhost = \"a\"\ncolour = 1\n").unwrap_err();
        assert!(error.contains("colour"), "{error}");
    }
}
