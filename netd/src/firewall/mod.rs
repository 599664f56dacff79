//! What table `inet slipway` says: from networks and published ports to rules, as a pure function.
//!
//! * `published` and `published_at` map (protocol, [host address,] port) to a container: two rules,
//!   whatever the number of ports. Each version of IP has sets of its own, for their keys differ in length.
//! * Nothing from outside reaches a container's address or 127.0.0.0/8 directly; both are dropped
//!   before routing, where destinations are still what the sender wrote.
//! * Containers with addresses of IPv6 that others have a way to send and answer as who they are; they are reached by
//!   published ports only, as all others. IPv6 of a network that has none goes nowhere.
//! * Where netd had to switch forwarding on, the host forwards for its containers and for nobody else.
//! * `accept` in this table never overrides a drop in another. On a host whose `ip filter FORWARD`
//!   policy is drop (Docker's doing), the administrator has to let our bridges through there:
//!   `iptables -I DOCKER-USER -i slipway0 -j ACCEPT` and the same with `-o`.

mod limits;
mod rules;
mod sets;

use std::net::IpAddr;

use crate::netlink::octets;
use crate::network::Network;
use crate::nft::{Batch, Element, IpVersion, register};
use crate::ports::Protocol;

pub use limits::Limits;
use sets::Names;

/// Our table; nothing else is ever written.
pub const TABLE: &str = "slipway";

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// tcp, udp, sctp.
    pub protocol: Protocol,
    /// One address of the host, or all of the container's version of IP.
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub to: IpAddr,
    /// The container's port.
    pub to_port: u16,
}

impl Forward {
    fn map(&self) -> &'static str {
        let names = Names::of(IpVersion::of(self.to));
        match self.host {
            Some(_) => names.published_at,
            None => names.published,
        }
    }

    fn element(&self) -> Element {
        let mut key = register(&[self.protocol.number()]);
        if let Some(host) = self.host {
            key.extend(octets(host));
        }
        key.extend(register(&self.host_port.to_be_bytes()));
        let mut value = octets(self.to);
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
    for map in Names::maps() {
        batch.add(map, &by_map(forwards, map));
    }
    batch
}

/// Withdraws ports.
pub fn withdraw(forwards: &[Forward]) -> Batch {
    let mut batch = Batch::of(TABLE);
    for map in Names::maps() {
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
    pub resolvers: &'a [IpAddr],
    /// Whose it is.
    pub ownership: Ownership,
    /// Of these versions of IP this host forwards because of its containers only: what neither comes from one nor goes to
    /// one is dropped.
    pub no_router: &'a [IpVersion],
    /// Of each container.
    pub limits: Limits,
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
    sets::declare(&mut batch, plan);
    rules::write(&mut batch, plan);
    batch
}
