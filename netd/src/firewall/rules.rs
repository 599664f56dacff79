//! The chains of the table and their rules.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::nft::{
    Batch, Chain,
    Compare::{Is, IsNot},
    Hook,
    IpVersion::V4,
    Rule, Verdict,
};

use super::Plan;
use super::sets::{BRIDGES, Names};

const DNS: u16 = 53;

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

/// Makes the chains and their rules.
pub fn write(batch: &mut Batch, plan: &Plan<'_>) {
    for chain in CHAINS {
        batch.chain(chain);
    }
    let (networks, names) = (plan.networks, Names::of(V4));
    let loopback = IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8);

    batch
        .rule(Rule::on(RAW).input(Is, "lo").then(Verdict::Accept))
        // route_localnet on our bridges would otherwise open 127.0.0.0/8 to containers
        // (CVE-2020-8558 was that hole in kube-proxy).
        .rule(Rule::on(RAW).destination(Is, loopback).then(Verdict::Drop))
        // A neighbour that routes to containers' addresses, or pretends to be one.
        .rule(
            Rule::on(RAW)
                .input_in(IsNot, BRIDGES)
                .destination_in(V4, names.subnets)
                .then(Verdict::Drop),
        )
        .rule(
            Rule::on(RAW)
                .input_in(IsNot, BRIDGES)
                .source_in(V4, names.subnets)
                .then(Verdict::Drop),
        );
    for network in networks {
        batch.rule(
            Rule::on(RAW)
                .input(Is, &network.device)
                .source(IsNot, network.v4.subnet)
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
                .destination_in(V4, names.gateways)
                .port(DNS)
                .then(Verdict::Return),
        )
        .rule(Rule::on(TO_CONTAINER).dnat_by_address_and_port(V4, names.published_at))
        .rule(Rule::on(TO_CONTAINER).dnat_by_port(V4, names.published));
    for chain in [PREROUTING, OUTPUT] {
        batch.rule(Rule::on(chain).ip(V4).then(Verdict::Jump(TO_CONTAINER)));
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
        let (device, subnet) = (network.device.as_str(), network.v4.subnet);
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
