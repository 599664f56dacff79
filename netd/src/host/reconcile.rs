//! Making kernel and store agree: at start-up, after somebody flushed our table, and for good-bye.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use ipnet::IpNet;

use crate::antispoof::Station;
use crate::dns::{Resolver, Zone};
use crate::endpoint::Endpoint;
use crate::error::{Doing, Error};
use crate::id::HOST_LINK_PREFIX;
use crate::ipam::DualStack;
use crate::netlink::wire::Message;
use crate::netlink::{self, Link, Netns, Route, fence, link};
use crate::network::{Network, Pool};
use crate::overlay::Tunnel;
use crate::sysctl;

use super::gateway::gather_ports;
use super::networks::{MARK, mark_of};
use super::prepare::wait_until_local;
use super::repair::Finding;
use super::{Host, Live, State, namespaces, reaper};

/// The index that no link has.
pub(super) const NO_BRIDGE: u32 = 0;

pub(super) const FORWARDING: &str = "ipv4/ip_forward";

impl Host {
    /// Puts everything that the store knows into the kernel, and takes out what it does not know.
    pub(super) fn bring_up(&self, state: &mut State) -> Result<(), Error> {
        if state.up {
            return Ok(());
        }
        self.check_settings()?;
        self.enable_forwarding()?;
        self.make_room_for_neighbours()?;
        let mut stored = self.store.networks()?;
        self.follow_settings(state, &mut stored)?;
        if !stored.iter().any(Network::is_default) {
            let network = self.plan_default(state, &stored)?;
            self.store.put_network(&network)?;
            stored.push(network);
        }
        for network in stored {
            self.network_up(state, network)?;
        }
        slipway_fault::point("netd.recover.networks");
        let links = self
            .kernel()
            .route
            .links()
            .doing(|| "list links".to_owned())?;
        let by_name: HashMap<&str, &Link> = links.iter().map(|link| (&*link.name, link)).collect();
        let endpoints = self.recorded_endpoints(state)?;
        let namespaces = namespaces::of_processes(endpoints.iter().map(|e| e.netns));
        for endpoint in endpoints {
            self.endpoint_up(state, endpoint, &by_name, &namespaces)?;
        }
        drop(namespaces);
        self.repair_links(state)?;
        let several = state.endpoints.values().map(|e| e.container.clone());
        for container in several.collect::<HashSet<_>>() {
            state.tell_zones(&container);
        }
        slipway_fault::point("netd.recover.endpoints");
        self.remove_orphans(state, &links);
        self.sweep_known(state);
        slipway_fault::point("netd.recover.orphans");
        if let Err(error) = self.write_table(state) {
            // Whoever is there goes on only if the table of before says what it should.
            if !self
                .wrong_with_tables(state)
                .is_ok_and(|wrong| wrong.is_empty())
            {
                self.switch_off(state);
            }
            return Err(error);
        }
        slipway_fault::point("netd.recover.table");
        self.tunnels_lead(state);
        state.up = true;
        Ok(())
    }

    pub(super) fn enable_forwarding(&self) -> Result<(), Error> {
        let boot = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(boot).doing(|| format!("read {boot}"))?;
        self.store.begin_boot(boot.trim())?;
        let before = sysctl::read(FORWARDING).doing(|| format!("read net/{FORWARDING}"))?;
        if before == "0" {
            self.store.remember_sysctl(FORWARDING, &before)?;
            sysctl::write(FORWARDING, "1").doing(|| format!("set net/{FORWARDING} to 1"))?;
            tracing::info!("net.ipv4.ip_forward was 0 and is 1 now: containers need it");
        }
        Ok(())
    }

    /// Subnets of our networks, and all that this host has an address or a route in.
    pub(super) fn subnets_in_use(&self, state: &State) -> Result<Vec<IpNet>, Error> {
        let mut kernel = self.kernel();
        let bridge = kernel
            .route
            .link(&self.config.bridge)
            .doing(|| "list links".to_owned())?;
        let ours = bridge.map(|link| link.index);
        let addresses = kernel
            .route
            .addresses()
            .doing(|| "list addresses".to_owned())?;
        let own: Vec<IpNet> = addresses
            .iter()
            .filter(|(index, _)| Some(*index) == ours)
            .map(|(_, net)| net.trunc())
            .collect();
        let mut in_use: Vec<IpNet> = addresses
            .iter()
            .filter(|(index, _)| Some(*index) != ours)
            .map(|(_, net)| *net)
            .collect();
        let routes = kernel.route.routes().doing(|| "list routes".to_owned())?;
        let routes = routes.into_iter().map(|(_, net)| net);
        in_use.extend(routes.filter(|net| !own.contains(net)));
        let live = state
            .networks
            .values()
            .flat_map(|live| live.network.subnets());
        in_use.extend(live);
        // Every link has those: no network can.
        in_use.retain(|net| !is_link_local(*net));
        Ok(in_use)
    }

