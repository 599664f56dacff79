//! Which of its networks is a container's way out: its default route and its published ports go by that one.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::endpoint::Endpoint;
use crate::error::{Doing as _, Error};
use crate::id::EndpointId;
use crate::netlink::{Netns, Route, link};
use crate::network::Network;
use crate::nft::IpVersion;

use super::{Host, Live, State};

/// Of a container's endpoints the one with the highest priority; of equal ones that whose network's name comes
/// first, as with docker 28. From an internal network there is no way out.
fn way_out<'a>(
    on: impl Iterator<Item = (&'a Endpoint, &'a Network)>,
) -> Option<(&'a Endpoint, &'a Network)> {
    on.filter(|(_, network)| !network.internal)
        .max_by_key(|(endpoint, network)| (endpoint.gateway_priority, Reverse(&network.name)))
}

/// The same for its published ports: of networks that this host leads to.
fn ports_way<'a>(
    on: impl Iterator<Item = (&'a Endpoint, &'a Network)>,
) -> Option<(&'a Endpoint, &'a Network)> {
    way_out(on.filter(|(_, network)| network.is_bridged()))
}

/// Puts all published ports of each container on its way out, as they were when nobody was in the middle of moving
/// them. Returns whose records are others now, those first that have more.
pub(super) fn gather_ports<'n>(
    endpoints: &mut [Endpoint],
    network: impl Fn(&Endpoint) -> Option<&'n Network>,
) -> Vec<EndpointId> {
    let (mut more, mut fewer) = (Vec::new(), Vec::new());
    for one in 0..endpoints.len() {
        let Some(giver) = endpoints.get(one).filter(|giver| !giver.ports.is_empty()) else {
            continue;
        };
        let same = endpoints.iter().filter(|e| e.container == giver.container);
        let out = ports_way(same.filter_map(|e| Some((e, network(e)?))));
        let Some(out) = out.map(|(out, _)| out.id.clone()) else {
            continue;
        };
        if out == giver.id {
            continue;
        }
        let Some(ports) = endpoints.get_mut(one).map(|giver| {
            fewer.push(giver.id.clone());
            std::mem::take(&mut giver.ports)
        }) else {
            continue;
        };
        if let Some(taker) = endpoints.iter_mut().find(|e| e.id == out) {
            let new: Vec<_> = ports
                .into_iter()
                .filter(|p| !taker.ports.contains(p))
                .collect();
            taker.ports.extend(new);
            more.push(out);
        }
    }
    more.extend(fewer);
    more
}

impl Host {
    /// Leads the container out by the right one of its networks, after one came or before `but` goes.
    pub(super) fn settle(
        &self,
        state: &mut State,
        container: &str,
        but: Option<&EndpointId>,
    ) -> Result<(), Error> {
        state.tell_zones(container);
        self.settle_ports(state, container, but)?;
        slipway_fault::point("netd.settle.moved");
        self.settle_route(state, container, but)?;
        slipway_fault::point("netd.settle.routed");
        Ok(())
    }

    fn settle_ports(
        &self,
        state: &mut State,
        container: &str,
        but: Option<&EndpointId>,
    ) -> Result<(), Error> {
        let stays = state.of(container).filter(|e| Some(&e.id) != but);
        let network = |e: &Endpoint| state.networks.get(&e.network).map(Live::network);
        let taker = ports_way(stays.filter_map(|e| Some((e, network(e)?))));
        let Some(mut taker) = taker.map(|(out, _)| out.clone()) else {
            return Ok(());
        };
        let has_others = |e: &&Endpoint| e.id != taker.id && !e.ports.is_empty();
        let givers: Vec<Endpoint> = state.of(container).filter(has_others).cloned().collect();
        for mut giver in givers {
            let ports = std::mem::take(&mut giver.ports);
            let before = taker.ports.clone();
            taker.ports.extend(ports.iter().cloned());
            // With both records the next start finds the ports, and whose they are.
            self.store.put_endpoint(&taker)?;
            slipway_fault::point("netd.settle.taken");
            self.store.put_endpoint(&giver)?;
            self.withdraw(state, &ports, &[], giver.address);
            state.ports.give_back(&giver.id, &ports);
            for port in &ports {
                if let Err(error) = state.ports.take_again(&taker.id, taker.address, port) {
                    tracing::warn!(container = taker.container_name, %error,
                        "a published port is led to its container still; nothing keeps other programs off it");
                }
            }
            state.endpoints.insert(giver.id.clone(), giver);
            state.endpoints.insert(taker.id.clone(), taker.clone());
            self.publish(state, &before, &taker.ports, taker.address)?;
        }
        Ok(())
    }

