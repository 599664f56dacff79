//! `[store]` of `registry.toml`: where blobs, manifests and tags are.

use std::path::{Path, PathBuf};

use object_store::Certificate;
use serde::Deserialize;
use url::{Host, Url};

use super::connect::amazon;

/// `[store]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreFile {
    /// `files` or `s3`.
    pub kind: Option<String>,
    /// Name of the bucket.
    pub bucket: Option<String>,
    /// Everything in the bucket is below this.
    pub prefix: Option<String>,
    /// Of the bucket.
    pub region: Option<String>,
    /// Where it is, if not at AWS.
    pub endpoint: Option<String>,
    /// The bucket's name is part of the path and not of the host.
    pub path_style: Option<bool>,
    /// Allows http.
    pub allow_http: bool,
    /// Keys, in the form of `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// Certificates of authorities that are believed besides the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Clients are sent to the bucket for blobs.
    pub redirect: bool,
}

/// A bucket, checked.
#[derive(Debug, Clone)]
pub struct BucketConfig {
    /// Its name.
    pub bucket: String,
    /// Everything is below this; empty = at the top.
    pub prefix: String,
    /// Its region.
    pub region: String,
    /// Where it is, if not at AWS.
    pub endpoint: Option<Url>,
    /// The bucket's name is part of the path and not of the host.
    pub path_style: bool,
    /// Given keys; otherwise those of the environment or of the machine.
    pub keys: Option<Keys>,
    /// Authorities that are believed besides the usual ones.
    pub authorities: Vec<Certificate>,
    /// Clients are sent to the bucket for blobs.
    pub redirect: bool,
}

/// An account's keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Which.
    pub id: String,
    /// What nobody else knows.
    pub secret: String,
    /// Of keys that are valid for a time.
    pub token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish()
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("registry.toml: store: {0}")]
pub struct SettingError(String);

fn refuse<T>(message: impl Into<String>) -> Result<T, SettingError> {
    Err(SettingError(message.into()))
}

impl StoreFile {
    /// Checks the settings and reads the keys. None: files.
    pub fn check(self) -> Result<Option<BucketConfig>, SettingError> {
        match self.kind.as_deref() {
            None | Some("files") => return self.check_files(),
            Some("s3") => {}
            Some(other) => return refuse(format!("kind {other:?} is neither files nor s3")),
        }
        let Some(bucket) = self.bucket else {
            return refuse("kind = \"s3\" needs a bucket");
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            return refuse(format!("bucket {bucket:?} is no name of a bucket"));
        }
        let prefix = self.prefix.unwrap_or_default();
        let prefix = prefix.trim_matches('/');
        let part = |part: &str| !part.is_empty() && part.bytes().all(plain) && part != "..";
        if !prefix.is_empty() && !prefix.split('/').all(part) {
            return refuse(format!(
                "prefix {prefix:?}: write lower-case letters, digits and - . _ with / between"
            ));
        }
        let endpoint = match &self.endpoint {
            None => None,
            Some(text) => {
                let url: Url = match text.parse() {
                    Ok(url) => url,
                    Err(e) => return refuse(format!("endpoint {text:?}: {e}")),
                };
                match url.scheme() {
                    "https" => {}
                    "http" if self.allow_http => {}
                    "http" => return refuse("an http:// endpoint needs allow_http = true"),
                    other => return refuse(format!("{other}:// is not supported")),
                }
                if !matches!(url.path(), "" | "/") || url.query().is_some() {
                    return refuse(format!("endpoint {text:?} is more than a host and a port"));
                }
                Some(url)
            }
        };
        let keys = self
            .credentials_file
            .as_deref()
            .map(read_keys)
            .transpose()?;
        let authorities = self.ca_file.as_deref().map(read_authorities).transpose()?;
        let path_style = self.path_style.unwrap_or(endpoint.is_some());
        let host = endpoint.as_ref().and_then(Url::host);
        if !path_style && matches!(host, Some(Host::Ipv4(_) | Host::Ipv6(_))) {
            return refuse("path_style = false needs an endpoint with a name, not an address");
        }
        let region = self.region.unwrap_or_else(|| "us-east-1".to_owned());
        if region.is_empty() || !region.bytes().all(plain) || amazon(&region).is_none() {
            return refuse(format!("region {region:?} is no name of a region"));
        }
        Ok(Some(BucketConfig {
            bucket,
            prefix: prefix.to_owned(),
            region,
            path_style,
            endpoint,
            keys,
            authorities: authorities.unwrap_or_default(),
            redirect: self.redirect,
        }))
    }

