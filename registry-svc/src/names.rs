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

use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc};

use slipway_image::{Digest, Reference};

use crate::error::{Error, Result};

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
    /// From a host and a path; `docker.io/nginx` becomes `docker.io/library/nginx`.
    pub fn new(host: &str, path: &str) -> Result<Self> {
        let invalid = |reason: &str| Error::InvalidReference {
            text: format!("{host}/{path}"),
            reason: reason.to_owned(),
        };
        let host = match host.to_ascii_lowercase() {
            h if h == "index.docker.io" || h == "registry-1.docker.io" => DEFAULT_HOST.to_owned(),
            h => h,
        };
        if !is_host(&host) {
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

    /// From the key's own text, as the index and the file names hold it.
    pub fn from_key(key: &str) -> Result<Self> {
        let (host, path) = key.split_once('/').ok_or_else(|| Error::InvalidReference {
            text: key.to_owned(),
            reason: "a repository's key has a host".to_owned(),
        })?;
        Self::new(host, path)
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
            DEFAULT_HOST => self.path().strip_prefix("library/").unwrap_or(self.path()),
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

/// Parses a digest of an algorithm that we can verify.
pub fn parse_digest(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|_| Error::InvalidDigest(text.to_owned()))
}

/// Which hosts are this registry itself.
#[derive(Debug, Clone, Default)]
pub struct OwnNames {
    hosts: BTreeSet<String>,
}

impl OwnNames {
    /// From the addresses that are listened on and names that were configured.
    pub fn new(listeners: &[SocketAddr], names: &[String]) -> Self {
        let mut hosts: BTreeSet<String> = names.iter().map(|n| n.to_ascii_lowercase()).collect();
        for address in listeners {
            hosts.insert(address.to_string());
            if address.ip().is_loopback() || address.ip().is_unspecified() {
                let port = address.port();
                hosts.insert(format!("localhost:{port}"));
                if address.is_ipv4() || address.ip().is_unspecified() {
                    hosts.insert(format!("127.0.0.1:{port}"));
                }
                if address.is_ipv6() {
                    hosts.insert(format!("[::1]:{port}"));
                }
            }
        }
        Self { hosts }
    }

    /// This host is this registry itself.
    pub fn is_own(&self, host: &str) -> bool {
        self.hosts.contains(&host.to_ascii_lowercase())
    }

    /// The repository at `/v2/<name>/...?ns=<ns>`. The platform's own are not served: whoever could
    /// write there would choose what other people's builds find in their cache.
    pub fn from_http(&self, name: &str, ns: Option<&str>) -> Result<Repository> {
        let repository = match ns.filter(|ns| !ns.is_empty() && !self.is_own(ns)) {
            Some(host) => Repository::new(host, name)?,
            None => self.from_name(name)?,
        };
        if repository.is_internal() {
            return Err(Error::PushDenied {
                name: repository.to_string(),
                message: "it is this site's own, and used by its services only".to_owned(),
            });
        }
        Ok(repository)
    }

    /// A repository's name with or without host: `goals`, `team/app`, `docker.io/library/goals`.
    pub fn from_name(&self, name: &str) -> Result<Repository> {
        match name.split_once('/') {
            Some((host, path)) if looks_like_host(host) && self.is_own(host) => {
                Repository::new(DEFAULT_HOST, path)
            }
            Some((host, path)) if looks_like_host(host) => Repository::new(host, path),
            _ => Repository::new(DEFAULT_HOST, name),
        }
    }

    /// The repository that docker's grammar means.
    pub fn from_reference(&self, reference: &Reference) -> Result<Repository> {
        let host = reference.domain();
        let host = if self.is_own(host) {
            DEFAULT_HOST
        } else {
            host
        };
        Repository::new(host, reference.path())
    }

    /// An image name in docker's grammar; without tag and digest `latest` is meant.
    pub fn parse_image(&self, text: &str) -> Result<ImageName> {
        let reference: Reference = text.parse().map_err(|e| Error::InvalidReference {
            text: text.to_owned(),
            reason: format!("{e}"),
        })?;
        let repository = self.from_reference(&reference)?;
        let pointer = match (reference.digest(), reference.tag()) {
            // As docker: with both, the digest decides and the tag is decoration.
            (Some(digest), _) => Pointer::Digest(digest.clone()),
            (None, Some(tag)) => Pointer::Tag(Tag::parse(tag)?),
            (None, None) => Pointer::Tag(Tag::parse("latest")?),
        };
        Ok(ImageName {
            repository,
            pointer,
        })
    }
}

/// docker's rule for the first component of a name.
fn looks_like_host(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

/// A host with an optional port, as docker's grammar has it; also a file name, so no `.` at the ends.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) => {
                let ok = !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                return ok && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
            }
            None => return false,
        },
        None => text.split_once(':').unwrap_or((text, "1")),
    };
    is_port(port)
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|p| p > 0)
}

