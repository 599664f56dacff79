//! Messages into the domain's types, parsed once, and back.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use slipway_proto::netd::v1 as pb;

use crate::dns::ResolvConf;
use crate::endpoint;
use crate::error::Error;
use crate::host::{Attached, Details};
use crate::ipam::{DualStack, Wanted};
use crate::network::{self, Driver, Kind, Pool, PoolRequest};
use crate::overlay::Peer;
use crate::ports::{Binding, HostAddress, Limit, Protocol, Published};

fn optional<T: FromStr>(text: &str, what: &str) -> Result<Option<T>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| Error::Invalid(format!("\"{text}\" is not {what}")))
}

fn port(number: u32, what: &str) -> Result<u16, Error> {
    u16::try_from(number).map_err(|_| Error::Invalid(format!("{number} is not a {what} port")))
}

pub(super) fn binding(message: &pb::PortBinding) -> Result<Binding, Error> {
    let container_port = port(message.container_port, "container")?;
    if container_port == 0 {
        return Err(Error::Invalid(
            "a published port needs the container's port".to_owned(),
        ));
    }
    let host_port = port(message.host_port, "host")?;
    let host_port_last = port(message.host_port_last, "last host")?;
    if host_port_last != 0 && (host_port == 0 || host_port_last < host_port) {
        return Err(Error::Invalid(format!(
            "host ports {host_port}-{host_port_last} are no range"
        )));
    }
    Ok(Binding {
        protocol: match message.protocol() {
            pb::Protocol::Unspecified | pb::Protocol::Tcp => Protocol::Tcp,
            pb::Protocol::Udp => Protocol::Udp,
            pb::Protocol::Sctp => Protocol::Sctp,
        },
        container_port,
        host: HostAddress::parse(&message.host_address).map_err(Error::Invalid)?,
        host_port,
        host_port_last: (host_port_last > host_port).then_some(host_port_last),
        from: Limit::parse(&message.allow_from).map_err(Error::Invalid)?,
    })
}

pub(super) fn bindings(messages: &[pb::PortBinding]) -> Result<Vec<Binding>, Error> {
    messages.iter().map(binding).collect()
}

fn published(port: &Published, to: DualStack, default: &Limit) -> pb::PortBinding {
    let host_address = match port.host {
        HostAddress::Any => String::new(),
        HostAddress::V4(address) => address.to_string(),
        HostAddress::V6(address) => address.to_string(),
    };
    let protocol = match port.protocol {
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
        Protocol::Sctp => pb::Protocol::Sctp,
    };
    pb::PortBinding {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_address,
        host_port: port.host_port.into(),
        host_port_last: 0,
        allow_from: port.from.or(default).texts(),
        covers_ipv6: port.covers_ipv6(to),
    }
}

pub(super) fn endpoint_request(
    message: pb::CreateEndpointRequest,
) -> Result<endpoint::Request, Error> {
    if message.container_id.is_empty() {
        return Err(Error::Invalid(
            "an endpoint needs a container_id".to_owned(),
        ));
    }
    if let Some(key) = message.options.keys().next() {
        return Err(Error::Unsupported(format!(
            "endpoint option {key} is not supported"
        )));
    }
    let name = &message.interface_name;
    if name.len() > 15
        || name.contains(['/', ' ', ':'])
        || matches!(name.as_str(), "." | ".." | "lo")
    {
        return Err(Error::Invalid(format!(
            "\"{name}\" cannot name an interface"
        )));
    }
    for server in &message.dns {
        optional::<IpAddr>(server, "the address of a name server")?;
    }
    let mac = match message.mac_address.as_str() {
        "" => None,
        text => Some(text.parse().map_err(Error::Invalid)?),
    };
    Ok(endpoint::Request {
        ports: bindings(&message.ports)?,
        address: Wanted {
            v4: optional::<Ipv4Addr>(&message.ipv4_address, "an IPv4 address")?.map(IpAddr::V4),
            v6: optional::<Ipv6Addr>(&message.ipv6_address, "an IPv6 address")?.map(IpAddr::V6),
        },
        mac,
        netns: (!message.netns.is_empty()).then(|| message.netns.into()),
        network: message.network,
        container: message.container_id,
        container_name: message.container_name,
        hostname: message.hostname,
        aliases: message.aliases,
        interface: message.interface_name,
        dns: message.dns,
        dns_search: message.dns_search,
        dns_options: message.dns_options,
        gateway_priority: message.gateway_priority,
    })
}

