//! Who can reach what, and why: what our table says, put in words, as a pure function of what it is made of.
//!
//! What other programs drop on top of it is not looked into rule by rule: a policy that drops is told as a warning.

mod warnings;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::endpoint::Endpoint;
use crate::network::{Direct, Driver, Network, Pool};
use crate::nft::{BaseChain, IpVersion};
use crate::ports::{HostAddress, Limit, Published};

pub use warnings::warnings;

/// What an audit is about.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// All networks.
    pub networks: Vec<&'a Network>,
    /// All endpoints.
    pub endpoints: Vec<&'a Endpoint>,
    /// Who may use ports of which nothing else was said.
    pub clients: Limit,
    /// Versions over which the host's policy keeps such ports from others (`host_policy = "input"`).
    pub closed: Vec<IpVersion>,
    /// Base chains of others.
    pub foreign: Vec<BaseChain>,
    /// Versions whose packets pass tables of iptables-legacy, which nobody can read.
    pub legacy: Vec<IpVersion>,
}

/// Somebody, or something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// The host itself, by all of its addresses.
    ThisHost,
    /// Everybody beyond the host, over one version of IP.
    Beyond(IpVersion),
    /// Clients in a range.
    Range(IpNet),
    /// The containers of a network.
    Network(String),
    /// A container, all of it.
    Container(String),
    /// A port of a container: "80/tcp".
    Port(String, String),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisHost => f.write_str("this host"),
            Self::Beyond(IpVersion::V4) => f.write_str("others over IPv4"),
            Self::Beyond(IpVersion::V6) => f.write_str("others over IPv6"),
            Self::Range(net) => net.fmt(f),
            Self::Network(name) => write!(f, "network {name}"),
            Self::Container(name) => f.write_str(name),
            Self::Port(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// That somebody reaches something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Who.
    pub who: Party,
    /// What.
    pub to: Party,
    /// By which address, and port if by one only.
    pub by: String,
    /// Why.
    pub because: String,
}

/// Who reaches what. What is not told is not reached.
pub fn reaches(facts: &Facts<'_>) -> Vec<Reach> {
    let mut all = Vec::new();
    for network in &facts.networks {
        out(network, &mut all);
        for endpoint in &facts.endpoints {
            if endpoint.network == network.id {
                inside(network, endpoint, &mut all);
                for port in &endpoint.ports {
                    published(facts, network, endpoint, port, &mut all);
                }
            }
        }
    }
    all
}

/// What a network's containers reach beyond it.
fn out(network: &Network, all: &mut Vec<Reach>) {
    let who = || Party::Network(network.name.clone());
    if let Driver::Direct(direct) = &network.driver {
        for pool in network.pools() {
            all.push(Reach {
                who: who(),
                to: Party::Beyond(IpVersion::of(pool.gateway)),
                by: pool.gateway.to_string(),
                because: on_the_wire(direct),
            });
        }
        return;
    }
    for pool in network.pools() {
        all.push(Reach {
            who: who(),
            to: Party::ThisHost,
            by: pool.gateway.to_string(),
            because: "services of the host that listen there answer its containers".to_owned(),
        });
        if network.internal {
            continue;
        }
        let because = match pool.is_hidden() {
            true => "its containers go out with the host's address",
            false => "its containers go out with their own addresses",
        };
        all.push(Reach {
            who: who(),
            to: Party::Beyond(IpVersion::of(pool.gateway)),
            by: pool.gateway.to_string(),
            because: because.to_owned(),
        });
    }
}

fn on_the_wire(direct: &Direct) -> String {
    format!(
        "its containers are on the wire of {}, and no rule of this host is between",
        direct.parent
    )
}

/// Who reaches a container by its own address.
fn inside(network: &Network, endpoint: &Endpoint, all: &mut Vec<Reach>) {
    for address in endpoint.address.all() {
        let whom = || Party::Container(endpoint.container_name.clone());
        all.push(match &network.driver {
            Driver::Direct(direct) => Reach {
                who: Party::Beyond(IpVersion::of(address)),
                to: whom(),
                by: address.to_string(),
                because: on_the_wire(direct),
            },
            Driver::Bridge | Driver::Overlay(_) => Reach {
                who: Party::ThisHost,
                to: whom(),
                by: address.to_string(),
                because: format!("the host is the gateway of network {}", network.name),
            },
        });
        all.push(Reach {
            who: Party::Network(network.name.clone()),
            to: whom(),
            by: address.to_string(),
            because: "they are on one network".to_owned(),
        });
        let Driver::Overlay(overlay) = &network.driver else {
            continue;
        };
        for peer in &overlay.others {
            all.push(Reach {
                who: Party::Range(peer.slice),
                to: whom(),
                by: address.to_string(),
                because: format!("host {} has a part of network {}", peer.name, network.name),
            });
        }
    }
}