    fn check_files(&self) -> Result<Option<BucketConfig>, SettingError> {
        let given = [
            ("bucket", self.bucket.is_some()),
            ("prefix", self.prefix.is_some()),
            ("region", self.region.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("path_style", self.path_style.is_some()),
            ("allow_http", self.allow_http),
            ("credentials_file", self.credentials_file.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("redirect", self.redirect),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => refuse(format!("{name} needs kind = \"s3\"")),
            None => Ok(None),
        }
    }
}

/// Reads the default profile of a file of keys.
fn read_keys(path: &Path) -> Result<Keys, SettingError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) => return refuse(format!("cannot read {}: {e}", path.display())),
    };
    let (mut id, mut secret, mut token, mut here) = (None, None, None, true);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            here = line == "[default]";
        }
        let Some((name, value)) = line.split_once('=').filter(|_| here) else {
            continue;
        };
        let value = Some(value.trim().to_owned());
        match name.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Keys { id, secret, token }),
        _ => refuse(format!(
            "{} has no aws_access_key_id and aws_secret_access_key",
            path.display()
        )),
    }
}

/// Reads certificates, one after the other in PEM.
fn read_authorities(path: &Path) -> Result<Vec<Certificate>, SettingError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) => return refuse(format!("cannot read {}: {e}", path.display())),
    };
    match Certificate::from_pem_bundle(&text) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => refuse(format!("{} has no certificate", path.display())),
        Err(e) => refuse(format!("{}: {e}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Option<BucketConfig>, String> {
        let file: StoreFile = toml::from_str(text).map_err(|e| e.to_string())?;
        file.check().map_err(|e| e.to_string())
    }

    #[test]
    fn a_bucket_has_a_place_and_keys() {
        assert!(check("").unwrap().is_none());
        assert!(check("kind = \"files\"").unwrap().is_none());
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let text = "[other]\naws_access_key_id=X\n[default]\naws_access_key_id = A\n\
                    aws_secret_access_key = b=\n";
        std::fs::write(&keys, text).unwrap();
        let config = check(&format!(
            "kind = \"s3\"\nbucket = \"images\"\nprefix = \"/a/b/\"\nendpoint = \"https://s3:9000\"\n\
             credentials_file = {keys:?}\nredirect = true\n"
        ));
        let config = config.unwrap().unwrap();
        let keys = config.keys.unwrap();
        assert_eq!((&*keys.id, &*keys.secret, keys.token), ("A", "b=", None));
        assert_eq!((&*config.prefix, config.path_style), ("a/b", true));
        assert!(config.redirect && config.region == "us-east-1");
        let config = check("kind = \"s3\"\nbucket = \"images\"\nregion = \"eu-1\"").unwrap();
        assert!(!config.unwrap().path_style);
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let s3 = "kind = \"s3\"\n";
        for (text, told) in [
            ("bucket = \"images\"".to_owned(), "bucket needs kind"),
            ("redirect = true".to_owned(), "redirect needs kind"),
            ("kind = \"gcs\"".to_owned(), "gcs"),
            ("colour = 1".to_owned(), "colour"),
            (s3.to_owned(), "needs a bucket"),
            (
                format!("{s3}bucket = \"abc\"\nregion = \"xn--\""),
                "no name of a region",
            ),
            (format!("{s3}bucket = \"Images\""), "no name of a bucket"),
            (format!("{s3}bucket = \"abc\"\nprefix = \"a//b\""), "prefix"),
            (format!("{s3}bucket = \"abc\"\nprefix = \"../b\""), "prefix"),
            (
                format!("{s3}bucket = \"abc\"\nendpoint = \"http://s3\""),
                "allow_http = true",
            ),
            (
                format!("{s3}bucket = \"abc\"\nendpoint = \"ftp://s3\""),
                "ftp:// is not",
            ),
            (
                format!("{s3}bucket = \"abc\"\nendpoint = \"https://s3/abc\""),
                "more than a host",
            ),
            (
                format!("{s3}bucket = \"abc\"\ncredentials_file = \"/nowhere\""),
                "/nowhere",
            ),
            (
                format!(
                    "{s3}bucket = \"abc\"\nendpoint = \"https://10.0.0.1\"\npath_style = false"
                ),
                "needs an endpoint with a name",
            ),
            (
                format!("{s3}bucket = \"abc\"\nregion = \"eu/1\""),
                "no name of a region",
            ),
            (
                format!("{s3}bucket = \"abc\"\nca_file = \"/dev/null\""),
                "has no certificate",
            ),
            (
                format!("{s3}bucket = \"abc\"\ncredentials_file = \"/dev/null\""),
                "has no aws_access_key_id",
            ),
        ] {
            let error = check(&text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