/// An endpoint as an answer; `host` is what the host's own resolv.conf says.
pub(super) fn endpoint(attached: Attached, host: &ResolvConf) -> pb::Endpoint {
    let Attached {
        endpoint,
        network,
        nameserver,
        netns_path,
        host: host_seen,
        default_route,
        publish_from,
    } = attached;
    // Without a server of ours containers ask the host's resolvers themselves; those on the host's
    // loopback they cannot reach.
    let servers: Vec<String> = match nameserver {
        Some(own) => vec![own.to_string()],
        None => host
            .nameservers
            .iter()
            .filter(|server| !server.is_loopback())
            .map(ToString::to_string)
            .collect(),
    };
    let or = |own: &[String], other: &[String]| match own {
        [] => other.to_vec(),
        own => own.to_vec(),
    };
    let text = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    pb::Endpoint {
        id: endpoint.id.to_string(),
        network_id: network.id.to_string(),
        network_name: network.name.clone(),
        container_id: endpoint.container.clone(),
        netns_path,
        interface_name: endpoint.interface.clone(),
        mac_address: endpoint.mac.to_string(),
        ipv4_address: endpoint.address.v4.to_string(),
        ipv4_prefix_len: network.v4.subnet.prefix_len().into(),
        ipv4_gateway: if network.internal {
            String::new()
        } else {
            network.v4.gateway.to_string()
        },
        ipv6_address: text(endpoint.address.v6),
        ipv6_prefix_len: network
            .v6
            .as_ref()
            .map_or(0, |pool| pool.subnet.prefix_len().into()),
        ipv6_gateway: text(network.gateways().v6.filter(|_| !network.internal)),
        ports: endpoint
            .ports
            .iter()
            .map(|port| published(port, endpoint.address, &publish_from))
            .collect(),
        nameservers: nameservers(&endpoint.dns, nameserver.is_some(), servers),
        search: or(&endpoint.dns_search, &host.search),
        resolv_options: or(&endpoint.dns_options, &host.options),
        dns_names: endpoint.names(),
        aliases: endpoint.aliases,
        gateway_priority: endpoint.gateway_priority,
        default_route,
        host_address: host_seen.to_string(),
    }
}

pub(super) fn network_request(
    message: pb::CreateNetworkRequest,
) -> Result<network::Request, Error> {
    let kind = match message.driver.as_str() {
        "" | "bridge" => Kind::Bridge,
        "overlay" => Kind::Overlay,
        "macvlan" => Kind::Macvlan,
        "ipvlan" => Kind::Ipvlan,
        driver => {
            return Err(Error::Unsupported(format!(
                "network driver {driver} is not supported: use bridge, overlay, macvlan or ipvlan"
            )));
        }
    };
    let (v6, v4): (Vec<_>, Vec<_>) = message.pools.into_iter().partition(is_ipv6);
    let one = |pools: Vec<pb::create_network_request::Pool>, version: &str| match <[_; 1]>::try_from(
        pools,
    ) {
        Ok([pool]) => Ok(Some(pool)),
        Err(pools) if pools.is_empty() => Ok(None),
        Err(_) => Err(Error::Unsupported(format!(
            "a network has one subnet of {version}: make a network for each"
        ))),
    };
    let v6 = match one(v6, "IPv6")? {
        Some(_) if !message.ipv6 => {
            return Err(Error::Invalid(
                "the network has a subnet of IPv6: ask for --ipv6 as well".to_owned(),
            ));
        }
        Some(pool) => Some(pool_request::<Ipv6Net, Ipv6Addr>(
            pool,
            "IPv6",
            "fd12:3456:789a::/64",
        )?),
        None => message.ipv6.then(PoolRequest::default),
    };
    let v4 = one(v4, "IPv4")?.unwrap_or_default();
    Ok(network::Request {
        name: message.name,
        kind,
        v4: pool_request::<Ipv4Net, Ipv4Addr>(v4, "IPv4", "10.1.0.0/24")?,
        v6,
        internal: message.internal,
        attachable: message.attachable,
        labels: message.labels.into_iter().collect(),
        options: message.options.into_iter().collect(),
    })
}

