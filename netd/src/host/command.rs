//! Reconciling on command: everything is compared that netd put into the kernel and on the disk, also what nobody tells
//! it of, and what differs is put right.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::endpoint::Endpoint;
use crate::error::{Doing as _, Error};
use crate::netlink::{Link, Netns, Route, link};
use crate::network::{Driver, Network};

use super::repair::Finding;
use super::{Host, Live, State, namespaces};

/// What a container's namespace has.
struct Inside {
    links: Vec<Link>,
    addresses: Vec<(u32, IpNet)>,
    routes: Vec<(u32, IpNet)>,
}

impl Inside {
    /// Runs on a thread inside of it.
    fn look() -> io::Result<Self> {
        let mut route = Route::open()?;
        Ok(Self {
            links: route.links()?,
            addresses: route.addresses()?,
            routes: route.routes()?,
        })
    }
}

/// What is wrong with a container's end of its link.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrong {
    /// There is none of that name.
    Gone,
    Off(u32),
    Mac(u32),
    Mtu(u32, u32),
    Address(u32, IpNet),
    /// To the other hosts of its network.
    Route(u32, IpNet, IpAddr),
}

fn wrong_with(endpoint: &Endpoint, network: &Network, inside: &Inside) -> Vec<(Wrong, String)> {
    let mut links = inside.links.iter();
    let whose = format!(
        "interface {} of container {}",
        endpoint.interface, endpoint.container_name
    );
    let Some(found) = links.find(|link| link.name == endpoint.interface) else {
        return vec![(Wrong::Gone, format!("{whose} is gone"))];
    };
    let index = found.index;
    let mut wrong = Vec::new();
    if !found.up {
        wrong.push((Wrong::Off(index), format!("{whose} is switched off")));
    }
    if found.mtu != network.mtu {
        let what = format!("{whose} has MTU {} instead of {}", found.mtu, network.mtu);
        wrong.push((Wrong::Mtu(index, network.mtu), what));
    }
    // On a wire without MACs of its own it has that of the link whose wire it is, whatever becomes of that.
    let has_own = match &network.driver {
        Driver::Direct(direct) => direct.share.has_own_mac(),
        Driver::Bridge | Driver::Overlay(_) => true,
    };
    if has_own && found.mac != Some(endpoint.mac) {
        let what = format!("{whose} has another MAC than {}", endpoint.mac);
        wrong.push((Wrong::Mac(index), what));
    }
    for (address, pool) in endpoint.address.all().zip(network.pools()) {
        // Its prefix is that of its network's pool of the same version.
        let Ok(wanted) = IpNet::new(address, pool.subnet.prefix_len()) else {
            continue;
        };
        if !inside.addresses.contains(&(index, wanted)) {
            let what = format!("{whose} is without its address {wanted}");
            wrong.push((Wrong::Address(index, wanted), what));
        }
    }
    if let Driver::Overlay(overlay) = &network.driver
        && !inside.routes.contains(&(index, overlay.subnet))
    {
        let what = format!("{whose} is without its route to {}", overlay.subnet);
        let route = Wrong::Route(index, overlay.subnet, network.v4.gateway);
        wrong.push((route, what));
    }
    wrong
}

impl Host {
    /// Compares all that there is with all that there should be, in both directions, and puts right what differs.
    /// What is told has been tried; nothing is told that was as it should be.
    pub fn reconcile(&self) -> Result<Vec<Finding>, Error> {
        let mut state = self.state();
        self.bring_up(&mut state)?;
        let ruled = self.kernel().ruled;
        if !ruled && let Err(error) = self.write_table(&state) {
            let what = "networks are switched off until our table is written".to_owned();
            return Ok(vec![Finding::of(what, Err(error))]);
        }
        let mut found = self.repair_settings(&state);
        if self.forward_ipv6(&state)? {
            let what = "links of this host did not let IPv6 of containers through".to_owned();
            found.push(Finding::of(what, Ok(())));
        }
        found.extend(self.repair_links(&mut state)?);
        found.extend(self.repair_insides(&mut state));
        let links = self.kernel().route.links();
        let links = links.doing(|| "list links".to_owned())?;
        found.extend(self.remove_orphans(&state, &links));
        found.extend(self.repair_records(&state)?);
        // Last: what is dropped depends on the settings, who sends on the links.
        let wrong = self.wrong_with_tables(&state)?;
        if !wrong.is_empty() {
            let written = self.write_table(&state).map_err(|error| error.to_string());
            let each = wrong.into_iter();
            found.extend(each.map(|what| Finding::told(what, written.clone())));
        }
        Ok(found)
    }

