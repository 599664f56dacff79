//! What table `inet slipway` says: from networks and published ports to rules, as a pure function.
//!
//! * `published` and `published_at` map (protocol, [host address,] port) to a container: two rules,
//!   whatever the number of ports.
//! * Nothing from outside reaches a container's address or 127.0.0.0/8 directly; both are dropped
//!   before routing, where destinations are still what the sender wrote.
//! * Where netd had to switch forwarding on, the host forwards for its containers and for nobody else.
//! * `accept` in this table never overrides a drop in another. On a host whose `ip filter FORWARD`
//!   policy is drop (Docker's doing), the administrator has to let our bridges through there:
//!   `iptables -I DOCKER-USER -i slipway0 -j ACCEPT` and the same with `-o`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::network::Network;
use crate::nft::{
    Batch, Chain,
    Compare::{Is, IsNot},
    DataType, Element, Hook, Rule, Set, Verdict, link_name, register,
};
use crate::ports::Protocol;

/// Our table; nothing else is ever written.
pub const TABLE: &str = "slipway";

const BRIDGES: &str = "bridges";
const SUBNETS: &str = "subnets";
const GATEWAYS: &str = "gateways";
const PUBLISHED: &str = "published";
const PUBLISHED_AT: &str = "published_at";

const DNS: u16 = 53;

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// tcp, udp, sctp.
    pub protocol: Protocol,
    /// One address of the host, or all.
    pub host: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub to: Ipv4Addr,
    /// The container's port.
    pub to_port: u16,
}

impl Forward {
    fn map(&self) -> &'static str {
        if self.host.is_some() {
            PUBLISHED_AT
        } else {
            PUBLISHED
        }
    }

    fn element(&self) -> Element {
        let mut key = register(&[self.protocol.number()]);
        if let Some(host) = self.host {
            key.extend(host.octets());
        }
        key.extend(register(&self.host_port.to_be_bytes()));
        let mut value = self.to.octets().to_vec();
        value.extend(register(&self.to_port.to_be_bytes()));
        Element {
            key,
            value,
            range_end: false,
        }
    }
}

fn by_map(forwards: &[Forward], map: &'static str) -> Vec<Element> {
    forwards
        .iter()
        .filter(|forward| forward.map() == map)
        .map(Forward::element)
        .collect()
}

/// Publishes ports.
pub fn publish(forwards: &[Forward]) -> Batch {
    let mut batch = Batch::of(TABLE);
    for map in [PUBLISHED, PUBLISHED_AT] {
        batch.add(map, &by_map(forwards, map));
    }
    batch
}

/// Withdraws ports.
pub fn withdraw(forwards: &[Forward]) -> Batch {
    let mut batch = Batch::of(TABLE);
    for map in [PUBLISHED, PUBLISHED_AT] {
        let keys: Vec<_> = by_map(forwards, map)
            .into_iter()
            .map(|element| Element::member(element.key))
            .collect();
        batch.remove(map, &keys);
    }
    batch
}

/// Whether others can change the table while netd runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// They cannot, not even by `nft flush ruleset`, and it outlives netd. Linux 6.9.
    Owned,
    /// They can; who watches puts it back.
    Shared,
}

/// What the table is to say.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// All networks.
    pub networks: &'a [&'a Network],
    /// All published ports, and resolvers that are not on port 53.
    pub forwards: &'a [Forward],
    /// Gateways whose port 53 is a resolver's.
    pub resolvers: &'a [Ipv4Addr],
    /// Whose it is.
    pub ownership: Ownership,
    /// This host forwards because of its containers only: what neither comes from one nor goes to one is dropped.
    pub no_router: bool,
}

/// Takes the table away.
pub fn remove(ownership: Ownership) -> Batch {
    let mut batch = Batch::of(TABLE);
    match ownership {
        Ownership::Owned => batch.destroy_table(),
        // Made first, so that its absence is no error.
        Ownership::Shared => batch.table().delete_table(),
    };
    batch
}

/// Replaces the whole table, in one step for every packet. Connections that were translated go on: their state is
/// elsewhere.
pub fn replace(plan: &Plan<'_>) -> Batch {
    let mut batch = remove(plan.ownership);
    match plan.ownership {
        Ownership::Owned => batch.own_table(),
        Ownership::Shared => batch.table(),
    };
    sets(&mut batch, plan);
    for chain in CHAINS {
        batch.chain(chain);
    }
    rules(&mut batch, plan);
    batch
}

fn sets(batch: &mut Batch, plan: &Plan<'_>) {
    let Plan {
        networks, forwards, ..
    } = plan;
    use DataType::{Ipv4, Layer4, LinkName, Port};
    let set = |name, key, value, interval| Set {
        name,
        key,
        value,
        interval,
    };
    batch
        .set(set(BRIDGES, &[LinkName], &[], false))
        .set(set(SUBNETS, &[Ipv4], &[], true))
        .set(set(GATEWAYS, &[Ipv4], &[], false))
        .set(set(PUBLISHED, &[Layer4, Port], &[Ipv4, Port], false))
        .set(set(
            PUBLISHED_AT,
            &[Layer4, Ipv4, Port],
            &[Ipv4, Port],
            false,
        ));
    let each = |key: fn(&Network) -> Vec<u8>| -> Vec<Element> {
        networks
            .iter()
            .map(|network| Element::member(key(network)))
            .collect()
    };
    let gateways = plan.resolvers.iter();
    let gateways: Vec<_> = gateways
        .map(|gateway| Element::member(gateway.octets().to_vec()))
        .collect();
    batch
        .add(BRIDGES, &each(|network| link_name(&network.device)))
        .add(
            SUBNETS,
            &ranges(networks.iter().map(|network| network.subnet)),
        )
        .add(GATEWAYS, &gateways)
        .add(PUBLISHED, &by_map(forwards, PUBLISHED))
        .add(PUBLISHED_AT, &by_map(forwards, PUBLISHED_AT));
}

