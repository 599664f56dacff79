//! Who may use a published port: ranges of clients.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::nft::IpVersion;

/// Ranges of one port, at most: its set is copied at each change (nft_set_pipapo).
const MOST: usize = 256;

/// Ranges that clients are in, none in another; empty where nothing was said.
///
/// Ranges of one version of IP say something of the other as well: nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Limit(Vec<IpNet>);

impl Limit {
    /// From subnets or single addresses, at most 256.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, String> {
        if texts.len() > MOST {
            let said = texts.len();
            return Err(format!(
                "{said} ranges of clients: at most {MOST} can be named"
            ));
        }
        let ranges = texts.iter().map(|text| range(text.as_ref()));
        Ok(Self::of(ranges.collect::<Result<_, _>>()?))
    }

    /// From subnets.
    pub fn of(ranges: Vec<IpNet>) -> Self {
        Self(IpNet::aggregate(&ranges))
    }

    /// Nobody: the one range whose address no client has (RFC 4291, 2.5.2).
    pub fn nobody() -> Self {
        Self::of(vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED).into()])
    }

    /// Whether nothing was said.
    pub fn is_unsaid(&self) -> bool {
        self.0.is_empty()
    }

    /// This one, or the other where nothing was said.
    pub fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        match self.is_unsaid() {
            true => other,
            false => self,
        }
    }

    /// Whether a client may; all may where nothing was said.
    pub fn contains(&self, client: IpAddr) -> bool {
        self.is_unsaid() || self.0.iter().any(|range| range.contains(&client))
    }

    /// The ranges of one version.
    pub fn ranges(&self, version: IpVersion) -> impl Iterator<Item = IpNet> {
        let all = self.0.iter().copied();
        all.filter(move |range| IpVersion::of(range.addr()) == version)
    }

    /// As it was asked for.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

fn range(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().map(|net| net.trunc());
    net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| {
            format!(
                "\"{text}\" is not a range of clients: write 10.0.0.0/8, 2001:db8::/32 or an address"
            )
        })
}

impl TryFrom<Vec<String>> for Limit {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        Self::parse(&texts)
    }
}

impl From<Limit> for Vec<String> {
    fn from(limit: Limit) -> Self {
        limit.texts()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_few() {
        let ranges: Vec<_> = (0..=MOST)
            .map(|n| format!("10.{}.{}.1", n / 256, n % 256))
            .collect();
        assert!(Limit::parse(&ranges[1..]).is_ok());
        assert!(Limit::parse(&ranges).is_err());
    }

    #[test]
    fn ranges_are_read_and_put_together() {
        let limit = Limit::parse(&["10.1.2.3/8", "10.9.0.0/16", "192.0.2.7", "fd00::/8"]).unwrap();
        assert_eq!(limit.to_string(), "10.0.0.0/8, 192.0.2.7/32, fd00::/8");
        for (client, may) in [
            ("10.200.0.1", true),
            ("192.0.2.8", false),
            ("fd12::1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(limit.contains(client.parse().unwrap()), may, "{client}");
        }
        let v4 = Limit::parse(&["10.0.0.0/8"]).unwrap();
        assert!(!v4.contains("fd00::1".parse().unwrap()), "nobody of IPv6");
        assert!(Limit::default().contains("fd00::1".parse().unwrap()));
        assert_eq!(Limit::default().or(&v4), &v4);
        for text in ["", "10.0.0.0/33", "lan", "10.0.0.0/8 "] {
            assert!(Limit::parse(&[text]).is_err(), "{text}");
        }
    }

    #[test]
    fn records_hold_what_was_asked_for() {
        let limit = Limit::parse(&["10.0.0.0/8"]).unwrap();
        let text = serde_json::to_string(&limit).unwrap();
        assert_eq!(text, r#"["10.0.0.0/8"]"#);
        assert_eq!(serde_json::from_str::<Limit>(&text).unwrap(), limit);
    }
}
