//! What a network is, and the rules that make a request one.

mod direct;
mod driver;
mod pool;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::NetworkId;
use crate::ipam::{DualAddresses, DualStack};
use crate::netlink::Mac;

pub use direct::Direct;
pub use driver::{Driver, Kind};
pub use pool::{Pool, PoolRequest};

/// Name of the default network.
pub const DEFAULT: &str = "bridge";

/// A network: a bridge of this host and what leads on from it, or the wire of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its bridge, if it has one.
    pub device: String,
    /// What joins its containers.
    #[serde(default, skip_serializing_if = "Driver::is_bridge")]
    pub driver: Driver,
    /// Its addresses of IPv4.
    #[serde(flatten)]
    pub v4: Pool,
    /// Its addresses of IPv6, if it has that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Pool>,
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

    /// Whether it has a bridge of this host's. What containers of others send passes nothing of ours.
    pub fn is_bridged(&self) -> bool {
        !matches!(self.driver, Driver::Direct(_))
    }

    /// Whether its MTU is what `netd.toml` says: it was not asked for, nor what is left beside a tunnel's headers.
    pub fn follows_mtu(&self) -> bool {
        self.driver.is_bridge() && !self.options.contains_key(OPTION_MTU)
    }

    /// The MAC of its bridge, a fixed one: otherwise it would have the lowest of its ports'.
    pub fn bridge_mac(&self) -> Mac {
        Mac::of(self.v4.gateway)
    }

    /// Its pools, that of IPv4 first.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        std::iter::once(&self.v4).chain(&self.v6)
    }

    /// All subnets whose addresses are its own, on this host or on another.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let whole = match &self.driver {
            Driver::Bridge | Driver::Direct(_) => self.v4.subnet,
            Driver::Overlay(overlay) => overlay.subnet,
        };
        std::iter::once(whole).chain(self.v6.as_ref().map(|pool| pool.subnet))
    }

    /// Its addresses, with none handed out yet.
    pub fn addresses(&self) -> DualAddresses {
        DualAddresses::new(self.v4.addresses(), self.v6.as_ref().map(Pool::addresses))
    }

    /// What leads out of it: the host's addresses on it, or a router's on the wire.
    pub fn gateways(&self) -> DualStack {
        DualStack {
            v4: self.v4.gateway,
            v6: self.v6.as_ref().map(|pool| pool.gateway),
        }
    }

    /// Why nobody can have an address that is none of its hosts'.
    pub fn refuses(&self, address: IpAddr) -> Error {
        if let Driver::Overlay(overlay) = &self.driver
            && let Some(sentence) = overlay.refuses(address)
        {
            return Error::Invalid(sentence);
        }
        let same = |pool: &&Pool| pool.gateway.is_ipv4() == address.is_ipv4();
        Error::Invalid(match self.pools().find(same) {
            Some(pool) => format!(
                "address {address} is not a host address of subnet {}",
                pool.subnet
            ),
            None => format!(
                "network {} has no IPv6: it can have no address {address}",
                self.name
            ),
        })
    }
}

/// A network asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// What is to join its containers; those that span hosts [`crate::overlay::plan`] makes.
    pub kind: Kind,
    /// See [`Network::v4`].
    pub v4: PoolRequest,
    /// See [`Network::v6`].
    pub v6: Option<PoolRequest>,
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
    /// Checks everything that does not depend on the host, and makes the network of these subnets. Without one for
    /// IPv6 it has none.
    pub fn plan(self, v4: IpNet, v6: Option<IpNet>, default_mtu: u32) -> Result<Network, Error> {
        let invalid = |sentence: String| Err(Error::Invalid(sentence));
        if !is_name(&self.name) {
            return invalid(format!(
                "\"{}\" is not a network name: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed",
                self.name
            ));
        }
        let v4 = self.v4.plan(v4)?;
        let v6 = match v6 {
            Some(subnet) => Some(self.v6.unwrap_or_default().plan(subnet)?),
            None => None,
        };
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
            driver: Driver::Bridge,
            v4,
            v6,
            internal: self.internal,
            attachable: self.attachable,
            mtu,
            labels: self.labels,
            options: self.options,
            created: jiff::Timestamp::now(),
        })
    }
}

/// Whether it can name a network or a host.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// A link name that the kernel takes (15 bytes) and that is not the like of our veth ends and tunnels.
fn is_link_name(text: &str) -> bool {
    use crate::id::{HOST_LINK_PREFIX, TUNNEL_PREFIX};
    let ours = [HOST_LINK_PREFIX, TUNNEL_PREFIX];
    is_name(text) && text.len() <= 15 && !ours.iter().any(|prefix| text.starts_with(prefix))
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
            .plan("10.9.0.7/24".parse().unwrap(), None, 1500)
            .unwrap();
        assert_eq!(network.v4.gateway_net().to_string(), "10.9.0.1/24");
        assert_eq!(network.v4.subnet.to_string(), "10.9.0.0/24");
        assert!(network.device.len() <= 15);
    }

    #[test]
    fn records_of_before_are_networks_of_ipv4() {
        let mut network = request()
            .plan("10.9.0.0/24".parse().unwrap(), None, 1500)
            .unwrap();
        let text = serde_json::to_value(&network).unwrap();
        assert_eq!(text["subnet"], "10.9.0.0/24");
        assert_eq!(text["gateway"], "10.9.0.1");
        network.v6 = Some(
            PoolRequest::default()
                .plan("fd00::/64".parse().unwrap())
                .unwrap(),
        );
        let read: Network =
            serde_json::from_str(&serde_json::to_string(&network).unwrap()).unwrap();
        assert_eq!(read, network);
        assert_eq!(network.gateways().to_string(), "10.9.0.1 and fd00::1");
    }

    #[test]
    fn contradictions_are_refused_with_the_reason() {
        let subnet: IpNet = "10.9.0.0/24".parse().unwrap();
        let with = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            request.plan(subnet, None, 1500).unwrap_err().to_string()
        };
        for reserved in [
            "0.0.0.0/8",
            "127.1.0.0/16",
            "224.0.0.0/24",
            "fe80::/64",
            "ff02::/16",
        ] {
            let plan = PoolRequest::default().plan(reserved.parse().unwrap());
            assert!(plan.unwrap_err().to_string().contains("not for hosts"));
        }
        assert!(with(|r| r.name = "a b".into()).contains("not a network name"));
        assert!(with(|r| r.v4.gateway = Some([10, 8, 0, 1].into())).contains("not in subnet"));
        assert!(with(|r| r.v4.gateway = Some([10, 9, 0, 255].into())).contains("edge"));
        assert!(with(|r| r.v4.range = Some("10.8.0.0/25".parse().unwrap())).contains("ip-range"));
        assert!(with(|r| drop(r.options.insert("x".into(), "y".into()))).contains("not supported"));
    }
}