    /// Of each version of IP by the best network that has it. A route that the container made for itself, by a link
    /// that is none of ours, stays. Returns the versions that had none, or another.
    pub(super) fn settle_route(
        &self,
        state: &State,
        container: &str,
        but: Option<&EndpointId>,
    ) -> Result<Vec<IpVersion>, Error> {
        let mut settled = Vec::new();
        let Some(netns) = state.namespace_of(container) else {
            return Ok(settled);
        };
        let names: Vec<&str> = state.of(container).map(|e| e.interface.as_str()).collect();
        for version in [IpVersion::V4, IpVersion::V6] {
            let Some((out, network, gateway)) = state.gateway_of(container, but, version) else {
                continue;
            };
            let lead = || {
                let mut inside = Route::open()?;
                let links = inside.links()?;
                let index = |name: &str| links.iter().find(|l| l.name == name).map(|l| l.index);
                let own = index(&out.interface).ok_or(io::ErrorKind::NotFound)?;
                let everywhere = version.everywhere();
                let now = inside.default_routes(everywhere)?;
                let is_ours = |by: &u32| names.iter().any(|name| index(name) == Some(*by));
                if now.contains(&own) || !now.iter().all(is_ours) {
                    return Ok(false);
                }
                inside.apply(&[link::replace_route(everywhere, gateway, own)])?;
                Ok(true)
            };
            let led = netns.inside(lead).doing(|| {
                format!(
                    "lead container {} out by network {}",
                    out.container_name, network.name
                )
            })?;
            settled.extend(led.then_some(version));
        }
        Ok(settled)
    }

    /// Opens the namespace of a container's endpoints, where it is not open already: after a restart it is not.
    pub(super) fn remember_namespace(
        &self,
        state: &mut State,
        container: &str,
        path: &Path,
    ) -> Result<(), Error> {
        if state.namespace_of(container).is_some() {
            return Ok(());
        }
        let what = || format!("use network namespace {}", path.display());
        let inode = Netns::open(path)
            .and_then(|netns| netns.inode())
            .doing(what)?;
        state.is_its_namespace(container, inode, path)?;
        if inode == self.own_netns.inode().doing(what)? {
            return Err(host_s_own(path));
        }
        let ids: Vec<EndpointId> = state.of(container).map(|e| e.id.clone()).collect();
        for id in ids {
            let netns = Netns::open(path).doing(what)?;
            state.namespaces.insert(id, netns);
        }
        Ok(())
    }
}

pub(super) fn host_s_own(path: &Path) -> Error {
    Error::Invalid(format!(
        "{} is the host's own network namespace",
        path.display()
    ))
}

impl State {
    /// A container knows the names on all its networks, whichever resolver it asks.
    pub(super) fn tell_zones(&self, container: &str) {
        let on: Vec<&Endpoint> = self.of(container).collect();
        for endpoint in &on {
            let others = on.iter().filter(|other| other.id != endpoint.id);
            let others = others.filter_map(|other| self.zone(&other.network));
            let others = others.map(Arc::downgrade).collect();
            if let Some(zone) = self.zone(&endpoint.network) {
                zone.write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .set_others(&endpoint.id, others);
            }
        }
    }

