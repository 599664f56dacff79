//! What table `inet slipway` says: from networks and published ports to rules, as a pure function.
//!
//! * `published` and `published_at` map (protocol, [host address,] port) to a container: two rules,
//!   whatever the number of ports. Each version of IP has sets of its own, for their keys differ in length. In `ranges`
//!   one element is a whole range of ports that are the same outside and inside.
//! * `limited` has the ports that only some clients may use, `from` each of them with each range of its clients; what does
//!   not fit is dropped before it is translated. Ports that say nothing of their clients are asked after it, where they
//!   are forwarded: that costs one rule, whatever the number of ports. Neither is asked of the host itself.
//! * Nothing from outside reaches a container's address or 127.0.0.0/8 directly; both are dropped
//!   before routing, where destinations are still what the sender wrote.
//! * Containers with addresses of IPv6 that others have a way to send and answer as who they are; they are reached by
//!   published ports only, as all others. IPv6 of a network that has none goes nowhere.
//! * Whence a packet is and where it goes is looked up by the names of links, in sets: it passes as many rules, whatever
//!   the number of bridges. What came by one bridge has a chain of its own.
//! * Of networks that span hosts, containers of all hosts send each other by tunnels that only these hosts send into. Each
//!   such network has rules of its own, some for each of its hosts.
//! * Where netd had to switch forwarding on, the host forwards for its containers and for nobody else.
//! * `accept` in this table never overrides a drop in another. On a host whose `ip filter FORWARD`
//!   policy is drop (Docker's doing), the administrator has to let our bridges through there:
//!   `iptables -I DOCKER-USER -i slipway0 -j ACCEPT` and the same with `-o`.

mod entries;
mod limits;
mod overlay;
pub mod policy;
mod rules;
mod sets;

use std::net::IpAddr;

use crate::network::Network;
use crate::nft::{Batch, Element, IpVersion};
use crate::ports::Limit;

pub use entries::{Entries, Forward, Gate};
pub use limits::Limits;

/// Our table; nothing else is ever written.
pub const TABLE: &str = "slipway";

/// Puts what is published of an endpoint in the place of what was, in one step for every packet.
pub fn change(before: &Entries, after: &Entries) -> Batch {
    let mut batch = Batch::of(TABLE);
    let (gone, new) = (before.without(after), after.without(before));
    for (set, elements) in gone {
        let keys: Vec<_> = elements.into_iter().map(Element::without_value).collect();
        batch.remove(set, &keys);
    }
    for (set, elements) in new {
        batch.add(set, &elements);
    }
    batch
}

/// The same in as many steps as there are entries to be changed: one that cannot be keeps no other.
pub fn change_each(before: &Entries, after: &Entries) -> Vec<Batch> {
    let one = |set, element: Element, add: bool| {
        let mut batch = Batch::of(TABLE);
        match add {
            true => batch.add(set, &[element]),
            false => batch.remove(set, &[element.without_value()]),
        };
        batch
    };
    let mut all = Vec::new();
    for (entries, add) in [
        (before.without(after), false),
        (after.without(before), true),
    ] {
        for (set, elements) in entries {
            all.extend(elements.into_iter().map(|element| one(set, element, add)));
        }
    }
    all
}

/// Whether others can change the table while netd runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// They cannot, not even by `nft flush ruleset`, and it outlives netd. Linux 6.9.
    Owned,
    /// They can; who watches puts it back. It takes the place of one that was kept for a netd that is gone. Linux 6.3.
    Taken,
    /// The same of one that nobody kept.
    Shared,
}

impl Ownership {
    /// What an older kernel can.
    pub fn less(self) -> Option<Self> {
        match self {
            Self::Owned => Some(Self::Taken),
            Self::Taken => Some(Self::Shared),
            Self::Shared => None,
        }
    }
}

/// What the table is to say.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// All networks.
    pub networks: &'a [&'a Network],
    /// All published ports, and resolvers that are not on port 53.
    pub entries: &'a Entries,
    /// Who may use published ports without a gate of their own; unsaid = all.
    pub clients: &'a Limit,
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
        Ownership::Owned | Ownership::Taken => batch.destroy_table(),
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
        Ownership::Taken | Ownership::Shared => batch.table(),
    };
    sets::declare(&mut batch, plan);
    rules::write(&mut batch, plan);
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Request;

    #[test]
    fn a_packet_passes_as_many_rules_whatever_the_number_of_networks() {
        let networks: Vec<Network> = (0..100)
            .map(|number| {
                let request = Request {
                    name: format!("net{number}"),
                    internal: number % 2 == 1,
                    ..Default::default()
                };
                let v4 = format!("10.{number}.0.0/16").parse().unwrap();
                let v6 = format!("fd00:{number}::/64").parse().unwrap();
                request.plan(v4, Some(v6), 1500).unwrap()
            })
            .collect();
        let rules = |count: usize| {
            let networks: Vec<&Network> = networks.iter().take(count).collect();
            let batch = replace(&Plan {
                networks: &networks,
                entries: &Entries::default(),
                clients: &Limit::default(),
                resolvers: &[],
                ownership: Ownership::Shared,
                no_router: &[IpVersion::V4, IpVersion::V6],
                limits: Limits {
                    connections: 1,
                    queries: 1,
                },
            });
            let by = rules::by(&networks[1].device);
            let chains = ["raw", &by, "prerouting", "input", "forward", "postrouting"];
            chains.map(|chain| batch.rules_of(chain))
        };
        let few = rules(2);
        assert!(few.iter().all(|count| *count > 0), "{few:?}");
        assert_eq!(few, rules(100));
    }
}
