//! Comparing the kernel with what should be in it, and putting right what differs: at the start, and when the guard
//! hears of something.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use ipnet::IpNet;

use crate::error::{Doing, Error};
use crate::id::{EndpointId, HOST_LINK_PREFIX, NetworkId};
use crate::netlink::{Link, Route, link};
use crate::network::Driver;
use crate::sysctl;

use super::prepare::Wanted;
use super::reconcile::{FORWARDING, settings_of};
use super::{Host, Live, State};

/// Something that was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it was, as a sentence.
    pub what: String,
    /// Why it still is so; none: it has been put right.
    pub trouble: Option<String>,
}

impl Finding {
    /// Tells the log, too.
    pub(super) fn of(what: String, repaired: Result<(), Error>) -> Self {
        Self::told(what, repaired.map_err(|error| error.to_string()))
    }

    /// The same of several that were put right in one go.
    pub(super) fn told(what: String, repaired: Result<(), String>) -> Self {
        let trouble = repaired.err();
        match &trouble {
            None => tracing::warn!("{what}; it is put right"),
            Some(error) => tracing::error!(error, "{what}; it cannot be put right"),
        }
        Self { what, trouble }
    }
}

/// What the kernel has.
struct There {
    links: Vec<Link>,
    addresses: HashSet<(u32, IpNet)>,
    routes: HashSet<(u32, IpNet)>,
}

/// Whose link it is that is not as it should be, and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Damage {
    Bridge(NetworkId, String),
    /// Of a network that spans hosts.
    Tunnel(NetworkId, String),
    /// The host's end of a container's link.
    End(EndpointId, String),
    /// There is none.
    Lost(EndpointId, String),
}

/// What is written on a host's end.
pub(super) fn whole(id: &EndpointId) -> String {
    format!("{}{id}", link::OURS)
}

/// What is written on a host's end while the other one is made anew: what is left of that, should we end, is begun
/// again. The records cannot tell, for the endpoint was whole before.
fn unfinished(id: &EndpointId) -> String {
    format!("{}rebuilding:{id}", link::OURS)
}

/// What is wrong with a bridge, if anything is.
fn wrong_with_bridge(live: &Live, found: Option<&Link>, there: &There) -> Option<String> {
    let network = &live.network;
    let Some(link) = found else {
        return Some("is gone".to_owned());
    };
    if link.index != live.index {
        return Some("was made anew by somebody".to_owned());
    }
    if !link.up {
        return Some("is switched off".to_owned());
    }
    if link.mtu != network.mtu {
        return Some(format!("has MTU {} instead of {}", link.mtu, network.mtu));
    }
    let mac = network.bridge_mac();
    if link.mac != Some(mac) {
        let has = link.mac.map_or("none".to_owned(), String::from);
        return Some(format!("has MAC {has} instead of {mac}"));
    }
    let mut gateways = network.pools().map(|pool| pool.gateway_net());
    let mut subnets = network.pools().map(|pool| pool.subnet);
    gateways
        .find(|gateway| !there.addresses.contains(&(live.index, *gateway)))
        .map(|gateway| format!("is without its address {gateway}"))
        .or_else(|| {
            subnets
                .find(|subnet| !there.routes.contains(&(live.index, *subnet)))
                .map(|subnet| format!("is without its route to {subnet}"))
        })
}

/// The same of a host's end.
fn wrong_with_end(live: &Live, link: &Link) -> Option<String> {
    if link.master != Some(live.index) {
        Some(format!("is not in bridge {}", live.network.device))
    } else if !link.up {
        Some("is switched off".to_owned())
    } else if !link.hairpin {
        Some("does not send frames back to where they came from".to_owned())
    } else if link.mtu != live.network.mtu {
        let wanted = live.network.mtu;
        Some(format!("has MTU {} instead of {wanted}", link.mtu))
    } else {
        None
    }
}

impl State {
    /// Whether the host's end of an endpoint is called so.
    pub(super) fn has_end(&self, name: &str) -> bool {
        let digits = name.strip_prefix(HOST_LINK_PREFIX).unwrap_or(name);
        let from = EndpointId::named(digits);
        let next = self.endpoints.range(from..).next();
        next.is_some_and(|(id, _)| id.host_link() == name)
    }

