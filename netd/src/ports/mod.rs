//! Published ports: what was asked for, who has which host port, and the proof that it is free.

mod limit;
mod relay;
mod reserve;
mod table;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::firewall::{Entries, Forward, Gate};
use crate::ipam::DualStack;
use crate::netlink::conntrack::Flow;
use crate::nft::IpVersion;

pub use limit::Limit;
pub use table::PortTable;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// tcp
    Tcp,
    /// udp
    Udp,
    /// sctp
    Sctp,
}

impl Protocol {
    /// Its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// On which of the host's addresses a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostAddress {
    /// All, of both families.
    Any,
    /// All of IPv4 if unspecified, else one.
    V4(Ipv4Addr),
    /// All of IPv6 if unspecified, else one.
    V6(Ipv6Addr),
}

impl HostAddress {
    /// As docker writes it; "" = all.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        match bare.parse() {
            _ if text.is_empty() => Ok(Self::Any),
            Ok(IpAddr::V4(address)) => Ok(Self::V4(address)),
            Ok(IpAddr::V6(address)) => Ok(Self::V6(address)),
            Err(_) => Err(format!(
                "\"{text}\" is not an address of a host: write 127.0.0.1, 0.0.0.0 or ::1"
            )),
        }
    }

    /// What it takes of the host's addresses for a container with these of its own.
    fn taken(self, to: DualStack) -> Taken {
        match self {
            Self::Any => Taken {
                v4: Some(Ipv4Addr::UNSPECIFIED),
                v6: to.v6.map(|_| Ipv6Addr::UNSPECIFIED),
            },
            Self::V4(address) => Taken {
                v4: Some(address),
                v6: None,
            },
            Self::V6(address) => Taken {
                v4: None,
                v6: Some(address),
            },
        }
    }
}

/// Addresses of the host that a port is published on: of each version of IP none, one, or all (the unspecified one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Taken {
    /// Whether some packet would fit both.
    fn overlaps(self, other: Self) -> bool {
        let v4 = match (self.v4, other.v4) {
            (Some(a), Some(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            _ => false,
        };
        let v6 = match (self.v6, other.v6) {
            (Some(a), Some(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            _ => false,
        };
        v4 || v6
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("0.0.0.0"),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the container.
    pub container_port: u16,
    /// Address of the host.
    pub host: HostAddress,
    /// Port of the host; 0 = one that is free.
    pub host_port: u16,
    /// The last of a range that begins with it, of which one that is free is taken.
    pub host_port_last: Option<u16>,
    /// Who may use it; unsaid = who may by default.
    pub from: Limit,
}

impl Binding {
    /// Whether that port of the host is one that it asks for.
    fn may_be(&self, port: u16) -> bool {
        (self.host_port..=self.host_port_last.unwrap_or(self.host_port)).contains(&port)
    }
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the container.
    pub container_port: u16,
    /// Address of the host.
    pub host: HostAddress,
    /// Port of the host.
    pub host_port: u16,
    /// Who may use it; unsaid = who may by default.
    #[serde(default, skip_serializing_if = "Limit::is_unsaid")]
    pub from: Limit,
}

impl Published {
    /// What the packet filter has to know of it.
    pub fn entries(&self, to: DualStack, default: &Limit) -> Entries {
        Entries {
            forwards: self.forwards(to).collect(),
            gates: self.gates(to, default).collect(),
        }
    }

    /// Who may use it. Who may by default is asked for where packets are forwarded; what a relay serves is not.
    fn gates(&self, to: DualStack, default: &Limit) -> impl Iterator<Item = Gate> {
        let taken = self.host.taken(to);
        let hosts = [taken.v4.map(IpAddr::from), taken.v6.map(IpAddr::from)];
        hosts.into_iter().flatten().filter_map(move |host| {
            let relayed = host.is_ipv6() && to.v6.is_none();
            let limit = match relayed {
                true => self.from.or(default),
                false => &self.from,
            };
            (!limit.is_unsaid()).then(|| Gate {
                protocol: self.protocol,
                host,
                host_port: self.host_port,
                to: to.v4,
                clients: limit.ranges(IpVersion::of(host)).collect(),
            })
        })
    }

    /// Where it leads to. The host's own `::1` is the relay's.
    fn forwards(&self, to: DualStack) -> impl Iterator<Item = Forward> + use<> {
        let taken = self.host.taken(to);
        let forward = |host: IpAddr, to: IpAddr| Forward {
            protocol: self.protocol,
            host: (!host.is_unspecified()).then_some(host),
            host_port: self.host_port,
            to,
            to_port: self.container_port,
        };
        let v4 = taken.v4.map(|host| forward(host.into(), to.v4));
        let v6 = taken.v6.filter(|host| !host.is_loopback()).zip(to.v6);
        let v6 = v6.map(|(host, to)| forward(host.into(), to));
        v4.into_iter().chain(v6)
    }

    /// Whether both are the same port of the host for the same one of the container.
    pub fn is_at(&self, other: &Self) -> bool {
        let place = |port: &Self| {
            (
                port.protocol,
                port.container_port,
                port.host,
                port.host_port,
            )
        };
        place(self) == place(other)
    }

    /// Whether that is what was asked for, whoever may use it. Who leaves the choice to netd asks for another one.
    pub fn is(&self, binding: &Binding) -> bool {
        binding.host_port_last.is_none() && self.is_one_of(binding)
    }

    /// Whether it is, or one of those that were left to choose from.
    pub fn is_one_of(&self, binding: &Binding) -> bool {
        (self.protocol, self.container_port) == (binding.protocol, binding.container_port)
            && self.host == binding.host
            && binding.may_be(self.host_port)
    }

    /// Whether a connection was sent to it.
    pub fn is_by(&self, flow: &Flow) -> bool {
        let host = match self.host {
            HostAddress::Any => None,
            HostAddress::V4(host) => Some(IpAddr::from(host)),
            HostAddress::V6(host) => Some(IpAddr::from(host)),
        };
        let fits = |host: IpAddr| match host.is_unspecified() {
            true => host.is_ipv4() == flow.host.is_ipv4(),
            false => host == flow.host,
        };
        flow.protocol == self.protocol.number()
            && flow.host_port == self.host_port
            && host.is_none_or(fits)
    }

    /// Whether it led a connection to a container with these addresses.
    pub fn leads(&self, flow: &Flow, to: DualStack) -> bool {
        self.is_by(flow)
            && flow.host != flow.server
            && to.has(flow.server)
            && flow.server_port == self.container_port
    }

    /// Whether it is published on the host's addresses of IPv6 without having been asked for any of them.
    pub fn covers_ipv6(&self, to: DualStack) -> bool {
        self.host == HostAddress::Any && to.v6.is_some()
    }
}