/// Subnets as the kernel's interval sets want them: the first address in, the first address out.
fn ranges(subnets: impl Iterator<Item = Ipv4Net>) -> Vec<Element> {
    let mut elements = Vec::new();
    for subnet in subnets {
        elements.push(Element::member(subnet.network().octets().to_vec()));
        if let Some(after) = u32::from(subnet.broadcast()).checked_add(1) {
            elements.push(Element {
                key: after.to_be_bytes().to_vec(),
                value: Vec::new(),
                range_end: true,
            });
        }
    }
    elements
}

const RAW: &str = "raw";
const TO_CONTAINER: &str = "to_container";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";
const FORWARD: &str = "forward";

const CHAINS: [Chain; 6] = [
    hooked(RAW, "filter", 0, -300),
    Chain {
        name: TO_CONTAINER,
        hook: None,
    },
    hooked(PREROUTING, "nat", 0, -100),
    hooked(OUTPUT, "nat", 3, -100),
    hooked(POSTROUTING, "nat", 4, 100),
    hooked(FORWARD, "filter", 2, 0),
];

const fn hooked(name: &'static str, kind: &'static str, number: u32, priority: i32) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            kind,
            number,
            priority,
        }),
    }
}

fn rules(batch: &mut Batch, plan: &Plan<'_>) {
    let networks = plan.networks;
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

    batch
        .rule(Rule::on(RAW).input(Is, "lo").then(Verdict::Accept))
        // route_localnet on our bridges would otherwise open 127.0.0.0/8 to containers
        // (CVE-2020-8558 was that hole in kube-proxy).
        .rule(Rule::on(RAW).destination(Is, loopback).then(Verdict::Drop))
        // A neighbour that routes to containers' addresses, or pretends to be one.
        .rule(
            Rule::on(RAW)
                .input_in(IsNot, BRIDGES)
                .destination_in(SUBNETS)
                .then(Verdict::Drop),
        )
        .rule(
            Rule::on(RAW)
                .input_in(IsNot, BRIDGES)
                .source_in(SUBNETS)
                .then(Verdict::Drop),
        );
    for network in networks {
        batch.rule(
            Rule::on(RAW)
                .input(Is, &network.device)
                .source(IsNot, network.subnet)
                .then(Verdict::Drop),
        );
    }

    batch
        .rule(
            Rule::on(TO_CONTAINER)
                .to_this_host(IsNot)
                .then(Verdict::Return),
        )
        // A published port 53 must not take the containers' own resolver away.
        .rule(
            Rule::on(TO_CONTAINER)
                .destination_in(GATEWAYS)
                .port(DNS)
                .then(Verdict::Return),
        )
        .rule(Rule::on(TO_CONTAINER).dnat_by_address_and_port(PUBLISHED_AT))
        .rule(Rule::on(TO_CONTAINER).dnat_by_port(PUBLISHED));
    for chain in [PREROUTING, OUTPUT] {
        batch.rule(Rule::on(chain).ipv4().then(Verdict::Jump(TO_CONTAINER)));
    }

    batch
        .rule(Rule::on(FORWARD).established().then(Verdict::Accept))
        // What conntrack cannot place is not translated: it would leave with a container's address.
        .rule(
            Rule::on(FORWARD)
                .input_in(Is, BRIDGES)
                .output_in(IsNot, BRIDGES)
                .invalid()
                .then(Verdict::Drop),
        );
    if plan.no_router {
        batch.rule(
            Rule::on(FORWARD)
                .input_in(IsNot, BRIDGES)
                .output_in(IsNot, BRIDGES)
                .then(Verdict::Drop),
        );
    }
    for network in networks {
        let (device, subnet) = (network.device.as_str(), network.subnet);
        batch
            // From the host's own loopback: the container must be able to answer.
            .rule(
                Rule::on(POSTROUTING)
                    .output(Is, device)
                    .source(Is, loopback)
                    .masquerade(),
            )
            // Hairpin: the answer has to come back through us to be translated back.
            .rule(
                Rule::on(POSTROUTING)
                    .output(Is, device)
                    .source(Is, subnet)
                    .published()
                    .masquerade(),
            )
            // Only one subnet's neighbours, also where bridged packets pass here (br_netfilter).
            .rule(
                Rule::on(FORWARD)
                    .input(Is, device)
                    .output(Is, device)
                    .then(Verdict::Accept),
            );
        if network.internal {
            batch.rule(Rule::on(FORWARD).input(Is, device).then(Verdict::Drop));
            batch.rule(Rule::on(FORWARD).output(Is, device).then(Verdict::Drop));
        } else {
            batch.rule(
                Rule::on(POSTROUTING)
                    .output(IsNot, device)
                    .source(Is, subnet)
                    .masquerade(),
            );
        }
    }
    batch
        .rule(
            Rule::on(FORWARD)
                .output_in(IsNot, BRIDGES)
                .then(Verdict::Accept),
        )
        .rule(Rule::on(FORWARD).published().then(Verdict::Accept))
        .rule(Rule::on(FORWARD).then(Verdict::Drop));
}
