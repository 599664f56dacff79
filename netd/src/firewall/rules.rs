//! The chains of the table and their rules.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnet::IpNet;

use crate::network::Network;
use crate::nft::{
    Batch, Chain,
    Compare::{Is, IsNot},
    Element, Hook,
    IpVersion::{V4, V6},
    Rule, Verdict, link_name,
};

use super::sets::{BRIDGES, DOORS, GATEWAYS, INTERNAL, NEIGHBOURS, Names, loopback, versions};
use super::{Plan, limits, overlay};

pub(super) const DNS: u16 = 53;

pub(super) const RAW: &str = "raw";
const GATES: &str = "gates";
const GATES6: &str = "gates6";
const TO_CONTAINER: &str = "to_container";
const TO_CONTAINER6: &str = "to_container6";
pub(super) const PREROUTING: &str = "prerouting";
pub(super) const INPUT: &str = "input";
const OUTPUT: &str = "output";
pub(super) const POSTROUTING: &str = "postrouting";
pub(super) const FORWARD: &str = "forward";

const CHAINS: [Chain<'static>; 10] = [
    hooked(RAW, "filter", 0, -300),
    jumped_to(GATES),
    jumped_to(GATES6),
    jumped_to(TO_CONTAINER),
    jumped_to(TO_CONTAINER6),
    hooked(PREROUTING, "nat", 0, -100),
    hooked(INPUT, "filter", 1, 0),
    hooked(OUTPUT, "nat", 3, -100),
    hooked(POSTROUTING, "nat", 4, 100),
    hooked(FORWARD, "filter", 2, 0),
];

const fn jumped_to(name: &str) -> Chain<'_> {
    Chain { name, hook: None }
}

const fn hooked(
    name: &'static str,
    kind: &'static str,
    number: u32,
    priority: i32,
) -> Chain<'static> {
    Chain {
        name,
        hook: Some(Hook {
            kind,
            number,
            priority,
        }),
    }
}

/// Makes the chains and their rules.
pub fn write(batch: &mut Batch, plan: &Plan<'_>) {
    for chain in CHAINS {
        batch.chain(chain);
    }
    limits::write(batch, plan.limits);
    raw(batch, plan);
    gates(batch);
    to_container(batch);
    input(batch, plan);
    forward(batch, plan);
    masquerade(batch, plan);
}

fn net(address: impl Into<std::net::IpAddr>, prefix: u8) -> IpNet {
    IpNet::new_assert(address.into(), prefix)
}

/// The chain for what came in by a link.
pub(super) fn by(link: &str) -> String {
    format!("by_{link}")
}

/// Before anything is translated or routed: destinations are still what the sender wrote. Every packet comes by here:
/// whence it is is looked up once, however many networks there are.
fn raw(batch: &mut Batch, plan: &Plan<'_>) {
    overlay::chains(batch, plan.networks);
    for network in plan.networks {
        from_container(batch, plan, network);
    }
    let mut links = overlay::doors(plan.networks);
    links.extend(plan.networks.iter().map(|network| network.device.clone()));
    let to_chain = |link: &String| (link.clone(), Verdict::Jump(by(link).into()));
    let mut doors: BTreeMap<_, _> = links.iter().map(to_chain).collect();
    doors.entry("lo".to_owned()).or_insert(Verdict::Accept);
    let doors = doors.into_iter();
    let doors: Vec<_> = doors
        .map(|(link, verdict)| Element::decided(link_name(&link), verdict))
        .collect();
    batch
        .add(DOORS, &doors)
        .rule(Rule::on(RAW).decide_by_input(DOORS));
    // The rest is from outside: a neighbour that routes to containers' addresses, or pretends to be one.
    for version in versions(plan) {
        let names = Names::of(version);
        let rule = || Rule::on(RAW);
        batch
            .rule(
                rule()
                    .destination_in(version, names.hidden)
                    .then(Verdict::Drop),
            )
            .rule(
                rule()
                    .source_in(version, Is, names.subnets)
                    .then(Verdict::Drop),
            );
    }
    if let Some(rule) = overlay::outer(plan.networks) {
        batch.rule(rule);
    }
}

