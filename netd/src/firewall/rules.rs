//! The chains of the table and their rules.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::nft::{
    Batch, Chain,
    Compare::{Is, IsNot},
    Hook,
    IpVersion::{self, V4, V6},
    Rule, Verdict,
};

use super::sets::{BRIDGES, BRIDGES6, GATEWAYS, Names};
use super::{Plan, limits, overlay};

pub(super) const DNS: u16 = 53;

pub(super) const RAW: &str = "raw";
pub(super) const FROM_CONTAINERS: &str = "from_containers";
const FROM_OUTSIDE: &str = "from_outside";
const GATES: &str = "gates";
const GATES6: &str = "gates6";
const TO_CONTAINER: &str = "to_container";
const TO_CONTAINER6: &str = "to_container6";
pub(super) const PREROUTING: &str = "prerouting";
pub(super) const INPUT: &str = "input";
const OUTPUT: &str = "output";
pub(super) const POSTROUTING: &str = "postrouting";
pub(super) const FORWARD: &str = "forward";

const CHAINS: [Chain; 12] = [
    hooked(RAW, "filter", 0, -300),
    jumped_to(FROM_CONTAINERS),
    jumped_to(FROM_OUTSIDE),
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

const fn jumped_to(name: &'static str) -> Chain {
    Chain { name, hook: None }
}

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
}

fn net(address: impl Into<std::net::IpAddr>, prefix: u8) -> IpNet {
    IpNet::new_assert(address.into(), prefix)
}

/// Before anything is translated or routed: destinations are still what the sender wrote.
fn raw(batch: &mut Batch, plan: &Plan<'_>) {
    overlay::own(batch, plan.networks);
    batch
        .rule(Rule::on(RAW).input(Is, "lo").then(Verdict::Accept))
        // route_localnet on our bridges would otherwise open 127.0.0.0/8 to containers
        // (CVE-2020-8558 was that hole in kube-proxy).
        .rule(
            Rule::on(RAW)
                .destination(Is, net(Ipv4Addr::new(127, 0, 0, 0), 8))
                .then(Verdict::Drop),
        );
    overlay::raw(batch, plan.networks);
    // Every packet comes by here, so that whence it is is looked up as seldom as may be.
    let bridges = |compare, chain| {
        Rule::on(RAW)
            .input_in(compare, BRIDGES)
            .then(Verdict::Jump(chain))
    };
    batch.rule(bridges(IsNot, FROM_OUTSIDE));
    overlay::outer(batch, plan.networks);
    batch.rule(bridges(Is, FROM_CONTAINERS));
    from_outside(batch);
    from_containers(batch, plan);
}

/// A neighbour that routes to containers' addresses, or pretends to be one.
fn from_outside(batch: &mut Batch) {
    for version in [V4, V6] {
        let names = Names::of(version);
        let rule = || Rule::on(FROM_OUTSIDE);
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
}

/// A container that pretends to be somebody else.
fn from_containers(batch: &mut Batch, plan: &Plan<'_>) {
    for network in plan.networks {
        let from = || Rule::on(FROM_CONTAINERS).input(Is, &network.device);
        batch.rule(from().source(IsNot, network.v4.subnet).then(Verdict::Drop));
        if let Some(pool) = &network.v6 {
            batch.rule(from().source(Is, pool.subnet).then(Verdict::Accept));
        }
    }
    let link_local = net(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    let unspecified = net(Ipv6Addr::UNSPECIFIED, 128);
    for neighbours in [link_local, unspecified] {
        // Neighbours find each other so (RFC 4861, 4.3), and what has such a source is never forwarded.
        batch.rule(
            Rule::on(FROM_CONTAINERS)
                .input_in(Is, BRIDGES6)
                .source(Is, neighbours)
                .then(Verdict::Accept),
        );
    }
    batch.rule(Rule::on(FROM_CONTAINERS).ip(V6).then(Verdict::Drop));
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
            .rule(Rule::on(PREROUTING).ip(version).then(Verdict::Jump(chain)));
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
            batch.rule(Rule::on(hook).ip(version).then(Verdict::Jump(chain)));
        }
    }
}

/// What the host's own services listen for. Its addresses on other networks are those networks' matter: ports that are
/// published there were translated before, and never come here.
fn input(batch: &mut Batch, plan: &Plan<'_>) {
    overlay::input(batch, plan.networks);
    for network in plan.networks {
        for pool in network.pools() {
            let version = IpVersion::of(pool.gateway);
            batch.rule(
                Rule::on(INPUT)
                    .input(Is, &network.device)
                    .destination(IsNot, pool.gateway.into())
                    .destination_in(version, Names::of(version).subnets)
                    .then(Verdict::Drop),
            );
        }
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
    for network in plan.networks {
        let device = network.device.as_str();
        batch
            // From the host's own loopback: the container must be able to answer.
            .rule(
                Rule::on(POSTROUTING)
                    .output(Is, device)
                    .source(Is, net(Ipv4Addr::new(127, 0, 0, 0), 8))
                    .masquerade(),
            )
            // Only one network's neighbours, also where bridged packets pass here (br_netfilter).
            .rule(
                Rule::on(FORWARD)
                    .input(Is, device)
                    .output(Is, device)
                    .then(Verdict::Accept),
            );
        if network.internal {
            batch.rule(Rule::on(FORWARD).input(Is, device).then(Verdict::Drop));
            batch.rule(Rule::on(FORWARD).output(Is, device).then(Verdict::Drop));
        }
        for pool in network.pools() {
            // Hairpin: the answer has to come back through us to be translated back.
            batch.rule(
                Rule::on(POSTROUTING)
                    .output(Is, device)
                    .source(Is, pool.subnet)
                    .published()
                    .masquerade(),
            );
            if !network.internal && pool.is_hidden() {
                batch.rule(
                    Rule::on(POSTROUTING)
                        .output(IsNot, device)
                        .source(Is, pool.subnet)
                        .masquerade(),
                );
            }
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
