//! What a foreign registry asks for, and whom it may send us to.

use std::net::IpAddr;

use url::{Host, Url};

/// An address inside the site: a foreign registry must not make us call there.
pub fn is_inside(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
        }
        Some(Host::Ipv6(ip)) => {
            let first = ip.segments()[0];
            let mapped = ip.to_ipv4_mapped().map(IpAddr::V4);
            ip.is_loopback()
                || ip.is_unspecified()
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || mapped.is_some()
        }
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => true,
    }
}

/// Whether a token realm belongs to whoever runs the registry: the same host, or another below the
/// same domain (registry-1.docker.io and auth.docker.io). Others get no credentials.
pub fn same_owner(base: &Url, realm: &Url) -> bool {
    match (base.host(), realm.host()) {
        (Some(Host::Domain(a)), Some(Host::Domain(b))) => {
            let parent = |name: &str| -> Option<String> {
                let labels: Vec<&str> = name.rsplit('.').take(2).collect();
                (labels.len() == 2).then(|| labels.join("."))
            };
            a == b || (parent(a).is_some() && parent(a) == parent(b))
        }
        (a, b) => a == b,
    }
}

/// `WWW-Authenticate`.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token (distribution's token specification).
    Bearer {
        /// Where it is to be had.
        realm: String,
        /// For whom it is.
        service: Option<String>,
    },
}

impl Challenge {
    /// Parses a header; `None` when it asks for something that we do not know.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        while let Some((key, value)) = rest.split_once('=') {
            let key = key.trim_matches([' ', ',']);
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => value.split_once(',').unwrap_or((value, "")),
            };
            match key {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer {
            realm: realm?,
            service,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        assert_eq!(
            Challenge::parse("Basic realm=\"x\""),
            Some(Challenge::Basic)
        );
        assert_eq!(
            Challenge::parse(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b,c""#
            ),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into())
            })
        );
        assert_eq!(Challenge::parse("Negotiate"), None);
    }

    #[test]
    fn credentials_stay_with_their_owner() {
        let owner = |a: &str, b: &str| same_owner(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(owner(
            "https://registry-1.docker.io",
            "https://auth.docker.io/token"
        ));
        assert!(owner("http://127.0.0.1:1", "http://127.0.0.1:2/token"));
        assert!(!owner("https://ghcr.io", "https://evil.example/token"));
        assert!(!owner("https://10.0.0.1", "https://10.0.0.2"));
    }

    #[test]
    fn private_addresses_are_inside() {
        let inside = |url: &str| is_inside(&url.parse().unwrap());
        for url in [
            "http://127.0.0.1",
            "http://10.1.2.3",
            "http://169.254.169.254",
            "http://[::1]",
            "http://[fd00::1]",
            "http://[::ffff:127.0.0.1]",
            "http://localhost",
        ] {
            assert!(inside(url), "{url}");
        }
        assert!(!inside("https://production.cloudflare.docker.com"));
    }
}
