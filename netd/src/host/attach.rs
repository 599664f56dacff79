//! Attaching a container: address, links, names and ports, all or nothing.

use std::time::Duration;

use crate::endpoint::{Endpoint, Request};
use crate::error::{Doing as _, Error};
use crate::id::EndpointId;
use crate::ipam::{DualStack, Wanted as WantedAddress};
use crate::netlink::Mac;
use crate::network::{DEFAULT, Network};

use super::direct::can_have;
use super::ports::forget_strays;
use super::prepare::{Prepared, Wanted};
use super::reaper::Doomed;
use super::{Attached, Host, State};

/// How long a full bridge is waited for whose links are just being deleted.
pub(super) const REAPING: Duration = Duration::from_secs(10);

/// How many addresses that others have are passed over.
const OTHERS: usize = 16;

/// What decides whether a prepared endpoint will do.
#[derive(Debug, Default)]
pub(super) struct Shape<'a> {
    pub network: &'a str,
    pub address: WantedAddress,
    mac: Option<Mac>,
    netns: Option<&'a std::path::Path>,
    interface: &'a str,
}

impl<'a> Shape<'a> {
    pub fn default_network() -> Self {
        Self {
            network: DEFAULT,
            ..Self::default()
        }
    }

    fn of(request: &'a Request) -> Self {
        Self {
            network: &request.network,
            address: request.address,
            mac: request.mac,
            netns: request.netns.as_deref(),
            interface: &request.interface,
        }
    }

    fn fits_the_pool(&self) -> bool {
        self.address.is_any()
            && self.mac.is_none()
            && self.netns.is_none()
            && matches!(self.interface, "" | "eth0")
    }
}

impl Host {
    /// Whether there is nothing to be done for this in the kernel, as far as anybody knows now.
    pub fn has_ready(&self, request: &Request) -> bool {
        let default = matches!(request.network.as_str(), "" | "default" | DEFAULT);
        let busy = || self.state.try_lock().is_err();
        default
            && request.ports.is_empty()
            && Shape::of(request).fits_the_pool()
            && self.pool.len() > 0
            && !busy()
    }

    /// Attaches a container.
    pub fn attach(&self, request: Request) -> Result<Attached, Error> {
        let shape = Shape::of(&request);
        let is_default = {
            let mut state = self.state();
            self.bring_up(&mut state)?;
            let network = &state.find(shape.network)?.network;
            state.must_be_new(&request, network)?;
            can_have(&request, network)?;
            if let (Some(netns), false, false) = (&request.netns, network.is_bridged(), state.swept)
            {
                // What an earlier netd left there may have the MAC that this one is to have.
                self.sweep_told(&state, &request.container, netns);
            }
            network.is_default()
        };
        let from_pool = if is_default && shape.fits_the_pool() {
            self.pool.take()
        } else {
            None
        };
        match from_pool {
            Some(prepared) => self.hand_out(prepared, request, |unused| {
                self.pool.give_back(unused);
            }),
            None => {
                let prepared = self.prepare(&shape)?;
                self.hand_out(prepared, request, |unused| self.discard(unused))
            }
        }
    }

    /// Takes an address and makes the links.
    pub(super) fn prepare(&self, shape: &Shape<'_>) -> Result<Prepared, Error> {
        let mut others = Vec::new();
        let prepared = loop {
            let (network, bridge, address) = self.take_address(shape)?;
            match self.prepare_at(shape, &network, bridge, address) {
                // On a wire that is not netd's alone; then the next one.
                Err(Error::AddressInUse(_)) if shape.address.is_any() && others.len() < OTHERS => {
                    others.push((network.id, address));
                }
                Err(error) => {
                    others.push((network.id, address));
                    break Err(error);
                }
                prepared => break prepared,
            }
        };
        if others.is_empty() {
            return prepared;
        }
        let mut state = self.state();
        for (network, address) in others {
            if let Some(live) = state.networks.get_mut(&network) {
                live.addresses.release(address);
            }
        }
        prepared
    }

    fn prepare_at(
        &self,
        shape: &Shape<'_>,
        network: &Network,
        bridge: u32,
        address: DualStack,
    ) -> Result<Prepared, Error> {
        slipway_fault::point("netd.attach.addressed");
        let wanted = Wanted {
            network,
            bridge,
            address,
            mac: shape.mac.unwrap_or(Mac::of(address.v4)),
            netns: shape.netns,
            interface: shape.interface,
        };
        match self.build(&wanted) {
            // Links of those that have just ended may still be there.
            Err(Error::NetworkFull(_)) if self.reaper.wait(REAPING) => self.build(&wanted),
            built => built,
        }
    }

    /// Takes a prepared endpoint back.
    pub(super) fn discard(&self, prepared: Prepared) {
        if let Some(live) = self.state().networks.get_mut(&prepared.network) {
            live.addresses.leave(prepared.address);
        }
        self.undo_direct(&prepared);
        self.reap(Doomed {
            link: prepared.id.host_link(),
            address: Some((prepared.network, prepared.address)),
        });
    }