    pub(super) fn link_index(&self, name: &str) -> Result<Option<u32>, Error> {
        let found = self
            .kernel()
            .route
            .link(name)
            .doing(|| format!("look for link {name}"))?;
        Ok(found.map(|link| link.index))
    }

    /// Makes the bridge as it should be and starts its resolver.
    pub(super) fn network_up(&self, state: &mut State, network: Network) -> Result<(), Error> {
        if !network.is_bridged() {
            // All there is of it comes with its containers, and goes with them.
            let live = Live {
                addresses: network.addresses(),
                index: NO_BRIDGE,
                tunnel: None,
                zone: Arc::new(RwLock::new(Zone::new(&network))),
                resolver: None,
                network,
            };
            state.networks.insert(live.network.id.clone(), live);
            return Ok(());
        }
        let (index, tunnel) = match state.up {
            true => (self.bridge_up(&network)?, self.tunnel_link(&network)?),
            false => (self.bridge_again(&network), self.tunnel_again(&network)),
        };
        let zone = Arc::new(RwLock::new(Zone::new(&network)));
        let resolver = self.resolver(&network, &zone);
        let live = Live {
            addresses: network.addresses(),
            index,
            tunnel,
            zone,
            resolver,
            network,
        };
        state.networks.insert(live.network.id.clone(), live);
        self.note_bridges(state);
        self.forward_ipv6(state)?;
        Ok(())
    }

    pub(super) fn resolver(&self, network: &Network, zone: &Arc<RwLock<Zone>>) -> Option<Resolver> {
        let resolver = Resolver::start(
            &self.runtime,
            network,
            Arc::clone(zone),
            self.config.resolv_conf.clone(),
        );
        let told = resolver.inspect_err(|error| {
            tracing::error!(network = network.name, gateway = %network.v4.gateway, %error,
                "no DNS on this network");
        });
        told.ok()
    }

    /// A bridge for a network that was there before: one that cannot be made keeps no other from its containers.
    fn bridge_again(&self, network: &Network) -> u32 {
        self.bridge_up(network).unwrap_or_else(|error| {
            tracing::error!(network = network.name, %error, "nobody can be on this network");
            NO_BRIDGE
        })
    }

    /// A bridge with its address, and the sysctls of its own.
    pub(super) fn bridge_up(&self, network: &Network) -> Result<u32, Error> {
        let index = self
            .bridge_link(network)
            .doing(|| format!("make bridge {}", network.device))?;
        for (name, value) in settings_of(network) {
            sysctl::write(&name, value).doing(|| format!("set net/{name} to {value}"))?;
        }
        Ok(index)
    }

    fn bridge_link(&self, network: &Network) -> std::io::Result<u32> {
        let mut kernel = self.kernel();
        let route = &mut kernel.route;
        let mac = network.bridge_mac();
        if route.link(&network.device)?.is_none() {
            route.apply(&[link::create_bridge(&network.device, mac, network.mtu)])?;
        }
        let found = route.link(&network.device)?;
        let found = found.ok_or(std::io::ErrorKind::NotFound)?;
        if !is_bridge_of(&found, network) {
            return Err(std::io::Error::other(
                "somebody else's link has this name: give it another, or remove it",
            ));
        }
        let index = found.index;
        // Before its addresses: one of IPv6 needs it on.
        Self::bridge_ipv6(network)?;
        let addresses = network
            .pools()
            .map(|pool| link::add_address(index, pool.gateway, pool.subnet));
        let alias = link::set_alias(index, &mark_of(network));
        let mut requests = vec![link::set_up(index), alias];
        // Said once more, an MTU would no longer follow that of the smallest port.
        if found.mtu != network.mtu {
            requests.push(link::set_mtu(index, network.mtu));
        }
        if found.mac != Some(mac) {
            requests.push(link::set_mac(index, mac));
        }
        requests.extend(addresses);
        let routes = network
            .pools()
            .map(|pool| link::add_own_route(index, pool.gateway, pool.subnet));
        requests.extend(routes);
        // No other network's subnet ever changes: what is on their bridges besides is somebody's.
        if network.is_default() {
            requests.extend(strange_addresses(route, index, network)?);
        }
        route.apply_idempotent(&requests)?;
        leads_to_its_subnets(route, index, network)?;
        wait_until_local(route, network.v6.as_ref().map(|pool| pool.gateway))?;
        Ok(index)
    }

