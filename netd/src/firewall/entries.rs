//! What the sets of the table hold of published ports.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::netlink::octets;
use crate::nft::{Element, IpVersion, register};
use crate::ports::Protocol;

use super::sets::Names;

/// So many ports in a row, and more, are one element: its set is slower to change than one of single ports is
/// (nft_set_pipapo copies it).
const RANGE: usize = 16;

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
    /// Whether only the address is translated, on all addresses of the host.
    fn keeps_its_port(&self) -> bool {
        self.host.is_none() && self.host_port == self.to_port
    }

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
            value,
            ..Element::member(key)
        }
    }
}

/// A published port that only some clients may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// tcp, udp, sctp.
    pub protocol: Protocol,
    /// One address of the host, or all of its version of IP (the unspecified one).
    pub host: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The container's address, of whatever version of IP: it tells one container's ports from another's.
    pub to: IpAddr,
    /// Who may; all of the same version of IP, none in another.
    pub clients: Vec<IpNet>,
}

impl Gate {
    /// From the first to the last key that such ports with its clients are about.
    fn key(&self, ports: Run) -> (Vec<u8>, Vec<u8>) {
        let (first, last) = match self.host {
            host if !host.is_unspecified() => (host, host),
            IpAddr::V4(host) => (host.into(), Ipv4Addr::BROADCAST.into()),
            IpAddr::V6(host) => (host.into(), Ipv6Addr::from(u128::MAX).into()),
        };
        let key = |host, port: u16| {
            let mut key = register(&[self.protocol.number()]);
            key.extend(octets(host));
            key.extend(register(&port.to_be_bytes()));
            key
        };
        (key(first, ports.first), key(last, ports.last))
    }

    fn limited(&self, ports: Run) -> Element {
        let (key, key_end) = self.key(ports);
        Element {
            key_end,
            ..Element::member(key)
        }
    }

    fn from(&self, ports: Run) -> impl Iterator<Item = Element> {
        self.clients.iter().map(move |range| {
            let (mut key, mut key_end) = self.key(ports);
            key.extend(octets(range.network()));
            key_end.extend(octets(range.broadcast()));
            Element {
                key_end,
                ..Element::member(key)
            }
        })
    }
}

/// Ports one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u16,
    last: u16,
}

impl Run {
    /// Those that some ports consist of.
    fn of(mut ports: Vec<u16>) -> Vec<Self> {
        ports.sort_unstable();
        let mut runs: Vec<Self> = Vec::new();
        for port in ports {
            match runs.last_mut() {
                Some(run) if port - run.last <= 1 => run.last = port,
                _ => runs.push(Self {
                    first: port,
                    last: port,
                }),
            }
        }
        runs
    }

    fn len(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Of all addresses of the host to one of a container, by the ports that they have.
    fn led(self, protocol: Protocol, to: IpAddr) -> Element {
        let key = |port: u16| {
            [
                register(&[protocol.number()]),
                register(&port.to_be_bytes()),
            ]
        };
        Element {
            key_end: key(self.last).concat(),
            value: octets(to),
            ..Element::member(key(self.first).concat())
        }
    }
}

/// What the packet filter has to know of published ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// Where they lead to.
    pub forwards: Vec<Forward>,
    /// Who may use them.
    pub gates: Vec<Gate>,
}

impl Entries {
    /// What others do not have, by the sets that it is in.
    pub(super) fn without(&self, others: &Self) -> Vec<(&'static str, Vec<Element>)> {
        let mut all = self.elements();
        // Both are of the same sets in the same order.
        for ((_, own), (_, others)) in all.iter_mut().zip(others.elements()) {
            let others: HashSet<Element> = others.into_iter().collect();
            own.retain(|element| !others.contains(element));
        }
        all
    }

    /// By the sets that they are in.
    pub(super) fn elements(&self) -> Vec<(&'static str, Vec<Element>)> {
        let mut all = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let names = Names::of(version);
            let (ranges, in_range) = self.ranges(version);
            for map in [names.published, names.published_at] {
                let led = self.forwards.iter().filter(|forward| forward.map() == map);
                let single = led.filter(|forward| !in_range(forward));
                all.push((map, single.map(Forward::element).collect()));
            }
            all.push((names.ranges, ranges));
            let gates = self.gates(version);
            let limited = gates.iter().map(|(gate, ports)| gate.limited(*ports));
            all.push((names.limited, limited.collect()));
            let from = gates.iter().flat_map(|(gate, ports)| gate.from(*ports));
            all.push((names.from, from.collect()));
        }
        all
    }

    /// Elements for long ranges, and whether a port is in one.
    fn ranges(&self, version: IpVersion) -> (Vec<Element>, impl Fn(&Forward) -> bool + use<>) {
        let mut ports: BTreeMap<(Protocol, IpAddr), Vec<u16>> = BTreeMap::new();
        let fitting = self
            .forwards
            .iter()
            .filter(|forward| forward.keeps_its_port());
        for forward in fitting.filter(|forward| IpVersion::of(forward.to) == version) {
            let of = ports.entry((forward.protocol, forward.to)).or_default();
            of.push(forward.host_port);
        }
        let long = |ports: Vec<u16>| -> Vec<Run> {
            let runs = Run::of(ports).into_iter();
            runs.filter(|run| run.len() >= RANGE).collect()
        };
        let runs: BTreeMap<_, _> = ports.into_iter().map(|(key, p)| (key, long(p))).collect();
        let elements = runs
            .iter()
            .flat_map(|((protocol, to), runs)| runs.iter().map(|run| run.led(*protocol, *to)))
            .collect();
        let in_range = move |forward: &Forward| {
            let runs = runs.get(&(forward.protocol, forward.to));
            let has = |run: &Run| (run.first..=run.last).contains(&forward.host_port);
            forward.keeps_its_port() && runs.is_some_and(|runs| runs.iter().any(has))
        };
        (elements, in_range)
    }

    /// One for all ports in a row of a container that are for the same clients. Never of two containers: the kernel finds
    /// what is to be taken out by where it begins (nft_set_pipapo), and the other's ports would be open to everyone.
    fn gates(&self, version: IpVersion) -> Vec<(&Gate, Run)> {
        let mut alike: BTreeMap<_, (&Gate, Vec<u16>)> = BTreeMap::new();
        let gates = self.gates.iter();
        for gate in gates.filter(|gate| IpVersion::of(gate.host) == version) {
            let key = (gate.protocol, gate.host, gate.to, &gate.clients);
            let (_, ports) = alike.entry(key).or_insert((gate, Vec::new()));
            ports.push(gate.host_port);
        }
        let runs = |(gate, ports)| Run::of(ports).into_iter().map(move |run| (gate, run));
        alike.into_values().flat_map(runs).collect()
    }
}