/// Whether a pool is one of IPv6: by its subnet, or by whatever else it names.
fn is_ipv6(pool: &pb::create_network_request::Pool) -> bool {
    [&pool.subnet, &pool.gateway, &pool.ip_range]
        .into_iter()
        .chain(pool.reserved.values())
        .find(|text| !text.is_empty())
        .is_some_and(|text| text.contains(':'))
}

/// A pool whose addresses are all of one version of IP.
fn pool_request<N: FromStr + Into<IpNet>, A: FromStr + Into<IpAddr>>(
    message: pb::create_network_request::Pool,
    version: &str,
    example: &str,
) -> Result<PoolRequest, Error> {
    let net = |text: &str, what: &str| -> Result<Option<IpNet>, Error> {
        let what = format!("an {version} {what}, as {example}");
        Ok(optional::<N>(text, &what)?.map(Into::into))
    };
    let address = |text: &str| -> Result<Option<IpAddr>, Error> {
        Ok(optional::<A>(text, &format!("an {version} address"))?.map(Into::into))
    };
    let mut reserved = BTreeMap::new();
    for (name, text) in &message.reserved {
        reserved.extend(address(text)?.map(|address| (name.clone(), address)));
    }
    Ok(PoolRequest {
        subnet: net(&message.subnet, "subnet")?,
        gateway: address(&message.gateway)?,
        range: net(&message.ip_range, "range")?,
        reserved,
    })
}

fn peers(driver: &Driver) -> Vec<pb::network_details::Peer> {
    let Driver::Overlay(overlay) = driver else {
        return Vec::new();
    };
    let peer = |peer: &Peer| pb::network_details::Peer {
        name: peer.name.clone(),
        address: peer.address.to_string(),
        subnet: peer.slice.to_string(),
        here: *peer == overlay.here,
        key: peer.key.map(String::from).unwrap_or_default(),
    };
    overlay.peers().into_iter().map(peer).collect()
}

/// A pool of a network with that subnet; this host's part of it is the range that containers' addresses come from.
fn pool(subnet: IpNet, pool: &Pool) -> pb::create_network_request::Pool {
    let range = pool
        .range
        .or((pool.subnet != subnet).then_some(pool.subnet));
    let reserved = pool.reserved.iter();
    pb::create_network_request::Pool {
        subnet: subnet.to_string(),
        gateway: pool.gateway.to_string(),
        ip_range: range.map(|range| range.to_string()).unwrap_or_default(),
        reserved: reserved.map(|(k, v)| (k.clone(), v.to_string())).collect(),
    }
}

pub(super) fn network(details: Details, host: &ResolvConf) -> pb::NetworkDetails {
    let Details { network, endpoints } = details;
    let text = |map: &BTreeMap<String, String>| -> HashMap<String, String> {
        map.clone().into_iter().collect()
    };
    let mut options = text(&network.options);
    if network.is_default() {
        options.insert(
            "com.docker.network.bridge.name".to_owned(),
            network.device.clone(),
        );
    }
    pb::NetworkDetails {
        id: network.id.to_string(),
        name: network.name.clone(),
        driver: network.driver.name().to_owned(),
        scope: network.driver.scope().to_owned(),
        peers: peers(&network.driver),
        pools: network
            .subnets()
            .zip(network.pools())
            .map(|(subnet, own)| pool(subnet, own))
            .collect(),
        internal: network.internal,
        ipv6: network.v6.is_some(),
        attachable: network.attachable,
        labels: text(&network.labels),
        options,
        created: Some(prost_types::Timestamp {
            seconds: network.created.as_second(),
            nanos: network.created.subsec_nanosecond(),
        }),
        endpoints: endpoints
            .into_iter()
            .map(|attached| endpoint(attached, host))
            .collect(),
    }
}

/// Whom a container asks. Resolvers of its own are asked by netd for it, so that names of containers are known as well;
/// but not one on a loopback address: that is the container's.
fn nameservers(own: &[String], has_resolver: bool, servers: Vec<String>) -> Vec<String> {
    let is_inside = |server: &String| {
        let address = server.parse::<IpAddr>();
        address.is_ok_and(|address| address.is_loopback())
    };
    match own {
        [] => servers,
        own if has_resolver && !own.iter().any(is_inside) => servers,
        own => own.to_vec(),
    }
}
