//! The sets and maps of the table, and what is in them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::octets;
use crate::network::{Network, Pool};
use crate::nft::{Batch, DataType, Element, IpVersion, Set, link_name};

use super::Plan;

/// All our bridges.
pub const BRIDGES: &str = "bridges";
/// Those of networks with IPv6.
pub const BRIDGES6: &str = "bridges6";
/// Addresses whose port 53 is a resolver's: of IPv4, which every container has.
pub const GATEWAYS: &str = "gateways";

/// What is called how for one version of IP.
#[derive(Debug)]
pub struct Names {
    /// All our subnets.
    pub subnets: &'static str,
    /// What nobody outside of this host may send to: the subnets that are hidden, and the gateways of the others.
    pub hidden: &'static str,
    /// Ports of all addresses of the host.
    pub published: &'static str,
    /// The same of ranges that are long, and alike outside and inside.
    pub ranges: &'static str,
    /// Ports of one address of the host.
    pub published_at: &'static str,
    /// Ports that only some clients may use: protocol, addresses of the host, port.
    pub limited: &'static str,
    /// The same with ranges of those who may.
    pub from: &'static str,
    /// Who may use all other ports, if not everybody.
    pub clients: &'static str,
}

const V4: Names = Names {
    subnets: "subnets",
    hidden: "hidden",
    published: "published",
    ranges: "ranges",
    published_at: "published_at",
    limited: "limited",
    from: "from",
    clients: "clients",
};

impl Names {
    /// Those of a version.
    pub fn of(version: IpVersion) -> &'static Self {
        match version {
            IpVersion::V4 => &V4,
            IpVersion::V6 => &V6,
        }
    }
}

const V6: Names = Names {
    subnets: "subnets6",
    hidden: "hidden6",
    published: "published6",
    ranges: "ranges6",
    published_at: "published6_at",
    limited: "limited6",
    from: "from6",
    clients: "clients6",
};

/// The pools of a version, each with the subnet of its network on all hosts.
pub fn pools<'a>(plan: &Plan<'a>, version: IpVersion) -> impl Iterator<Item = (IpNet, &'a Pool)> {
    let all = plan.networks.iter();
    let all = all.flat_map(|network| network.subnets().zip(network.pools()));
    all.filter(move |(_, pool)| IpVersion::of(pool.gateway) == version)
}

fn set<'a>(
    name: &'static str,
    key: &'a [DataType],
    value: &'a [DataType],
    interval: bool,
) -> Set<'a> {
    Set {
        name,
        key,
        value,
        interval,
    }
}

/// Declares the sets and fills them.
pub fn declare(batch: &mut Batch, plan: &Plan<'_>) {
    use DataType::{Ipv4, Ipv6, Layer4, LinkName, Port};
    batch
        .set(set(BRIDGES, &[LinkName], &[], false))
        .set(set(BRIDGES6, &[LinkName], &[], false))
        .set(set(V4.subnets, &[Ipv4], &[], true))
        .set(set(V4.hidden, &[Ipv4], &[], true))
        .set(set(GATEWAYS, &[Ipv4], &[], false))
        .set(set(V4.published, &[Layer4, Port], &[Ipv4, Port], false))
        .set(set(
            V4.published_at,
            &[Layer4, Ipv4, Port],
            &[Ipv4, Port],
            false,
        ))
        .set(set(V6.subnets, &[Ipv6], &[], true))
        .set(set(V6.hidden, &[Ipv6], &[], true))
        .set(set(V6.published, &[Layer4, Port], &[Ipv6, Port], false))
        .set(set(
            V6.published_at,
            &[Layer4, Ipv6, Port],
            &[Ipv6, Port],
            false,
        ));
    for (names, ip) in [(V4, Ipv4), (V6, Ipv6)] {
        batch
            .set(set(names.ranges, &[Layer4, Port], &[ip], true))
            .set(set(names.limited, &[Layer4, ip, Port], &[], true))
            .set(set(names.from, &[Layer4, ip, Port, ip], &[], true))
            .set(set(names.clients, &[ip], &[], true));
    }
    let all = plan.networks.iter();
    let devices = |fits: fn(&Network) -> bool| -> Vec<_> {
        let fitting = all.clone().filter(|network| fits(network));
        fitting
            .map(|network| Element::member(link_name(&network.device)))
            .collect()
    };
    let resolvers: Vec<_> = plan.resolvers.iter().copied().map(member).collect();
    batch
        .add(BRIDGES, &devices(|_| true))
        .add(BRIDGES6, &devices(|network| network.v6.is_some()))
        .add(GATEWAYS, &resolvers);
    for version in [IpVersion::V4, IpVersion::V6] {
        let names = Names::of(version);
        let hidden = pools(plan, version).map(|(subnet, pool)| match pool.is_hidden() {
            true => subnet,
            false => pool.gateway.into(),
        });
        batch
            .add(
                names.subnets,
                &ranges(pools(plan, version).map(|(subnet, _)| subnet)),
            )
            .add(names.hidden, &ranges(hidden))
            .add(names.clients, &ranges(plan.clients.ranges(version)));
    }
    for (set, elements) in plan.entries.elements() {
        batch.add(set, &elements);
    }
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