    fn compare(&self, there: &There) -> Vec<Damage> {
        let by_name = there.links.iter().map(|link| (&*link.name, link));
        let by_name: HashMap<&str, &Link> = by_name.collect();
        let bridges = self.bridged().filter_map(|live| {
            let found = by_name.get(live.network.device.as_str()).copied();
            let wrong = wrong_with_bridge(live, found, there)?;
            let what = format!(
                "bridge {} of network {} {wrong}",
                live.network.device, live.network.name
            );
            Some(Damage::Bridge(live.network.id.clone(), what))
        });
        let with_ends = self.endpoints.values().filter(|e| self.has_host_end(e));
        let ends = with_ends.filter_map(|endpoint| {
            let live = self.networks.get(&endpoint.network)?;
            let name = endpoint.id.host_link();
            let whose = format!("link {name} of container {}", endpoint.container_name);
            let Some(link) = by_name.get(name.as_str()) else {
                return Some(Damage::Lost(
                    endpoint.id.clone(),
                    format!("{whose} is gone"),
                ));
            };
            if link.alias == unfinished(&endpoint.id) {
                let what = format!("{whose} is not connected to its end");
                return Some(Damage::Lost(endpoint.id.clone(), what));
            }
            let wrong = wrong_with_end(live, link)?;
            Some(Damage::End(endpoint.id.clone(), format!("{whose} {wrong}")))
        });
        bridges.chain(ends).collect()
    }
}

impl Host {
    /// Settings of the host and of our bridges.
    pub(super) fn repair_settings(&self, state: &State) -> Vec<Finding> {
        let mut found = Vec::new();
        if sysctl::read(FORWARDING).is_ok_and(|value| value == "0") {
            let what = format!("net/{FORWARDING} was switched off, and containers need it");
            found.push(Finding::of(what, self.enable_forwarding()));
        }
        for live in state.bridged() {
            for (name, wanted) in settings_of(&live.network) {
                // What cannot be read is missing with its bridge.
                let Ok(has) = sysctl::read(&name) else {
                    continue;
                };
                if has != wanted {
                    let write = sysctl::write(&name, wanted);
                    let what = format!("net/{name} was {has} instead of {wanted}");
                    found.push(Finding::of(
                        what,
                        write.doing(|| format!("set net/{name} to {wanted}")),
                    ));
                }
            }
        }
        found
    }

    fn look(&self) -> Result<There, Error> {
        let route = &mut self.kernel().route;
        let addresses = route.addresses().doing(|| "list addresses".to_owned())?;
        let routes = route.routes().doing(|| "list routes".to_owned())?;
        Ok(There {
            links: route.links().doing(|| "list links".to_owned())?,
            addresses: addresses.into_iter().collect(),
            routes: routes.into_iter().collect(),
        })
    }

    /// Makes bridges and links that are gone, and puts the links of containers into their bridges.
    pub(super) fn repair_links(&self, state: &mut State) -> Result<Vec<Finding>, Error> {
        let there = self.look()?;
        let damages = state.compare(&there).into_iter();
        let tunnels = state.networks.values().filter_map(|live| {
            let wrong = self.wrong_with_tunnel(&live.network, live.tunnel, &there.links)?;
            let (tunnel, name) = (live.network.id.tunnel_link(), &live.network.name);
            let what = format!("tunnel {tunnel} of network {name} {wrong}");
            Some(Damage::Tunnel(live.network.id.clone(), what))
        });
        let damages: Vec<_> = damages.chain(tunnels).collect();
        let index = |id: &EndpointId| {
            let name = id.host_link();
            there.links.iter().find(|l| l.name == name).map(|l| l.index)
        };
        let mut found = Vec::new();
        let (mut anew, mut rebuilt) = (BTreeSet::new(), BTreeSet::new());
        for damage in damages {
            match damage {
                Damage::Bridge(id, what) => {
                    let repaired = self.repair_bridge(state, &id);
                    anew.extend(matches!(repaired, Ok(true)).then_some(id));
                    found.push(Finding::of(what, repaired.map(drop)));
                }
                Damage::Tunnel(id, what) => {
                    let repaired = self.repair_tunnel(state, &id);
                    found.push(Finding::of(what, repaired));
                }
                Damage::End(id, what) => {
                    let repaired = self.repair_end(state, &id, index(&id));
                    found.push(Finding::of(what, repaired));
                }
                Damage::Lost(id, what) => {
                    let repaired = self.rebuild(state, &id);
                    rebuilt.insert(id);
                    found.push(Finding::of(what, repaired));
                }
            }
        }
        self.note_bridges(state);
        if anew.is_empty() {
            return Ok(found);
        }
        // Prepared ones hang on the bridge that was.
        for prepared in self.pool.drain() {
            if let Some(live) = state.networks.get_mut(&prepared.network) {
                live.addresses.release(prepared.address);
            }
            self.delete_link(&prepared.id.host_link());
        }
        // They went out of it with it.
        let on_them = state
            .endpoints
            .values()
            .filter(|e| anew.contains(&e.network) && !rebuilt.contains(&e.id));
        for endpoint in on_them {
            if let Some(index) = index(&endpoint.id) {
                self.repair_end(state, &endpoint.id, Some(index))?;
            }
        }
        Ok(found)
    }