impl FromIterator<Self> for Entries {
    fn from_iter<T: IntoIterator<Item = Self>>(all: T) -> Self {
        let mut sum = Self::default();
        for one in all {
            sum.forwards.extend(one.forwards);
            sum.gates.extend(one.gates);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(host_port: u16, to_port: u16) -> Forward {
        Forward {
            protocol: Protocol::Tcp,
            host: None,
            host_port,
            to: [172, 17, 0, 2].into(),
            to_port,
        }
    }

    fn gate(host_port: u16, client: &str) -> Gate {
        Gate {
            protocol: Protocol::Tcp,
            host: Ipv4Addr::UNSPECIFIED.into(),
            host_port,
            to: [172, 17, 0, 2].into(),
            clients: vec![client.parse().unwrap()],
        }
    }

    fn entries(forwards: impl IntoIterator<Item = Forward>) -> Entries {
        Entries {
            forwards: forwards.into_iter().collect(),
            gates: Vec::new(),
        }
    }

    fn counts(elements: Vec<(&'static str, Vec<Element>)>) -> Vec<(&'static str, usize)> {
        let counted = elements.into_iter().map(|(set, all)| (set, all.len()));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_long_range_of_ports_that_stay_is_one_element() {
        let range = |ports: std::ops::Range<u16>| ports.map(|port| forward(port, port));
        let count = |ports| counts(entries(ports).elements());
        assert_eq!(
            count(range(1000..1015).collect::<Vec<_>>()),
            [("published", 15)]
        );
        assert_eq!(count(range(1000..11000).collect()), [("ranges", 1)]);
        assert_eq!(
            count((1000..1100).map(|p| forward(p, 80)).collect()),
            [("published", 100)]
        );
        // The last port there is has none after it.
        let to_the_end = (65000..=65535).map(|port| forward(port, port));
        let others = [forward(80, 80), forward(2000, 80)];
        assert_eq!(
            count(to_the_end.chain(others).collect()),
            [("published", 2), ("ranges", 1)]
        );
    }

    #[test]
    fn a_port_less_makes_two_of_a_range() {
        let before = entries((1000..2000).map(|port| forward(port, port)));
        let mut after = before.clone();
        after.forwards.retain(|forward| forward.host_port != 1005);
        assert_eq!(counts(before.without(&after)), [("ranges", 1)]);
        // The five in front of it are no long range any more.
        assert_eq!(
            counts(after.without(&before)),
            [("published", 5), ("ranges", 1)]
        );
        assert_eq!(counts(after.without(&after)), []);
    }

    #[test]
    fn ports_in_a_row_for_the_same_clients_have_one_gate() {
        let near = (1000..2000).map(|port| gate(port, "10.0.0.0/8"));
        let far = [gate(1500, "192.0.2.0/24"), gate(3000, "10.0.0.0/8")];
        let entries = Entries {
            forwards: Vec::new(),
            gates: near.chain(far).collect(),
        };
        assert_eq!(counts(entries.elements()), [("limited", 3), ("from", 3)]);
    }
    #[test]
    fn neighbouring_ports_of_two_containers_have_gates_of_their_own() {
        for host in [
            Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ] {
            let of = |host_port, last| Entries {
                forwards: Vec::new(),
                gates: vec![Gate {
                    host,
                    to: [172, 17, 0, last].into(),
                    ..gate(host_port, "10.0.0.0/8")
                }],
            };
            let (one, other) = (of(8000, 2), of(8001, 3));
            let both: Entries = [one.clone(), other.clone()].into_iter().collect();
            // What is taken out with one of them is what the whole table has of it.
            assert_eq!(both.without(&one), other.without(&Entries::default()));
            assert_eq!(both.without(&other), one.without(&Entries::default()));
        }
    }
}
