//! Whom a request is from that came through a proxy.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;
use serde::Deserialize;

/// `trusted_proxies`: whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl<'de> Deserialize<'de> for Proxies {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: String| {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            address.or_else(|_| text.parse()).map_err(|_| {
                let sentence = format!(
                    "trusted_proxies: {text:?} is neither an address nor a network such as 10.0.0.0/8"
                );
                serde::de::Error::custom(sentence)
            })
        };
        let told = Vec::<String>::deserialize(deserializer)?;
        told.into_iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Proxies {
    /// The last of those whom a request went through that is no proxy of ours: what comes before it in
    /// `X-Forwarded-For` anybody may have written.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let told = headers.get_all("x-forwarded-for").into_iter();
        let told = told.filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = told.flat_map(|value| value.split(',')).collect();
        let mut client = peer.to_canonical();
        for hop in hops.into_iter().rev() {
            let Some(before) = address(hop.trim()).filter(|_| self.trusts(client)) else {
                break;
            };
            client = before;
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`
fn address(hop: &str) -> Option<IpAddr> {
    let ip = hop.trim_start_matches('[').split(']').next()?;
    let ip = ip.parse().or_else(|_| {
        let socket = hop.parse::<std::net::SocketAddr>();
        socket.map(|socket| socket.ip())
    });
    ip.ok().map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_whom_nobody_of_ours_speaks_for_counts() {
        #[derive(Debug, Deserialize)]
        struct File {
            proxies: Proxies,
        }
        let parse = |text: &str| toml::from_str::<File>(&format!("proxies = {text}"));
        let proxies = parse("['127.0.0.1', '10.0.0.0/8']").unwrap().proxies;
        let refused = parse("['proxy.example']").unwrap_err().to_string();
        assert!(refused.contains("neither an address"), "{refused}");
        let client = |proxies: &Proxies, peer: &str, told: &[&str]| {
            let told = told.iter().map(|value| {
                let name = http::HeaderName::from_static("x-forwarded-for");
                (name, value.parse().unwrap())
            });
            let headers = HeaderMap::from_iter(told);
            proxies.client(peer.parse().unwrap(), &headers).to_string()
        };
        for (peer, told, expected) in [
            ("127.0.0.1", &["192.0.2.1"][..], "192.0.2.1"),
            ("::ffff:127.0.0.1", &["192.0.2.1:80"], "192.0.2.1"),
            ("127.0.0.1", &["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
            (
                "127.0.0.1",
                &["198.51.100.7", "192.0.2.1, 10.1.2.3"],
                "192.0.2.1",
            ),
            ("127.0.0.1", &["[2001:db8::1]:5"], "2001:db8::1"),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["192.0.2.1, nonsense"], "127.0.0.1"),
            ("127.0.0.1", &["10.1.2.3"], "10.1.2.3"),
            ("127.0.0.1", &[], "127.0.0.1"),
            // Anybody can write it.
            ("192.0.2.9", &["192.0.2.1"], "192.0.2.9"),
        ] {
            assert_eq!(client(&proxies, peer, told), expected, "{peer} {told:?}");
        }
        let nobody = Proxies::default();
        assert_eq!(client(&nobody, "127.0.0.1", &["192.0.2.1"]), "127.0.0.1");
    }
}