    /// Whether it is another one now.
    pub(super) fn repair_bridge(&self, state: &mut State, id: &NetworkId) -> Result<bool, Error> {
        let Some(live) = state.networks.get_mut(id) else {
            return Ok(false);
        };
        let before = live.index;
        live.index = self.bridge_up(&live.network)?;
        if live.resolver.is_none() {
            // Its address was not there.
            live.resolver = self.resolver(&live.network, &live.zone);
        }
        // Its routes come from the bridge's address, and went with it.
        self.repair_tunnel(state, id)?;
        let live = state.networks.get(id);
        Ok(live.is_some_and(|live| live.index != before))
    }

    fn repair_end(&self, state: &State, id: &EndpointId, index: Option<u32>) -> Result<(), Error> {
        let endpoint = state.known(id)?;
        let live = state.networks.get(&endpoint.network);
        let (Some(live), Some(index)) = (live, index) else {
            return Err(Error::NoEndpoint(id.to_string()));
        };
        self.join(id, index, live.index)?;
        let mtu = live.network.mtu;
        let doing = || format!("set the MTU of {}", id.host_link());
        // Both ends have the same; the host's has it last, for by that a start knows whether it is done.
        if let Some(netns) = state.namespace_of(&endpoint.container) {
            let inside = || {
                let mut route = Route::open()?;
                match route.link(&endpoint.interface)? {
                    Some(link) if link.mtu != mtu => route.apply(&[link::set_mtu(link.index, mtu)]),
                    _ => Ok(()),
                }
            };
            netns.inside(inside).doing(doing)?;
        }
        slipway_fault::point("netd.settings.resized");
        let set = self.kernel().route.apply(&[link::set_mtu(index, mtu)]);
        set.doing(doing)
    }

    /// Makes the links of an endpoint anew whose container goes on without them.
    pub(super) fn rebuild(&self, state: &State, id: &EndpointId) -> Result<(), Error> {
        let endpoint = state.known(id)?;
        let live = state.networks.get(&endpoint.network);
        let live = live.ok_or_else(|| Error::NoNetwork(endpoint.network.to_string()))?;
        let netns = state.namespace_of(&endpoint.container).ok_or_else(|| {
            Error::Invalid(format!(
                "the network namespace of container {} is not known: start it again",
                endpoint.container_name
            ))
        })?;
        let wanted = Wanted {
            network: &live.network,
            bridge: live.index,
            address: endpoint.address,
            mac: endpoint.mac,
            // The way out depends on its other networks.
            netns: Some(Path::new("")),
            interface: &endpoint.interface,
        };
        if let Driver::Direct(direct) = &live.network.driver {
            self.direct_again(id, &wanted, netns, direct)?;
            return self
                .settle_route(state, &endpoint.container, None)
                .map(drop);
        }
        let name = id.host_link();
        let doing = || format!("connect container {} anew", endpoint.container_name);
        // Of half a pair nothing stays: who it is was known before, and still is.
        if let Some(half) = self.link_index(&name)? {
            let deleted = self.kernel().route.apply_idempotent(&[link::delete(half)]);
            deleted.doing(doing)?;
        }
        self.link_up(id, &unfinished(id), &wanted, netns)
            .doing(doing)?;
        slipway_fault::point("netd.rebuild.linked");
        self.settle_route(state, &endpoint.container, None)?;
        slipway_fault::point("netd.rebuild.routed");
        let whole = link::mark(&name, &whole(id));
        self.kernel().route.apply(&[whole]).doing(doing)
    }
}