/// A container that pretends to be somebody else, or sends to what only this host may.
fn from_container(batch: &mut Batch, plan: &Plan<'_>, network: &Network) {
    let name = by(&network.device);
    batch.chain(jumped_to(&name));
    let rules = [
        limits::asked(plan.limits, &name),
        overlay::inner(plan.networks, &name),
    ];
    for rule in rules.into_iter().flatten() {
        batch.rule(rule);
    }
    let from = || Rule::on(name.clone());
    batch
        .rule(from().destination(Is, loopback()).then(Verdict::Drop))
        .rule(from().source(Is, network.v4.subnet).then(Verdict::Accept));
    if let Some(pool) = &network.v6 {
        let link_local = net(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
        let unspecified = net(Ipv6Addr::UNSPECIFIED, 128);
        // Neighbours find each other by the latter two (RFC 4861, 4.3), and what has such a source is never forwarded.
        for source in [pool.subnet, link_local, unspecified] {
            batch.rule(from().source(Is, source).then(Verdict::Accept));
        }
    }
    batch.rule(from().then(Verdict::Drop));
}

/// Who may use published ports. Before they are translated, and of new connections only; the host's own never come by.
fn gates(batch: &mut Batch) {
    for (version, chain) in [(V4, GATES), (V6, GATES6)] {
        let names = Names::of(version);
        batch.rule(Rule::on(chain).to_this_host(IsNot).then(Verdict::Return));
        if version == V4 {
            // As below: not what their containers ask of the resolver.
            batch.rule(
                Rule::on(chain)
                    .destination_in(V4, GATEWAYS)
                    .port(DNS)
                    .then(Verdict::Return),
            );
        }
        batch
            .rule(
                Rule::on(chain)
                    .not_from(version, names.limited, names.from)
                    .then(Verdict::Drop),
            )
            .rule(
                Rule::on(PREROUTING)
                    .ip(version)
                    .then(Verdict::Jump(chain.into())),
            );
    }
}

/// Published ports lead to their containers.
fn to_container(batch: &mut Batch) {
    for chain in [TO_CONTAINER, TO_CONTAINER6] {
        batch.rule(Rule::on(chain).to_this_host(IsNot).then(Verdict::Return));
    }
    // A published port 53 must not take the containers' own resolver away.
    batch.rule(
        Rule::on(TO_CONTAINER)
            .destination_in(V4, GATEWAYS)
            .port(DNS)
            .then(Verdict::Return),
    );
    let link_local = net(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    for unroutable in [net(Ipv6Addr::LOCALHOST, 128), link_local] {
        // There is no route_localnet for IPv6: the answer to ::1 would be dropped. The relay serves it.
        batch.rule(
            Rule::on(TO_CONTAINER6)
                .destination(Is, unroutable)
                .then(Verdict::Return),
        );
    }
    for (version, chain) in [(V4, TO_CONTAINER), (V6, TO_CONTAINER6)] {
        let names = Names::of(version);
        batch
            .rule(Rule::on(chain).dnat_by_address_and_port(version, names.published_at))
            .rule(Rule::on(chain).dnat_by_port(version, names.published))
            .rule(Rule::on(chain).dnat_by_range(version, names.ranges));
        for hook in [PREROUTING, OUTPUT] {
            batch.rule(Rule::on(hook).ip(version).then(Verdict::Jump(chain.into())));
        }
    }
}

/// What the host's own services listen for. Its addresses on other networks are those networks' matter: ports that are
/// published there were translated before, and never come here.
fn input(batch: &mut Batch, plan: &Plan<'_>) {
    batch.rule(Rule::on(INPUT).established().then(Verdict::Accept));
    overlay::input(batch, plan.networks);
    for version in versions(plan) {
        let names = Names::of(version);
        batch.rule(
            Rule::on(INPUT)
                .input_in(Is, BRIDGES)
                .destination_in(version, names.subnets)
                .input_to(version, IsNot, names.own_gateways)
                .then(Verdict::Drop),
        );
    }
}

/// Who may send to whom, and by which address.
fn forward(batch: &mut Batch, plan: &Plan<'_>) {
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
    for version in plan.no_router {
        batch.rule(
            Rule::on(FORWARD)
                .ip(*version)
                .input_in(IsNot, BRIDGES)
                .output_in(IsNot, BRIDGES)
                .then(Verdict::Drop),
        );
    }
    if !plan.clients.is_unsaid() {
        for version in [V4, V6] {
            let names = Names::of(version);
            batch.rule(
                Rule::on(FORWARD)
                    .published()
                    .source_in(version, IsNot, names.clients)
                    .first_not_to(version, names.limited)
                    .then(Verdict::Drop),
            );
        }
    }
    overlay::forward(batch, plan.networks);
    // Only one network's neighbours, also where bridged packets pass here (br_netfilter).
    batch.rule(Rule::on(FORWARD).between(NEIGHBOURS).then(Verdict::Accept));
    if plan.networks.iter().any(|network| network.internal) {
        batch
            .rule(Rule::on(FORWARD).input_in(Is, INTERNAL).then(Verdict::Drop))
            .rule(
                Rule::on(FORWARD)
                    .output_in(Is, INTERNAL)
                    .then(Verdict::Drop),
            );
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

/// Who is seen by an address of the host's. Only first packets of connections come by.
fn masquerade(batch: &mut Batch, plan: &Plan<'_>) {
    // From the host's own loopback: the container must be able to answer.
    batch.rule(
        Rule::on(POSTROUTING)
            .output_in(Is, BRIDGES)
            .source(Is, loopback())
            .masquerade(),
    );
    for version in versions(plan) {
        let names = Names::of(version);
        batch
            // Hairpin: the answer has to come back through us to be translated back.
            .rule(
                Rule::on(POSTROUTING)
                    .published()
                    .output_from(version, Is, names.homes)
                    .masquerade(),
            )
            .rule(
                Rule::on(POSTROUTING)
                    .source_in(version, Is, names.masked)
                    .output_from(version, IsNot, names.homes)
                    .masquerade(),
            );
    }
}
