//! The sets and maps of the table, and what is in them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::octets;
use crate::network::{Network, Pool};
use crate::nft::{Batch, DataType, Element, IpVersion, Set, link_name};

use super::{Plan, by_map};

/// All our bridges.
pub const BRIDGES: &str = "bridges";

/// What is called how for one version of IP.
#[derive(Debug)]
pub struct Names {
    /// All our subnets.
    pub subnets: &'static str,
    /// Addresses that are resolvers.
    pub gateways: &'static str,
    /// Ports of all addresses of the host.
    pub published: &'static str,
    /// Ports of one address of the host.
    pub published_at: &'static str,
}

const V4: Names = Names {
    subnets: "subnets",
    gateways: "gateways",
    published: "published",
    published_at: "published_at",
};

impl Names {
    /// Those of a version.
    pub fn of(version: IpVersion) -> &'static Self {
        match version {
            IpVersion::V4 => &V4,
            IpVersion::V6 => &V6,
        }
    }

    /// All maps of published ports.
    pub fn maps() -> [&'static str; 4] {
        [V4.published, V4.published_at, V6.published, V6.published_at]
    }
}

const V6: Names = Names {
    subnets: "subnets6",
    gateways: "gateways6",
    published: "published6",
    published_at: "published6_at",
};

/// The pools of a version.
pub fn pools<'a>(plan: &Plan<'a>, version: IpVersion) -> impl Iterator<Item = &'a Pool> {
    let all = plan.networks.iter().flat_map(|network| network.pools());
    all.filter(move |pool| IpVersion::of(pool.gateway) == version)
}

/// Declares the sets and fills them.
pub fn declare(batch: &mut Batch, plan: &Plan<'_>) {
    use DataType::{Ipv4, Ipv6, Layer4, LinkName, Port};
    let set = |name, key, value, interval| Set {
        name,
        key,
        value,
        interval,
    };
    batch
        .set(set(BRIDGES, &[LinkName], &[], false))
        .set(set(V4.subnets, &[Ipv4], &[], true))
        .set(set(V4.gateways, &[Ipv4], &[], false))
        .set(set(V4.published, &[Layer4, Port], &[Ipv4, Port], false))
        .set(set(
            V4.published_at,
            &[Layer4, Ipv4, Port],
            &[Ipv4, Port],
            false,
        ))
        .set(set(V6.subnets, &[Ipv6], &[], true))
        .set(set(V6.gateways, &[Ipv6], &[], false))
        .set(set(V6.published, &[Layer4, Port], &[Ipv6, Port], false))
        .set(set(
            V6.published_at,
            &[Layer4, Ipv6, Port],
            &[Ipv6, Port],
            false,
        ));
    let devices: Vec<_> = plan
        .networks
        .iter()
        .map(|network| device(network))
        .collect();
    batch.add(BRIDGES, &devices);
    for version in [IpVersion::V4, IpVersion::V6] {
        let names = Names::of(version);
        let resolvers = plan.resolvers.iter().copied();
        let resolvers: Vec<_> = resolvers
            .filter(|address| IpVersion::of(*address) == version)
            .map(member)
            .collect();
        let subnets = pools(plan, version).map(|pool| pool.subnet);
        batch
            .add(names.subnets, &ranges(subnets))
            .add(names.gateways, &resolvers);
    }
    for map in Names::maps() {
        batch.add(map, &by_map(plan.forwards, map));
    }
}

fn device(network: &Network) -> Element {
    Element::member(link_name(&network.device))
}

fn member(address: IpAddr) -> Element {
    Element::member(octets(address))
}

/// Subnets as the kernel's interval sets want them: the first address in, the first address out.
fn ranges(subnets: impl Iterator<Item = IpNet>) -> Vec<Element> {
    let mut elements = Vec::new();
    for subnet in subnets {
        elements.push(member(subnet.network()));
        if let Some(after) = after(subnet.broadcast()) {
            elements.push(Element {
                range_end: true,
                ..member(after)
            });
        }
    }
    elements
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address)
            .checked_add(1)
            .map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(address) => u128::from(address)
            .checked_add(1)
            .map(|n| IpAddr::V6(n.into())),
    }
}
