//! Published ports: what was asked for, who has which host port, and the proof that it is free.

mod relay;
mod reserve;
mod table;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::firewall::Forward;
use crate::ipam::DualStack;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the container.
    pub container_port: u16,
    /// Address of the host.
    pub host: HostAddress,
    /// Port of the host; 0 = one that is free.
    pub host_port: u16,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the container.
    pub container_port: u16,
    /// Address of the host.
    pub host: HostAddress,
    /// Port of the host.
    pub host_port: u16,
}

impl Published {
    /// What the packet filter has to do for it. The host's own `::1` is the relay's.
    pub fn forwards(&self, to: DualStack) -> impl Iterator<Item = Forward> + use<> {
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

    /// Whether it is published on the host's addresses of IPv6 without having been asked for any of them.
    pub fn covers_ipv6(&self, to: DualStack) -> bool {
        self.host == HostAddress::Any && to.v6.is_some()
    }
}
