//! Names of repositories, and the one key that all their aliases lead to.
//!
//! A repository's key is always `<host>/<path>`, as docker writes names in full:
//! `docker.io/library/goals`, `ghcr.io/org/app`. This registry's own namespace *is* that of
//! `docker.io`, because that is what an image name without a host means in docker's grammar:
//!
//! | said by | as | key |
//! |---|---|---|
//! | `ctl build -t goals` | `goals` | `docker.io/library/goals` |
//! | `skopeo copy ... docker://127.0.0.1:5000/goals` | `/v2/goals/...` | `docker.io/library/goals` |
//! | `ctl run localhost:5000/goals` | own address | `docker.io/library/goals` |
//! | `podman push 127.0.0.1:5000/team/app` | `/v2/team/app/...` | `docker.io/team/app` |
//! | a plain docker.io mirror | `/v2/library/nginx/...` | `docker.io/library/nginx` |
//! | a mirror by path | `/v2/ghcr.io/org/app/...` | `ghcr.io/org/app` |
//! | containerd, Docker 29 | `/v2/org/app/...?ns=ghcr.io` | `ghcr.io/org/app` |
//!
//! So an image has one place whichever way it came, and every alias finds it. Whether a tag was put
//! here or came from upstream is remembered with the tag ([`crate::store::Origin`]): one that was put
//! here is never asked for upstream behind its owner's back, so a pushed `team/app` and Docker Hub's
//! `team/app` do not mix. The first component of an HTTP path is a host when it has a `.` or a `:` or
//! is `localhost`, and something follows it; a host that is one of this registry's own addresses is
//! the registry itself.

use std::{fmt, sync::Arc};

use slipway_image::Digest;

use crate::error::{Error, Result};

mod grammar;
mod own;

use grammar::{is_component, is_host};
pub use own::OwnNames;

/// The host whose namespace is also our own.
pub const DEFAULT_HOST: &str = "docker.io";

/// Repositories below this host are the platform's own (the build cache): they are no images, and
/// no upstream is ever asked for them.
pub const INTERNAL_HOST: &str = "slipway.internal";

/// Longest path of a repository, as distribution has it.
const MAX_PATH: usize = 255;

/// A repository's key: `<host>/<path>`, checked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(Arc<str>);

impl Repository {
    /// From a host and a path; `docker.io/nginx` becomes `docker.io/library/nginx`, `ghcr.io:443` becomes `ghcr.io`.
    pub fn new(host: &str, path: &str) -> Result<Self> {
        Self::checked(&plain_host(host), path)
    }

    fn checked(host: &str, path: &str) -> Result<Self> {
        let invalid = |reason: &str| Error::InvalidReference {
            text: format!("{host}/{path}"),
            reason: reason.to_owned(),
        };
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_HOST,
            host => host,
        };
        if !is_host(host) {
            return Err(invalid("that is not a host name"));
        }
        if path.is_empty() || path.len() > MAX_PATH || !path.split('/').all(is_component) {
            return Err(invalid(
                "a repository is lower-case letters, digits and single . _ - between them",
            ));
        }
        let library = host == DEFAULT_HOST && !path.contains('/');
        let infix = if library { "library/" } else { "" };
        Ok(Self(format!("{host}/{infix}{path}").into()))
    }

    /// From the key's own text, as the index and the file names hold it. One with `:443`, which older versions kept,
    /// stays another repository, that no name leads to.
    pub fn from_key(key: &str) -> Result<Self> {
        let (host, path) = key.split_once('/').ok_or_else(|| Error::InvalidReference {
            text: key.to_owned(),
            reason: "a repository's key has a host".to_owned(),
        })?;
        Self::checked(host, path)
    }

    /// `docker.io/library/goals`
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `docker.io`
    pub fn host(&self) -> &str {
        self.0.split_once('/').expect("a key has a host").0
    }

    /// `library/goals`
    pub fn path(&self) -> &str {
        self.0.split_once('/').expect("a key has a host").1
    }

    /// As people write it: `goals`, `team/app`, `ghcr.io/org/app`.
    pub fn familiar(&self) -> &str {
        match self.host() {
            DEFAULT_HOST => match self.path().strip_prefix("library/") {
                // `library/a/b` is not `a/b`.
                Some(official) if !official.contains('/') => official,
                _ => self.path(),
            },
            _ => self.as_str(),
        }
    }

    /// One of the platform's own repositories.
    pub fn is_internal(&self) -> bool {
        self.host() == INTERNAL_HOST
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Repository {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Repository {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_key(&text).map_err(serde::de::Error::custom)
    }
}

/// A tag, checked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Parses `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}` (distribution-spec, "Pulling manifests").
    pub fn parse(text: &str) -> Result<Self> {
        let mut bytes = text.bytes();
        let ok = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && text.len() <= 128;
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(Error::InvalidReference {
                text: text.to_owned(),
                reason: "a tag is at most 128 letters, digits, _ . - and begins with no . or -"
                    .to_owned(),
            })
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Tag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Tag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// What points into a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pointer {
    /// By name.
    Tag(Tag),
    /// By content.
    Digest(Digest),
}

impl Pointer {
    /// A digest when it has a colon, a tag otherwise.
    pub fn parse(text: &str) -> Result<Self> {
        if text.contains(':') {
            parse_digest(text).map(Self::Digest)
        } else {
            Tag::parse(text).map(Self::Tag)
        }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A repository and what points into it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// Where.
    pub repository: Repository,
    /// What.
    pub pointer: Pointer,
}

impl ImageName {
    /// As people write it: `goals:latest`, `goals@sha256:...`.
    pub fn familiar(&self) -> String {
        let separator = self.separator();
        format!("{}{separator}{}", self.repository.familiar(), self.pointer)
    }

    fn separator(&self) -> char {
        match self.pointer {
            Pointer::Tag(_) => ':',
            Pointer::Digest(_) => '@',
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.repository, self.separator(), self.pointer)
    }
}

/// A host as keys have it: in lower case, and without the port that https has anyway, so that no rule for it is got
/// round.
pub fn plain_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.strip_suffix(":443") {
        Some(plain) => plain.to_owned(),
        None => host,
    }
}

/// Parses a digest of an algorithm that we can verify.
pub fn parse_digest(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|_| Error::InvalidDigest(text.to_owned()))
}