    /// Ports that were being moved when we ended are where they belong.
    fn recorded_endpoints(&self, state: &State) -> Result<Vec<Endpoint>, Error> {
        let mut endpoints = self.store.endpoints()?;
        let network =
            |endpoint: &Endpoint| state.networks.get(&endpoint.network).map(Live::network);
        for changed in gather_ports(&mut endpoints, network) {
            if let Some(endpoint) = endpoints.iter().find(|e| e.id == changed) {
                self.store.put_endpoint(endpoint)?;
            }
        }
        Ok(endpoints)
    }

    fn endpoint_up(
        &self,
        state: &mut State,
        endpoint: Endpoint,
        links: &HashMap<&str, &Link>,
        namespaces: &HashMap<u64, Netns>,
    ) -> Result<(), Error> {
        let name = endpoint.id.host_link();
        let netns = namespaces.get(&endpoint.netns);
        let is_there = links.contains_key(name.as_str()) || netns.is_some();
        let live = state.networks.get_mut(&endpoint.network);
        let Some(live) = live.filter(|_| is_there) else {
            // The namespace is gone and took the veth pair along.
            state.lost.push((endpoint.id.clone(), endpoint.container));
            return self.store.remove_endpoint(&endpoint.id);
        };
        if live.addresses.claim(endpoint.address).is_err() {
            tracing::error!(endpoint = %endpoint.id, address = %endpoint.address,
                "two records have this address: the one that was read last is given up");
            state.lost.push((endpoint.id.clone(), endpoint.container));
            return self.store.remove_endpoint(&endpoint.id);
        }
        if live.network.is_bridged() {
            self.kernel().stations.know(Station {
                link: name,
                mac: endpoint.mac,
                address: endpoint.address,
            });
        }
        live.zone
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(&endpoint);
        for port in &endpoint.ports {
            if let Err(error) = state.ports.take_again(&endpoint.id, endpoint.address, port) {
                tracing::warn!(container = endpoint.container_name, %error,
                    "a published port is led to its container still; nothing keeps other programs off it");
            }
        }
        if let Some(netns) = netns {
            let netns = netns.try_clone();
            let netns = netns.doing(|| "open a network namespace".to_owned())?;
            state.namespaces.insert(endpoint.id.clone(), netns);
        }
        state.endpoints.insert(endpoint.id.clone(), endpoint);
        Ok(())
    }

    /// Deletes ends of veth pairs that look like ours, and are nobody's.
    pub(super) fn remove_orphans(&self, state: &State, links: &[Link]) -> Vec<Finding> {
        let bridges: Vec<u32> = state.bridged().map(|live| live.index).collect();
        let mut kernel = self.kernel();
        let of_networks = state.networks.values().flat_map(|live| {
            let tunnel = Tunnel::of(&live.network).map(|tunnel| tunnel.name);
            std::iter::once(live.network.device.clone()).chain(tunnel)
        });
        let of_networks: HashSet<String> = of_networks.collect();
        let is_orphan = |link: &&Link| {
            // Of a network that has another one now, or that is no more.
            if link.alias.starts_with(MARK) {
                return !of_networks.contains(&link.name);
            }
            // Of a network that was removed while it was made, the bridge is gone.
            let ours = link.name.starts_with(HOST_LINK_PREFIX)
                && (link.master.is_some_and(|master| bridges.contains(&master))
                    || link.alias.starts_with(netlink::link::OURS));
            ours && !kernel.stations.has(&link.name)
        };
        let gone: Vec<String> = links
            .iter()
            .filter(is_orphan)
            .map(|link| link.name.clone())
            .collect();
        // Now, not later: nobody knows which addresses they have.
        reaper::delete(&mut kernel.route, &gone);
        let unfenced = remove_fences(state, &mut kernel.route);
        drop(kernel);
        let networks = || state.bridged().map(|live| &live.network);
        let containers = state.endpoints.values().map(|e| e.address);
        let known: Vec<IpAddr> = containers
            .chain(networks().map(Network::gateways))
            .flat_map(DualStack::all)
            .collect();
        let subnets: Vec<IpNet> = networks()
            .flat_map(Network::pools)
            .map(|pool| pool.subnet)
            .collect();
        self.forget_strangers(state, &subnets, &known);
        let removed = |link: String| Finding::of(format!("link {link} belongs to nobody"), Ok(()));
        gone.into_iter().map(removed).chain(unfenced).collect()
    }