    /// The endpoints of a container.
    pub(super) fn of(&self, container: &str) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .values()
            .filter(move |e| e.container == container)
    }

    /// A container's way out, `but` not by that endpoint.
    pub(super) fn way_out_of(
        &self,
        container: &str,
        but: Option<&EndpointId>,
    ) -> Option<(&Endpoint, &Network)> {
        let stays = self.of(container).filter(|e| Some(&e.id) != but);
        let network = |e: &Endpoint| self.networks.get(&e.network).map(Live::network);
        way_out(stays.filter_map(|e| Some((e, network(e)?))))
    }

    /// The ways out of all containers, looked for once.
    pub(super) fn ways_out(&self) -> HashSet<&EndpointId> {
        let mut by_container: HashMap<&str, Vec<(&Endpoint, &Network)>> = HashMap::new();
        for endpoint in self.endpoints.values() {
            if let Some(live) = self.networks.get(&endpoint.network) {
                let on = by_container.entry(&endpoint.container).or_default();
                on.push((endpoint, live.network()));
            }
        }
        let each = by_container.into_values();
        each.filter_map(|on| way_out(on.into_iter()).map(|(out, _)| &out.id))
            .collect()
    }

    /// Its way out by a version of IP, and the gateway there.
    fn gateway_of(
        &self,
        container: &str,
        but: Option<&EndpointId>,
        version: IpVersion,
    ) -> Option<(&Endpoint, &Network, IpAddr)> {
        let gateway = |network: &Network| {
            let mut own = network.gateways().all();
            own.find(|gateway| IpVersion::of(*gateway) == version)
        };
        let stays = self.of(container).filter(|e| Some(&e.id) != but);
        let network = |e: &Endpoint| self.networks.get(&e.network).map(Live::network);
        let on = stays.filter_map(|e| Some((e, network(e)?)));
        let (out, network) = way_out(on.filter(|(_, network)| gateway(network).is_some()))?;
        Some((out, network, gateway(network)?))
    }

    pub(super) fn namespace_of(&self, container: &str) -> Option<&Netns> {
        self.of(container).find_map(|e| self.namespaces.get(&e.id))
    }

    /// A number of a process is soon another's: only the namespace that its endpoints are in will do.
    pub(super) fn is_its_namespace(
        &self,
        container: &str,
        inode: u64,
        path: &Path,
    ) -> Result<(), Error> {
        let differs = |e: &Endpoint| e.netns != 0 && e.netns != inode;
        match self.of(container).any(differs) {
            true => Err(Error::Invalid(format!(
                "{} is not the network namespace of container {container}",
                path.display()
            ))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{HostAddress, Limit, Protocol, Published};

    fn network(name: &str, internal: bool) -> Network {
        let request = crate::network::Request {
            name: name.to_owned(),
            internal,
            ..Default::default()
        };
        request
            .plan("10.0.0.0/24".parse().unwrap(), None, 1500)
            .unwrap()
    }

    fn on(network: &Network, container: &str, gateway_priority: i32) -> Endpoint {
        let text = format!(
            r#"{{"id":"{container}-{}","network":"{}","container":"{container}","container_name":"c","hostname":"",
                "aliases":[],"interface":"eth0","mac":"02:42:ac:11:00:02","address":"10.0.0.2","ports":[],"dns":[],
                "dns_search":[],"dns_options":[],"gateway_priority":{gateway_priority}}}"#,
            network.name, network.id
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_highest_priority_leads_out_then_the_first_name_and_never_an_internal_network() {
        let (a, b, closed) = (network("a", false), network("b", false), network("0", true));
        let out = |all: &[(&Endpoint, &Network)]| {
            way_out(all.iter().copied()).map(|(_, network)| network.name.clone())
        };
        let (low, lower, high) = (on(&a, "c", 0), on(&b, "c", 0), on(&b, "c", 1));
        let shut = on(&closed, "c", 9);
        assert_eq!(out(&[(&lower, &b), (&low, &a)]).unwrap(), "a");
        assert_eq!(out(&[(&low, &a), (&high, &b)]).unwrap(), "b");
        assert_eq!(out(&[(&shut, &closed), (&low, &a)]).unwrap(), "a");
        assert_eq!(out(&[(&shut, &closed)]), None);
    }

    #[test]
    fn ports_that_were_being_moved_are_on_the_way_out_once() {
        let (a, b) = (network("a", false), network("b", false));
        let port = |host_port| Published {
            protocol: Protocol::Tcp,
            container_port: 80,
            host: HostAddress::Any,
            host_port,
            from: Limit::default(),
        };
        let mut all = [on(&a, "c", 0), on(&b, "c", 5), on(&a, "d", 0)];
        all[0].ports = vec![port(1), port(2)];
        all[1].ports = vec![port(1)];
        all[2].ports = vec![port(3)];
        let of = |e: &Endpoint| [&a, &b].into_iter().find(|n| n.id == e.network);
        let changed = gather_ports(&mut all, of);
        assert_eq!(changed, [all[1].id.clone(), all[0].id.clone()]);
        let ports = all.each_ref().map(|e| e.ports.clone());
        assert_eq!(ports, [vec![], vec![port(1), port(2)], vec![port(3)]]);
        assert!(gather_ports(&mut all, of).is_empty());
    }
}