/// `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let mut rest = text.as_bytes();
    loop {
        let letters = rest
            .iter()
            .take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            .count();
        if letters == 0 {
            return false;
        }
        rest = &rest[letters..];
        rest = match rest {
            [] => return true,
            [b'_', b'_', ..] => &rest[2..],
            [b'.' | b'_', ..] => &rest[1..],
            [b'-', ..] => &rest[rest.iter().take_while(|b| **b == b'-').count()..],
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> OwnNames {
        OwnNames::new(&["127.0.0.1:5000".parse().unwrap()], &["reg.site".into()])
    }

    #[test]
    fn every_alias_leads_to_one_key() {
        let own = own();
        for (name, ns, key) in [
            ("goals", None, "docker.io/library/goals"),
            ("library/goals", None, "docker.io/library/goals"),
            ("docker.io/library/goals", None, "docker.io/library/goals"),
            ("docker.io/goals", None, "docker.io/library/goals"),
            ("goals", Some("docker.io"), "docker.io/library/goals"),
            ("goals", Some("127.0.0.1:5000"), "docker.io/library/goals"),
            ("localhost:5000/goals", None, "docker.io/library/goals"),
            ("team/app", None, "docker.io/team/app"),
            ("reg.site/team/app", None, "docker.io/team/app"),
            ("ghcr.io/org/app", None, "ghcr.io/org/app"),
            ("org/app", Some("ghcr.io"), "ghcr.io/org/app"),
            ("localhost/app", None, "localhost/app"),
            ("localhost:5001/app", None, "localhost:5001/app"),
        ] {
            let got = own.from_http(name, ns).unwrap();
            assert_eq!(got.as_str(), key, "{name} ns={ns:?}");
        }
        for (image, full) in [
            ("goals", "docker.io/library/goals:latest"),
            ("127.0.0.1:5000/goals:v1", "docker.io/library/goals:v1"),
            ("localhost:5000/team/app", "docker.io/team/app:latest"),
            ("quay.io/x/y:z", "quay.io/x/y:z"),
        ] {
            assert_eq!(own.parse_image(image).unwrap().to_string(), full, "{image}");
        }
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        let own = own();
        for name in [
            "",
            "..",
            "../etc",
            "a/../b",
            "a//b",
            "/a",
            "a/",
            "A",
            "a/_tags",
            "_tags",
            "a/.b",
            "./a",
            "../x.y",
            "..:80/x",
            "-.x/y",
            "a b",
            "a\0b",
            "slipway.internal/build-cache",
            "SLIPWAY.internal/a",
        ] {
            assert!(own.from_http(name, None).is_err(), "{name:?}");
        }
        for ns in ["..", "a/b", "x:y", "[::1", ".a", INTERNAL_HOST] {
            assert!(own.from_http("a", Some(ns)).is_err(), "{ns:?}");
        }
        for tag in ["", ".a", "-a", "a/b", "a:b", &"a".repeat(129)] {
            assert!(Tag::parse(tag).is_err(), "{tag:?}");
        }
    }

    #[test]
    fn components_follow_dockers_grammar() {
        for ok in ["a", "a-b", "a--b", "a_b", "a__b", "a.b", "0"] {
            assert!(is_component(ok), "{ok}");
        }
        for bad in ["a..b", "a___b", "a.", "-a", "a_-b", "a+b"] {
            assert!(!is_component(bad), "{bad}");
        }
    }

    #[test]
    fn people_see_short_names() {
        let name = own().parse_image("goals:v1").unwrap();
        assert_eq!(name.familiar(), "goals:v1");
    }
}
