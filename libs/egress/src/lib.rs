//! Which addresses a service may connect to when others tell it where: none inside of the host or its networks,
//! unless the operator named them.
//!
//! An address is judged when it was resolved, and the connection goes to the address that was judged, so a
//! name that changes its mind in between (DNS rebinding) gains nothing.

#![forbid(unsafe_code)]

pub mod web;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use url::{Host, Url};

/// See the crate's page.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Networks that may be reached all the same.
    pub allow: Vec<IpNet>,
    /// Names of hosts, in lower case, that may be reached wherever they are.
    pub hosts: Vec<String>,
    /// What an operator who wants it otherwise does, the end of a sentence.
    pub advice: String,
}

impl Guard {
    /// Whether an address may be connected to.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = inner(address);
        self.allow.iter().any(|net| net.contains(&address)) || is_public(address)
    }

    /// Judges a URL as it stands: its scheme, and its address when that is no name.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err("only http and https are fetched".to_owned());
        }
        // The parser knows 127.1, 0x7f000001 and 2130706433 for what they are (WHATWG URL, "host parser").
        let address = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err("it names no host".to_owned()),
        };
        match self.permits(address) {
            true => Ok(()),
            false => Err(self.refusal(url.host_str().unwrap_or_default())),
        }
    }

    /// Why nobody connects there.
    fn refusal(&self, host: &str) -> String {
        format!(
            "{host} is an address inside of this host or its networks, {}",
            self.advice
        )
    }
}

/// Addresses that hold another one: it counts.
fn inner(address: IpAddr) -> IpAddr {
    let IpAddr::V6(ip) = address else {
        return address;
    };
    let words = ip.segments();
    let last = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match words {
        // Mapped (RFC 4291, 2.5.5.2), compatible (2.5.5.1; not :: and ::1), NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0xffff, high, low] => last(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => last(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => last(high, low),
        [0x2002, high, low, ..] => last(high, low),
        _ => address,
    }
}

/// The registries of special addresses (RFC 6890 and its successors at IANA), what is globally reachable.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19)))
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            !(ip == Ipv6Addr::UNSPECIFIED
                || ip == Ipv6Addr::LOCALHOST
                || first & 0xffc0 == 0xfe80
                || first & 0xffc0 == 0xfec0
                || first & 0xfe00 == 0xfc00
                || first & 0xff00 == 0xff00
                || first == 0x0064)
        }
    }
}

/// Why a name leads nowhere: a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// Nobody says where it is, now.
    Unknown(String),
    /// It is where nobody may go. To ask again does not help.
    Refused(String),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(sentence) | Self::Refused(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for Unresolved {}

impl Guard {
    /// The addresses of a host that may be connected to.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Unresolved> {
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|e| Unresolved::Unknown(format!("{host}: {e}")))?;
        let found: Vec<SocketAddr> = found.collect();
        if self
            .hosts
            .iter()
            .any(|named| host.eq_ignore_ascii_case(named))
        {
            return Ok(found);
        }
        let permitted = found.iter().filter(|a| self.permits(a.ip()));
        let permitted: Vec<SocketAddr> = permitted.copied().collect();
        match permitted.is_empty() && !found.is_empty() {
            true => Err(Unresolved::Refused(self.refusal(host))),
            false => Ok(permitted),
        }
    }
}

impl reqwest::dns::Resolve for Guard {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let permitted = guard.resolve(name.as_str(), 0).await?;
            Ok(Box::new(permitted.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_judged_by_their_addresses() {
        let guard = Guard::default();
        for host in [
            "localhost",
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "::1",
            "::ffff:7f00:1",
        ] {
            let found = guard.resolve(host, 22).await;
            let Err(Unresolved::Refused(why)) = found else {
                panic!("{host}: {found:?}")
            };
            assert!(why.contains("inside of this host"), "{host}: {why}");
        }
        let public = guard.resolve("8.8.8.8", 22).await.unwrap();
        assert_eq!(public, ["8.8.8.8:22".parse().unwrap()]);
        let allowing = Guard {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            ..Guard::default()
        };
        let own = allowing.resolve("127.0.0.1", 22).await.unwrap();
        assert_eq!(own, ["127.0.0.1:22".parse().unwrap()]);
        let naming = Guard {
            hosts: vec!["localhost".to_owned()],
            ..Guard::default()
        };
        assert!(!naming.resolve("LOCALHOST", 22).await.unwrap().is_empty());
        assert!(naming.resolve("127.0.0.1", 22).await.is_err());
    }

    fn check(guard: &Guard, url: &str) -> Result<(), String> {
        guard.check(&Url::parse(url).unwrap())
    }

    #[test]
    fn addresses_inside_are_refused_however_they_are_written() {
        let guard = Guard::default();
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://0/",
            "http://10.1.2.3/",
            "http://172.16.0.1/",
            "http://192.168.1.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://100.100.100.200/",
            "http://198.18.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://[ff02::1]/",
            "ftp://example.org/",
            "file:///etc/passwd",
        ] {
            assert!(check(&guard, url).is_err(), "{url}");
        }
        for url in [
            "http://example.org/",
            "http://8.8.8.8/",
            "https://[2606:4700::1111]/",
            "http://172.32.0.1/",
        ] {
            assert_eq!(check(&guard, url), Ok(()), "{url}");
        }
        let allowing = Guard {
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            ..Guard::default()
        };
        assert_eq!(check(&allowing, "http://10.1.2.3/"), Ok(()));
        assert_eq!(check(&allowing, "http://[::ffff:10.1.2.3]/"), Ok(()));
        assert!(check(&allowing, "http://127.0.0.1/").is_err());
    }
}