/// The host's addresses that a port is published on, one for each version of IP.
fn hosts(port: &Published, endpoint: &Endpoint) -> Vec<IpAddr> {
    const ALL4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    const ALL6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
    match port.host {
        HostAddress::Any if endpoint.address.v6.is_some() => vec![ALL4, ALL6],
        HostAddress::Any => vec![ALL4],
        HostAddress::V4(host) => vec![host.into()],
        HostAddress::V6(host) => vec![host.into()],
    }
}

fn loopback(version: IpVersion) -> IpAddr {
    match version {
        IpVersion::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
        IpVersion::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// Who reaches a published port.
fn published(
    facts: &Facts<'_>,
    network: &Network,
    endpoint: &Endpoint,
    port: &Published,
    all: &mut Vec<Reach>,
) {
    let inside = format!("{}/{}", port.container_port, port.protocol);
    for host in hosts(port, endpoint) {
        let version = IpVersion::of(host);
        let mut push = |who, host, because: String| {
            all.push(Reach {
                who,
                to: Party::Port(endpoint.container_name.clone(), inside.clone()),
                by: std::net::SocketAddr::new(host, port.host_port).to_string(),
                because,
            });
        };
        // By a relay the container is sent to by the host, whatever its network.
        let relayed = host.is_ipv6() && endpoint.address.v6.is_none();
        let closed = network.internal && !relayed;
        // A container of an internal network can answer the host by its gateway only: the host comes from there when
        // it sends to its own loopback.
        let own = match (closed, host.is_unspecified()) {
            (true, true) => loopback(version),
            _ => host,
        };
        if !closed || own.is_loopback() || network.gateways().has(own) {
            push(
                Party::ThisHost,
                own,
                "published; the host itself is never limited".to_owned(),
            );
        }
        if host.is_loopback() {
            continue;
        }
        let limit = port.from.or(&facts.clients);
        let because = reason(facts, port, version);
        if !closed {
            for who in clients(facts, limit, version) {
                push(who, host, because.clone());
            }
        }
        for other in &facts.networks {
            let comes = relayed || other.id == network.id || !(network.internal || other.internal);
            let mut pools = other
                .pools()
                .filter(|pool| IpVersion::of(pool.gateway) == version);
            let Some(pool) = pools.find(|pool| comes && may(limit, pool)) else {
                continue;
            };
            // From an internal network there is no way to another address of the host.
            let by = match other.internal {
                true => pool.gateway,
                false => host,
            };
            if by == host || host.is_unspecified() {
                push(Party::Network(other.name.clone()), by, because.clone());
            }
        }
    }
}

/// Whether all of a network may.
fn may(limit: &Limit, pool: &Pool) -> bool {
    let mut ranges = limit.ranges(IpVersion::of(pool.gateway));
    limit.is_unsaid() || ranges.any(|range| range.contains(&pool.subnet))
}

/// Those of a limit that are no network of ours.
fn clients(facts: &Facts<'_>, limit: &Limit, version: IpVersion) -> Vec<Party> {
    if limit.is_unsaid() {
        return vec![Party::Beyond(version)];
    }
    let pools = || facts.networks.iter().flat_map(|network| network.pools());
    let ranges = limit.ranges(version);
    let beyond = ranges.filter(|range| !pools().any(|pool| pool.subnet.contains(range)));
    beyond
        .map(|range| match range.prefix_len() {
            0 => Party::Beyond(version),
            _ => Party::Range(range),
        })
        .collect()
}

fn reason(facts: &Facts<'_>, port: &Published, version: IpVersion) -> String {
    let because = if !port.from.is_unsaid() {
        "published for them (--publish-from)"
    } else if facts.closed.contains(&version) {
        "published; the host drops input, so for containers only (host_policy)"
    } else if !facts.clients.is_unsaid() {
        "published for them (publish_from in netd.toml)"
    } else {
        "published for all"
    };
    because.to_owned()
}