    /// Takes everything out of the kernel that we put there, and sysctls back to what they were.
    /// Networks stay in the store and come back with the next request.
    pub fn teardown(&self) -> Result<(), Error> {
        let mut state = self.state();
        state.up = false;
        for id in state.endpoints.keys().cloned().collect::<Vec<_>>() {
            self.release_in(&mut state, &id)?;
        }
        for prepared in self.pool.drain() {
            self.delete_link(&prepared.id.host_link());
        }
        let networks = std::mem::take(&mut state.networks);
        self.note_bridges(&state);
        for live in networks.values() {
            self.delete_link(&live.network.device);
            self.tunnel_down(&live.network);
        }
        // The table last: while this host forwards, or has tunnels, it says for whom.
        for (name, before) in self.store.sysctls() {
            // That of a link may have gone with it.
            sysctl::ignore_missing(sysctl::write(&name, &before))
                .doing(|| format!("put net/{name} back to {before}"))?;
            tracing::info!(name, before, "a sysctl is back to what it was");
        }
        self.remove_table()?;
        self.store.forget_sysctls()
    }
}

/// Takes away fences of networks that are no more: nothing could have such a subnet.
fn remove_fences(state: &State, route: &mut Route) -> Vec<Finding> {
    let fenced = match route.fences() {
        Ok(fenced) => fenced,
        Err(error) => {
            tracing::error!(%error, "cannot look for routes to nowhere that are nobody's");
            return Vec::new();
        }
    };
    let tunnels = state.networks.values();
    let tunnels = tunnels.filter_map(|live| Tunnel::of(&live.network));
    let wanted: HashSet<IpNet> = tunnels
        .filter(Tunnel::is_encrypted)
        .map(|tunnel| tunnel.subnet)
        .collect();
    let nobodys = fenced.into_iter().filter(|subnet| !wanted.contains(subnet));
    let remove = |subnet: IpNet| {
        let lowered = route.apply_idempotent(&[fence::lower(subnet)]);
        let lowered = lowered.doing(|| format!("delete the route of {subnet} to nowhere"));
        Finding::of(
            format!("the route of {subnet} to nowhere belongs to nobody"),
            lowered,
        )
    };
    nobodys.map(remove).collect()
}

/// Takes away what is no address of the default network's bridge: of another subnet before, which no record has after a
/// kill.
fn strange_addresses(
    route: &mut Route,
    index: u32,
    network: &Network,
) -> std::io::Result<Vec<Message>> {
    let own: Vec<IpNet> = network.pools().map(Pool::gateway_net).collect();
    let strange = route.addresses()?.into_iter();
    let strange =
        strange.filter(|(of, net)| *of == index && !own.contains(net) && !is_link_local(*net));
    let remove = |(_, net): (u32, IpNet)| {
        tracing::warn!(bridge = network.device, address = %net, "is none of its network's, and goes");
        link::remove_address(index, net.addr(), net)
    };
    Ok(strange.map(remove).collect())
}

/// A route that was there already may be somebody else's.
fn leads_to_its_subnets(route: &mut Route, index: u32, network: &Network) -> std::io::Result<()> {
    let routes = route.routes()?;
    let mut subnets = network.pools().map(|pool| pool.subnet);
    let Some(subnet) = subnets.find(|subnet| !routes.contains(&(index, *subnet))) else {
        return Ok(());
    };
    let other = routes.iter().find(|(_, to)| *to == subnet);
    let links = route.links()?;
    let by = links
        .iter()
        .find(|link| other.is_some_and(|(by, _)| *by == link.index));
    let by = by.map_or("another link", |link| &*link.name);
    Err(std::io::Error::other(format!(
        "the route to its subnet {subnet} is somebody else's, by {by}: remove that one (`ip route del {subnet} dev {by}`)"
    )))
}

/// Whether a link is a bridge that we have made, by its mark, and by its MAC where an earlier version did; not one that
/// somebody has for his own ends.
pub(super) fn is_bridge_of(link: &Link, network: &Network) -> bool {
    let is_marked = link.alias.starts_with(MARK);
    link.kind == "bridge" && (is_marked || link.mac == Some(network.bridge_mac()))
}

/// Settings of a bridge's own, below `/proc/sys/net`.
pub(super) fn settings_of(network: &Network) -> [(String, &'static str); 2] {
    let of = |setting: &str| format!("ipv4/conf/{}/{setting}", network.device);
    [
        // The host's own 127.0.0.1 reaches published ports by way of this bridge; packets from outside to 127.0.0.0/8
        // are dropped in our table before they are routed.
        (of("route_localnet"), "1"),
        // No container tells the host which way to send.
        (of("accept_redirects"), "0"),
    ]
}

fn is_link_local(net: IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}
