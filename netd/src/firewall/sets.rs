//! The sets and maps of the table, and what is in them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::netlink::octets;
use crate::network::{Network, Pool};
use crate::nft::{Batch, DataType, Element, IpVersion, Set, link_name};

use super::Plan;

/// All our bridges.
pub const BRIDGES: &str = "bridges";
/// The chain for what came in by a link: of the host itself, of each bridge and each tunnel.
pub const DOORS: &str = "doors";
/// Each bridge with itself: whoever is on it may send to the others.
pub const NEIGHBOURS: &str = "neighbours";
/// Bridges that nothing but the host sends to from outside, and that lead nowhere.
pub const INTERNAL: &str = "internal";
/// Addresses whose port 53 is a resolver's: of IPv4, which every container has.
pub const GATEWAYS: &str = "gateways";

/// What is called how for one version of IP.
#[derive(Debug)]
pub struct Names {
    /// All our subnets.
    pub subnets: &'static str,
    /// What nobody outside of this host may send to: the subnets that are hidden, the gateways of the others, and of
    /// IPv4 what is loopback here.
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
    /// Each bridge with the host's own address on it.
    pub own_gateways: &'static str,
    /// Each bridge with its subnet.
    pub homes: &'static str,
    /// Subnets whose containers are seen by the host's address where they are not at home.
    pub masked: &'static str,
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
    own_gateways: "own_gateways",
    homes: "homes",
    masked: "masked",
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
    own_gateways: "own_gateways6",
    homes: "homes6",
    masked: "masked6",
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

/// The versions of IP that some network has.
pub fn versions(plan: &Plan<'_>) -> Vec<IpVersion> {
    let mut all = vec![IpVersion::V4, IpVersion::V6];
    all.retain(|version| *version == IpVersion::V4 || pools(plan, *version).next().is_some());
    all
}

/// Declares the sets and fills them; but [`DOORS`], for there are no chains yet.
pub fn declare(batch: &mut Batch, plan: &Plan<'_>) {
    use DataType::{Ipv4, Ipv6, Layer4, LinkName, Port, Verdict};
    batch
        .set(set(BRIDGES, &[LinkName], &[], false))
        .set(set(DOORS, &[LinkName], &[Verdict], false))
        .set(set(NEIGHBOURS, &[LinkName, LinkName], &[], false))
        .set(set(INTERNAL, &[LinkName], &[], false))
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
            .set(set(names.clients, &[ip], &[], true))
            .set(set(names.own_gateways, &[LinkName, ip], &[], false))
            .set(set(names.homes, &[LinkName, ip], &[], true))
            .set(set(names.masked, &[ip], &[], true));
    }
    let all = plan.networks.iter();
    let devices = |fits: fn(&Network) -> bool| -> Vec<_> {
        let fitting = all.clone().filter(|network| fits(network));
        fitting
            .map(|network| Element::member(link_name(&network.device)))
            .collect()
    };
    let neighbours = all.clone().map(|network| link_name(&network.device));
    let neighbours: Vec<_> = neighbours
        .map(|link| Element::member(link.repeat(2)))
        .collect();
    let resolvers: Vec<_> = plan.resolvers.iter().copied().map(member).collect();
    batch
        .add(BRIDGES, &devices(|_| true))
        .add(INTERNAL, &devices(|network| network.internal))
        .add(NEIGHBOURS, &neighbours)
        .add(GATEWAYS, &resolvers);
    for version in [IpVersion::V4, IpVersion::V6] {
        let names = Names::of(version);
        let hidden = pools(plan, version).map(|(subnet, pool)| match pool.is_hidden() {
            true => subnet,
            false => pool.gateway.into(),
        });
        let own = (version == IpVersion::V4).then(loopback);
        let on_bridges = || {
            let all = plan.networks.iter();
            let all = all.flat_map(|network| network.pools().map(move |pool| (*network, pool)));
            all.filter(move |(_, pool)| IpVersion::of(pool.gateway) == version)
        };
        let own_gateways = on_bridges().map(|(network, pool)| at(network, pool.gateway));
        let homes = on_bridges().map(|(network, pool)| Element {
            key_end: at(network, pool.subnet.broadcast()).key,
            ..at(network, pool.subnet.network())
        });
        let masked = on_bridges().filter(|(network, pool)| !network.internal && pool.is_hidden());
        batch
            .add(
                names.subnets,
                &ranges(pools(plan, version).map(|(subnet, _)| subnet)),
            )
            .add(names.hidden, &ranges(hidden.chain(own)))
            .add(names.own_gateways, &own_gateways.collect::<Vec<_>>())
            .add(names.homes, &homes.collect::<Vec<_>>())
            .add(names.masked, &ranges(masked.map(|(_, pool)| pool.subnet)))
            .add(names.clients, &ranges(plan.clients.ranges(version)));
    }
    for (set, elements) in plan.entries.elements() {
        batch.add(set, &elements);
    }
}

/// What route_localnet on our bridges would otherwise open to others (CVE-2020-8558 was that hole in kube-proxy).
pub fn loopback() -> IpNet {
    IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8)
}

/// An address on the bridge of a network.
fn at(network: &Network, address: IpAddr) -> Element {
    let mut key = link_name(&network.device);
    key.extend(octets(address));
    Element::member(key)
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