    /// Links, addresses and routes in the namespaces of containers. Whoever may change them inside (`--cap-add
    /// NET_ADMIN`) and did so on purpose asks for it back by asking for this.
    fn repair_insides(&self, state: &mut State) -> Vec<Finding> {
        self.find_namespaces(state);
        let mut found = Vec::new();
        let mut by_container: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in state.endpoints.values() {
            let of_it = by_container.entry(&endpoint.container).or_default();
            of_it.push(endpoint);
        }
        for (container, endpoints) in by_container {
            // Nobody is there, or nobody may look: its link is compared from outside.
            let Some(netns) = state.namespace_of(container) else {
                continue;
            };
            let inside = match netns.inside(Inside::look) {
                Ok(inside) => inside,
                Err(error) => {
                    let what = format!("container {container} cannot be looked into");
                    found.push(Finding::told(what, Err(error.to_string())));
                    continue;
                }
            };
            for endpoint in &endpoints {
                let Some(live) = state.networks.get(&endpoint.network) else {
                    continue;
                };
                for (wrong, what) in wrong_with(endpoint, &live.network, &inside) {
                    let repaired = self.repair_inside(state, endpoint, netns, &wrong);
                    found.push(Finding::of(what, repaired));
                }
            }
            found.extend(self.repair_way_out(state, container));
        }
        found
    }

    fn repair_inside(
        &self,
        state: &State,
        endpoint: &Endpoint,
        netns: &Netns,
        wrong: &Wrong,
    ) -> Result<(), Error> {
        let request = match *wrong {
            Wrong::Gone => return self.rebuild(state, &endpoint.id),
            Wrong::Off(index) => link::set_up(index),
            Wrong::Mac(index) => link::set_mac(index, endpoint.mac),
            Wrong::Mtu(index, mtu) => link::set_mtu(index, mtu),
            Wrong::Address(index, net) => link::add_address(index, net.addr(), net),
            Wrong::Route(index, to, gateway) => link::add_route(to, gateway, index),
        };
        let put_right = || Route::open()?.apply_idempotent(&[request]);
        netns.inside(put_right).doing(|| {
            let Endpoint {
                interface,
                container_name,
                ..
            } = endpoint;
            format!("change interface {interface} of container {container_name}")
        })
    }

    fn repair_way_out(&self, state: &State, container: &str) -> Vec<Finding> {
        let name = state
            .of(container)
            .next()
            .map(|e| e.container_name.as_str());
        let name = name.unwrap_or(container);
        match self.settle_route(state, container, None) {
            Ok(settled) => settled
                .into_iter()
                .map(|version| {
                    let what = format!("container {name} had no way out by {version}");
                    Finding::of(what, Ok(()))
                })
                .collect(),
            Err(error) => {
                let what = format!("container {name} may have no way out");
                vec![Finding::of(what, Err(error))]
            }
        }
    }

    /// Those of containers that were there before us, by who is in them.
    fn find_namespaces(&self, state: &mut State) {
        let known = |endpoint: &&Endpoint| !state.namespaces.contains_key(&endpoint.id);
        let unknown: Vec<_> = state
            .endpoints
            .values()
            .filter(known)
            .map(|endpoint| (endpoint.id.clone(), endpoint.netns))
            .collect();
        if unknown.is_empty() {
            return;
        }
        let found = namespaces::of_processes(unknown.iter().map(|(_, inode)| *inode));
        for (id, inode) in unknown {
            if let Some(Ok(netns)) = found.get(&inode).map(Netns::try_clone) {
                state.namespaces.insert(id, netns);
            }
        }
    }

    /// Records of networks and endpoints: without its own a network would be gone at the next start, and an endpoint
    /// nobody's.
    fn repair_records(&self, state: &State) -> Result<Vec<Finding>, Error> {
        let mut found = self.repair_networks(state)?;
        let recorded = self.store.endpoints()?.into_iter();
        let recorded: HashMap<_, _> = recorded.map(|e| (e.id.clone(), e)).collect();
        for endpoint in state.endpoints.values() {
            let how = match recorded.get(&endpoint.id) {
                Some(record) if record == endpoint => continue,
                Some(_) => "says something else",
                None => "is gone",
            };
            let what = format!("the record of container {} {how}", endpoint.container_name);
            found.push(Finding::of(what, self.store.put_endpoint(endpoint)));
        }
        let of_nobody = |id: &&_| !state.endpoints.contains_key(*id);
        for id in recorded.keys().filter(of_nobody) {
            let what = format!("record {id} belongs to no endpoint");
            found.push(Finding::of(what, self.store.remove_endpoint(id)));
        }
        Ok(found)
    }

    fn repair_networks(&self, state: &State) -> Result<Vec<Finding>, Error> {
        let recorded = self.store.networks()?;
        let mut found = Vec::new();
        for Live { network, .. } in state.networks.values() {
            let how = match recorded.iter().find(|record| record.id == network.id) {
                Some(record) if record == network => continue,
                Some(_) => "says something else",
                None => "is gone",
            };
            let what = format!("the record of network {} {how}", network.name);
            found.push(Finding::of(what, self.store.put_network(network)));
        }
        let of_nobody = |record: &&Network| !state.networks.contains_key(&record.id);
        for record in recorded.iter().filter(of_nobody) {
            let what = format!("record {} belongs to no network", record.id);
            found.push(Finding::of(what, self.store.remove_network(&record.id)));
        }
        Ok(found)
    }
}
