//! Which names are this registry's own, and what a name that somebody writes means.

use std::{collections::BTreeSet, net::SocketAddr};

use slipway_image::Reference;

use super::{
    DEFAULT_HOST, ImageName, Pointer, Repository, Tag, grammar::looks_like_host, plain_host,
};
use crate::error::{Error, Result};

/// Which hosts are this registry itself.
#[derive(Debug, Clone, Default)]
pub struct OwnNames {
    hosts: BTreeSet<String>,
}

impl OwnNames {
    /// From the addresses that are listened on and names that were configured.
    pub fn new(listeners: &[SocketAddr], names: &[String]) -> Self {
        let mut hosts: BTreeSet<String> = names.iter().map(|n| plain_host(n)).collect();
        for address in listeners {
            hosts.insert(plain_host(&address.to_string()));
            if address.ip().is_loopback() || address.ip().is_unspecified() {
                let port = address.port();
                hosts.insert(plain_host(&format!("localhost:{port}")));
                if address.is_ipv4() || address.ip().is_unspecified() {
                    hosts.insert(plain_host(&format!("127.0.0.1:{port}")));
                }
                if address.is_ipv6() {
                    hosts.insert(plain_host(&format!("[::1]:{port}")));
                }
            }
        }
        Self { hosts }
    }

    /// This host is this registry itself.
    pub fn is_own(&self, host: &str) -> bool {
        self.hosts.contains(&plain_host(host))
    }

    /// This registry has a name of this host, with whatever port.
    pub fn has_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.hosts.iter().any(|own| {
            let rest = own.strip_prefix(&host);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
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

#[cfg(test)]
mod tests {
    use super::{super::INTERNAL_HOST, *};

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
            ("ghcr.io:443/org/app", None, "ghcr.io/org/app"),
            ("org/app", Some("GHCR.io:443"), "ghcr.io/org/app"),
            ("docker.io:443/goals", None, "docker.io/library/goals"),
            ("index.docker.io:443/goals", None, "docker.io/library/goals"),
            ("reg.site:443/team/app", None, "docker.io/team/app"),
            ("ghcr.io:4443/org/app", None, "ghcr.io:4443/org/app"),
            ("localhost/app", None, "localhost/app"),
            ("localhost:5001/app", None, "localhost:5001/app"),
        ] {
            let got = own.from_http(name, ns).unwrap();
            assert_eq!(got.as_str(), key, "{name} ns={ns:?}");
        }
        let https = OwnNames::new(&["127.0.0.1:443".parse().unwrap()], &[]);
        for name in ["localhost:443/app", "127.0.0.1:443/app"] {
            let got = https.from_http(name, None).unwrap();
            assert_eq!(got.as_str(), "docker.io/library/app", "{name}");
        }
        // What is kept under such a name already is not taken for another.
        let kept = Repository::from_key("ghcr.io:443/org/app").unwrap();
        assert_eq!(kept.as_str(), "ghcr.io:443/org/app");
        for (image, full) in [
            ("goals", "docker.io/library/goals:latest"),
            ("127.0.0.1:5000/goals:v1", "docker.io/library/goals:v1"),
            ("localhost:5000/team/app", "docker.io/team/app:latest"),
            ("quay.io/x/y:z", "quay.io/x/y:z"),
            ("quay.io:443/x/y:z", "quay.io/x/y:z"),
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
    fn people_see_short_names() {
        let name = own().parse_image("goals:v1").unwrap();
        assert_eq!(name.familiar(), "goals:v1");
        // One name each: official ones have one component.
        for (name, key) in [
            ("library/a/b", "docker.io/library/a/b"),
            ("a/b", "docker.io/a/b"),
            ("a", "docker.io/library/a"),
        ] {
            let repository = own().from_name(name).unwrap();
            assert_eq!((repository.as_str(), repository.familiar()), (key, name));
        }
    }
}
