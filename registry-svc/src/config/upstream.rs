//! `[[upstream]]`: registries that are mirrored.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{ConfigError, units::parse_duration};
use crate::names::plain_host;

/// How long a tag is believed without asking, by default.
pub const TAG_TTL: Duration = Duration::from_secs(300);

/// How long an upstream may be silent, by default.
pub const TIMEOUT: Duration = Duration::from_secs(30);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, RegistryFile};

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
    fn unknown_settings_are_named() {
        let error = upstream("[[upstream]]\nhost = \"a\"\ncolour = 1\n").unwrap_err();
        assert!(error.contains("colour"), "{error}");
    }
}
