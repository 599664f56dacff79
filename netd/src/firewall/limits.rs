//! What one container may take of what all of them share: tracked connections, and the resolvers' time.
//!
//! Counted by source address, which is the container's own by the table of its bridge. What is counted begins anew
//! whenever the table is written.

use std::time::Duration;

use crate::nft::{
    Batch, Bound, Chain,
    Compare::Is,
    DataType::{Ipv4, Ipv6},
    IpVersion::{V4, V6},
    Meter, Rule, Verdict,
};
use crate::ports::Protocol;

use super::rules::{DNS, PREROUTING};
use super::sets::BRIDGES;

/// Where first packets of connections are counted.
const COUNTED: &str = "counted";
/// Where questions that containers ask over udp are.
const ASKED: &str = "asked";

/// What a container may have; 0 = any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are open at once and that this host tracks.
    pub connections: u32,
    /// Packets a second to port 53 of this host over udp.
    pub queries: u32,
}

/// What a container's questions go through, first in the chain for what it sends: before the connection is tracked, so
/// that a flood costs no entry.
pub fn asked(limits: Limits, chain: &str) -> Option<Rule> {
    let question = || {
        Rule::on(chain.to_owned())
            .carries(Protocol::Udp.number())
            .port(DNS)
    };
    (limits.queries > 0).then(|| question().then(Verdict::Jump(ASKED.into())))
}

/// Makes the meters, and the rules of them that come first in their chains.
pub fn write(batch: &mut Batch, limits: Limits) {
    if limits.queries > 0 {
        batch.chain(Chain {
            name: ASKED,
            hook: None,
        });
    }
    if limits.connections > 0 {
        batch
            .chain(Chain {
                name: COUNTED,
                hook: None,
            })
            // Only the first packet of each comes by a chain of this kind: the others cost nothing.
            .rule(
                Rule::on(PREROUTING)
                    .input_in(Is, BRIDGES)
                    .begins()
                    .then(Verdict::Jump(COUNTED.into())),
            )
            // A question to a resolver is a connection for half a minute, and bounded otherwise.
            .rule(
                Rule::on(COUNTED)
                    .carries(Protocol::Udp.number())
                    .port(DNS)
                    .to_this_host(Is)
                    .then(Verdict::Return),
            );
    }
    for (version, key, connections, queries) in [
        (V4, Ipv4, "connections", "queries"),
        (V6, Ipv6, "connections6", "queries6"),
    ] {
        if limits.queries > 0 {
            batch
                .meter(Meter {
                    name: queries,
                    key,
                    forget: Some(Duration::from_secs(10)),
                })
                .rule(
                    Rule::on(ASKED)
                        .to_this_host(Is)
                        .source_exceeds(version, queries, Bound::PacketsASecond(limits.queries))
                        .then(Verdict::Drop),
                );
        }
        if limits.connections > 0 {
            let most = Bound::Connections(limits.connections);
            batch
                .meter(Meter {
                    name: connections,
                    key,
                    forget: None,
                })
                .rule(
                    Rule::on(COUNTED)
                        .source_exceeds(version, connections, most)
                        .then(Verdict::Drop),
                );
        }
    }
}
