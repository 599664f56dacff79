//! What a network is, and the rules that make a request one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::NetworkId;
use crate::ipam::Addresses;

/// Name of the default network.
pub const DEFAULT: &str = "bridge";

/// A bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its bridge.
    pub device: String,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// The host's address on it.
    pub gateway: Ipv4Addr,
    /// Where containers' addresses come from, if not the whole subnet.
    pub range: Option<Ipv4Net>,
    /// Addresses that are never handed out, by the name of what has them.
    pub reserved: BTreeMap<String, Ipv4Addr>,
    /// No way out.
    pub internal: bool,
    /// docker's attachable flag; kept and shown.
    pub attachable: bool,
    /// MTU of its links.
    pub mtu: u32,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The user's driver options.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created: jiff::Timestamp,
}

impl Network {
    /// Whether it is the one that containers get when they ask for none.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT
    }

    /// Its addresses, with none handed out yet.
    pub fn addresses(&self) -> Addresses {
        let reserved = self.reserved.values().copied().chain([self.gateway]);
        Addresses::new(self.subnet, self.range.unwrap_or(self.subnet), reserved)
    }

    /// The gateway with the subnet's prefix.
    pub fn gateway_net(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.gateway, self.subnet.prefix_len())
    }
}

/// A network asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// Its subnet; unset = a default pool.
    pub subnet: Option<Ipv4Net>,
    /// The host's address; unset = the first.
    pub gateway: Option<Ipv4Addr>,
    /// See [`Network::range`].
    pub range: Option<Ipv4Net>,
    /// See [`Network::reserved`].
    pub reserved: BTreeMap<String, Ipv4Addr>,
    /// See [`Network::internal`].
    pub internal: bool,
    /// See [`Network::attachable`].
    pub attachable: bool,
    /// See [`Network::labels`].
    pub labels: BTreeMap<String, String>,
    /// See [`Network::options`].
    pub options: BTreeMap<String, String>,
}

const OPTION_MTU: &str = "com.docker.network.driver.mtu";
const OPTION_BRIDGE: &str = "com.docker.network.bridge.name";

impl Request {
    /// Checks everything that does not depend on the host, and makes the network.
    pub fn plan(self, subnet: Ipv4Net, default_mtu: u32) -> Result<Network, Error> {
        let invalid = |sentence: String| Err(Error::Invalid(sentence));
        if !is_name(&self.name) {
            return invalid(format!(
                "\"{}\" is not a network name: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed",
                self.name
            ));
        }
        if subnet.prefix_len() > 30 || subnet.prefix_len() < 8 {
            return invalid(format!(
                "subnet {subnet}: a bridge network needs a /8 to /30"
            ));
        }
        let subnet = subnet.trunc();
        let first = Ipv4Addr::from(u32::from(subnet.network()) + 1);
        let gateway = self.gateway.unwrap_or(first);
        for address in self.reserved.values().chain([&gateway]) {
            if !subnet.contains(address) {
                return invalid(format!("address {address} is not in subnet {subnet}"));
            }
        }
        if gateway == subnet.network() || gateway == subnet.broadcast() {
            return invalid(format!(
                "{gateway} cannot be a gateway: it is an edge of {subnet}"
            ));
        }
        if let Some(range) = self.range.filter(|range| !subnet.contains(range)) {
            return invalid(format!("ip-range {range} is not within subnet {subnet}"));
        }
        let mut mtu = default_mtu;
        let id = NetworkId::random();
        let mut device = id.bridge_link();
        for (key, value) in &self.options {
            match key.as_str() {
                OPTION_MTU => {
                    mtu = match value.parse() {
                        Ok(mtu) if (68..=65535).contains(&mtu) => mtu,
                        _ => return invalid(format!("\"{value}\" is not an MTU")),
                    }
                }
                OPTION_BRIDGE if is_link_name(value) => device.clone_from(value),
                OPTION_BRIDGE => {
                    return invalid(format!("\"{value}\" cannot name a bridge here"));
                }
                _ => {
                    return Err(Error::Unsupported(format!(
                        "network option {key} is not supported: use {OPTION_MTU} or {OPTION_BRIDGE}"
                    )));
                }
            }
        }
        Ok(Network {
            id,
            name: self.name,
            device,
            subnet,
            gateway,
            range: self.range.map(|range| range.trunc()),
            reserved: self.reserved,
            internal: self.internal,
            attachable: self.attachable,
            mtu,
            labels: self.labels,
            options: self.options,
            created: jiff::Timestamp::now(),
        })
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// A link name that the kernel takes (15 bytes) and that is not the like of our veth ends.
fn is_link_name(text: &str) -> bool {
    is_name(text) && text.len() <= 15 && !text.starts_with(crate::id::HOST_LINK_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            name: "front".into(),
            ..Request::default()
        }
    }

    #[test]
    fn the_gateway_is_the_first_address() {
        let network = request()
            .plan("10.9.0.7/24".parse().unwrap(), 1500)
            .unwrap();
        assert_eq!(network.gateway_net().to_string(), "10.9.0.1/24");
        assert_eq!(network.subnet.to_string(), "10.9.0.0/24");
        assert!(network.device.len() <= 15);
    }

    #[test]
    fn contradictions_are_refused_with_the_reason() {
        let subnet: Ipv4Net = "10.9.0.0/24".parse().unwrap();
        let with = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            request.plan(subnet, 1500).unwrap_err().to_string()
        };
        assert!(with(|r| r.name = "a b".into()).contains("not a network name"));
        assert!(with(|r| r.gateway = Some([10, 8, 0, 1].into())).contains("not in subnet"));
        assert!(with(|r| r.gateway = Some([10, 9, 0, 255].into())).contains("edge"));
        assert!(with(|r| r.range = Some("10.8.0.0/25".parse().unwrap())).contains("ip-range"));
        assert!(with(|r| drop(r.options.insert("x".into(), "y".into()))).contains("not supported"));
    }
}
