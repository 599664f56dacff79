//! Whom a foreign registry may send us to.

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

#[cfg(test)]
mod tests {
    use super::*;

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