    /// A bridge that somebody took away was made anew.
    fn follow(&self, prepared: &Prepared, bridge: u32) -> Result<(), Error> {
        if prepared.bridge == bridge {
            return Ok(());
        }
        match self.link_index(&prepared.id.host_link())? {
            Some(link) => self.join(&prepared.id, link, bridge),
            None => Err(Error::NoEndpoint(prepared.id.to_string())),
        }
    }

    fn hand_out(
        &self,
        prepared: Prepared,
        request: Request,
        take_back: impl FnOnce(Prepared),
    ) -> Result<Attached, Error> {
        slipway_fault::point("netd.attach.prepared");
        let mut state = self.state();
        // Nobody looked since the links were begun.
        let inode = || {
            prepared
                .netns
                .inode()
                .doing(|| "look at a network namespace".to_owned())
        };
        let may = state.may_have(&request, &prepared);
        let may = may.and_then(|bridge| self.follow(&prepared, bridge));
        let netns = match may.and_then(|()| inode()).and_then(|inode| {
            let path = request.netns.as_deref().unwrap_or("a new one".as_ref());
            state.is_its_namespace(&request.container, inode, path)?;
            Ok(inode)
        }) {
            Ok(netns) => netns,
            Err(error) => {
                drop(state);
                self.discard(prepared);
                return Err(error);
            }
        };
        let ports = match state
            .ports
            .take(&prepared.id, prepared.address, &request.ports)
        {
            Ok(ports) => ports,
            Err(error) => {
                drop(state);
                take_back(prepared);
                return Err(error);
            }
        };
        slipway_fault::point("netd.attach.reserved");
        let endpoint = Endpoint {
            id: prepared.id.clone(),
            network: prepared.network.clone(),
            container: request.container,
            container_name: request.container_name,
            hostname: request.hostname,
            aliases: request.aliases,
            interface: prepared.interface.clone(),
            mac: prepared.mac,
            address: prepared.address,
            ports: ports.clone(),
            dns: request.dns,
            dns_search: request.dns_search,
            dns_options: request.dns_options,
            gateway_priority: request.gateway_priority,
            netns,
        };
        // The record first: what it says is put into the kernel again by every start, while rules
        // without a record would be nobody's.
        let done = self
            .store
            .put_endpoint(&endpoint)
            .and_then(|()| {
                slipway_fault::fallible("netd.attach.recorded")
                    .doing(|| "write the record of an endpoint".to_owned())
            })
            .and_then(|()| self.publish(&state, &[], &endpoint.ports, endpoint.address));
        if let Err(error) = done {
            state.ports.give_back(&endpoint.id, &endpoint.ports);
            drop(state);
            self.store.remove_endpoint(&endpoint.id)?;
            self.discard(prepared);
            return Err(error);
        }
        slipway_fault::point("netd.attach.published");
        if let Some(zone) = state.zone(&endpoint.network) {
            zone.write()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .insert(&endpoint);
        }
        let (id, container) = (endpoint.id.clone(), endpoint.container.clone());
        state.endpoints.insert(id.clone(), endpoint);
        state.namespaces.insert(id.clone(), prepared.netns);
        slipway_fault::point("netd.attach.known");
        if request.netns.is_some()
            && let Err(error) = self.settle(&mut state, &container, None)
        {
            self.release_in(&mut state, &id)?;
            return Err(error);
        }
        let answer = state.answer(&id);
        drop(state);
        forget_strays(&ports);
        answer
    }
}

impl State {
    pub(super) fn known(&self, id: &EndpointId) -> Result<&Endpoint, Error> {
        self.endpoints
            .get(id)
            .ok_or_else(|| Error::NoEndpoint(id.to_string()))
    }

    pub(super) fn answer(&self, id: &EndpointId) -> Result<Attached, Error> {
        let endpoint = self.known(id)?;
        self.attached(endpoint)
            .ok_or_else(|| Error::NoNetwork(endpoint.network.to_string()))
    }
}

impl State {
    /// A container has one endpoint on a network, and nobody has its MAC there.
    fn must_be_new(&self, request: &Request, network: &Network) -> Result<(), Error> {
        let on_it = || self.endpoints.values().filter(|e| e.network == network.id);
        if on_it().any(|endpoint| endpoint.container == request.container) {
            return Err(Error::AlreadyAttached {
                container: request.container.clone(),
                network: network.name.clone(),
            });
        }
        match request.mac {
            Some(mac)
                if mac == Mac::of(network.v4.gateway) || on_it().any(|other| other.mac == mac) =>
            {
                Err(Error::Invalid(format!(
                    "MAC address {mac} is already in use on network {}",
                    network.name
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether the network is still there that the links were made for; its bridge.
    fn may_have(&self, request: &Request, prepared: &Prepared) -> Result<u32, Error> {
        let live = self.networks.get(&prepared.network);
        let live = live.filter(|_| self.up);
        let live = live.ok_or_else(|| Error::NoNetwork(request.network.clone()))?;
        self.must_be_new(request, &live.network)?;
        Ok(live.index)
    }
}
