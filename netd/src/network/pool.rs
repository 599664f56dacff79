//! The addresses of one family that a network has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ipam::pools::overlap;
use crate::ipam::{self, Addresses};

/// A subnet, and what of it is whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its addresses.
    pub subnet: IpNet,
    /// The host's address in it.
    pub gateway: IpAddr,
    /// Where containers' addresses come from, if not the whole subnet.
    pub range: Option<IpNet>,
    /// Addresses that are never handed out, by the name of what has them.
    pub reserved: BTreeMap<String, IpAddr>,
}

impl Pool {
    /// Its addresses, with none handed out yet.
    pub fn addresses(&self) -> Addresses {
        let reserved = self.reserved.values().copied().chain([self.gateway]);
        Addresses::new(self.subnet, self.range.unwrap_or(self.subnet), reserved)
    }

    /// Whether nobody outside of this host knows a way to it, so that its containers are seen by an address of the
    /// host's: IPv4, and the unique local addresses of IPv6.
    pub fn is_hidden(&self) -> bool {
        match self.subnet {
            IpNet::V4(_) => true,
            IpNet::V6(subnet) => subnet.addr().is_unique_local(),
        }
    }

    /// The gateway with the subnet's prefix.
    pub fn gateway_net(&self) -> IpNet {
        IpNet::new_assert(self.gateway, self.subnet.prefix_len())
    }
}

/// A pool asked for.
#[derive(Debug, Clone, Default)]
pub struct PoolRequest {
    /// Its subnet; unset = one that is free here.
    pub subnet: Option<IpNet>,
    /// The host's address; unset = the first.
    pub gateway: Option<IpAddr>,
    /// See [`Pool::range`].
    pub range: Option<IpNet>,
    /// See [`Pool::reserved`].
    pub reserved: BTreeMap<String, IpAddr>,
}

impl PoolRequest {
    /// Checks everything that does not depend on the host.
    pub fn plan(self, subnet: IpNet) -> Result<Pool, Error> {
        let invalid = |sentence: String| Err(Error::Invalid(sentence));
        let last = subnet.max_prefix_len() - 2;
        if !(8..=last).contains(&subnet.prefix_len()) {
            return invalid(format!("subnet {subnet}: a network needs a /8 to /{last}"));
        }
        let subnet = subnet.trunc();
        if !is_unicast(subnet) {
            return invalid(format!(
                "subnet {subnet}: its addresses are not for hosts; use one of your own, or none to have one chosen"
            ));
        }
        let gateway = self.gateway.unwrap_or(ipam::nth(subnet, 1));
        for address in self.reserved.values().chain([&gateway]) {
            if !subnet.contains(address) {
                return invalid(format!("address {address} is not in subnet {subnet}"));
            }
        }
        if ipam::is_edge(subnet, gateway) {
            return invalid(format!(
                "{gateway} cannot be a gateway: it is an edge of {subnet}"
            ));
        }
        if let Some(range) = self.range.filter(|range| !subnet.contains(range)) {
            return invalid(format!("ip-range {range} is not within subnet {subnet}"));
        }
        Ok(Pool {
            subnet,
            gateway,
            range: self.range.map(|range| range.trunc()),
            reserved: self.reserved,
        })
    }
}

/// Whether links can have such addresses: no loopback, link-local, multicast or reserved ones (RFC 6890, RFC 4291).
fn is_unicast(subnet: IpNet) -> bool {
    let others = match subnet {
        IpNet::V4(_) => &["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"][..],
        IpNet::V6(_) => &["::/8", "fe80::/10", "ff00::/8"],
    };
    let others = others.iter().filter_map(|net| net.parse::<IpNet>().ok());
    !others.into_iter().any(|other| overlap(subnet, other))
}
