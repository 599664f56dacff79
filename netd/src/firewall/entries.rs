//! What the sets of the table hold of published ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::netlink::octets;
use crate::nft::{Element, IpVersion, register};
use crate::ports::Protocol;

use super::sets::Names;

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
            key_end: Vec::new(),
            value,
            range_end: false,
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
    /// Who may; all of the same version of IP, none in another.
    pub clients: Vec<IpNet>,
}

impl Gate {
    /// From the first to the last key that it is about.
    fn key(&self) -> (Vec<u8>, Vec<u8>) {
        let (first, last) = match self.host {
            host if !host.is_unspecified() => (host, host),
            IpAddr::V4(host) => (host.into(), Ipv4Addr::BROADCAST.into()),
            IpAddr::V6(host) => (host.into(), Ipv6Addr::from(u128::MAX).into()),
        };
        let key = |host| {
            let mut key = register(&[self.protocol.number()]);
            key.extend(octets(host));
            key.extend(register(&self.host_port.to_be_bytes()));
            key
        };
        (key(first), key(last))
    }

    fn limited(&self) -> Element {
        let (key, key_end) = self.key();
        Element {
            key_end,
            ..Element::member(key)
        }
    }

    fn from(&self) -> impl Iterator<Item = Element> {
        self.clients.iter().map(|range| {
            let (mut key, mut key_end) = self.key();
            key.extend(octets(range.network()));
            key_end.extend(octets(range.broadcast()));
            Element {
                key_end,
                ..Element::member(key)
            }
        })
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
    /// Each by itself.
    pub fn each(self) -> impl Iterator<Item = Self> {
        let forwards = self.forwards.into_iter().map(|forward| Self {
            forwards: vec![forward],
            gates: Vec::new(),
        });
        let gates = self.gates.into_iter().map(|gate| Self {
            forwards: Vec::new(),
            gates: vec![gate],
        });
        gates.chain(forwards)
    }

    /// By the sets that they are in.
    pub(super) fn elements(&self) -> Vec<(&'static str, Vec<Element>)> {
        let mut all = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let names = Names::of(version);
            for map in [names.published, names.published_at] {
                let led = self.forwards.iter().filter(|forward| forward.map() == map);
                all.push((map, led.map(Forward::element).collect()));
            }
            let gates = || {
                self.gates
                    .iter()
                    .filter(|g| IpVersion::of(g.host) == version)
            };
            all.push((names.limited, gates().map(Gate::limited).collect()));
            all.push((names.from, gates().flat_map(Gate::from).collect()));
        }
        all
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
