//! Ports of containers that run: led to them, withdrawn, limited to other clients; and what becomes of connections
//! that may not go on.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::endpoint::Endpoint;
use crate::error::{Doing as _, Error};
use crate::firewall;
use crate::id::EndpointId;
use crate::ipam::DualStack;
use crate::netlink::conntrack::{self, Among, Flow};
use crate::ports::{Binding, Protocol, Published};

use super::direct::no_ports;
use super::{Attached, Host, State, entries};

impl Host {
    /// What an endpoint publishes, in the place of what it did, in one step. If somebody has flushed the table, all of it
    /// is put back first.
    pub(super) fn publish(
        &self,
        state: &State,
        before: &[Published],
        after: &[Published],
        to: DualStack,
    ) -> Result<(), Error> {
        let default = state.publish_from();
        let batch = firewall::change(
            &entries(before, to, &default),
            &entries(after, to, &default),
        );
        let applied = self.kernel().nft.apply(batch.clone());
        match applied {
            Err(refused) if refused.needs_all() => {
                self.write_table(state)?;
                Ok(self.kernel().nft.apply(batch)?)
            }
            other => Ok(other?),
        }
    }

    /// The same where it cannot fail any more. What is not there needs no taking out: then the rest is put right by
    /// writing the whole table at the next change or start.
    pub(super) fn withdraw(
        &self,
        state: &State,
        before: &[Published],
        after: &[Published],
        to: DualStack,
    ) {
        let default = state.publish_from();
        let (before, after) = (entries(before, to, &default), entries(after, to, &default));
        let mut kernel = self.kernel();
        if kernel.nft.apply(firewall::change(&before, &after)).is_ok() {
            return;
        }
        for one in firewall::change_each(&before, &after) {
            match kernel.nft.apply(one) {
                Err(refused) if !refused.is_missing() => {
                    tracing::warn!(error = %refused, "cannot withdraw a port");
                }
                _ => {}
            }
        }
    }

    /// Publishes further ports of a container that runs. One that it has already gets the clients that are named.
    pub fn add_ports(&self, id: &EndpointId, bindings: &[Binding]) -> Result<Attached, Error> {
        let mut state = self.state();
        let before = state.known(id)?.clone();
        if let Some(live) = state.networks.get(&before.network)
            && !live.network.is_bridged()
        {
            return Err(no_ports(&live.network));
        }
        let mut endpoint = before.clone();
        let (mut new, mut limited) = (Vec::new(), Vec::new());
        for binding in bindings {
            match endpoint.ports.iter_mut().find(|port| port.is(binding)) {
                Some(port) if port.from != binding.from => {
                    limited.push(port.clone());
                    port.from.clone_from(&binding.from);
                }
                Some(_) => {}
                None => new.push(binding.clone()),
            }
        }
        let added = state.ports.take(id, endpoint.address, &new)?;
        slipway_fault::point("netd.ports.taken");
        endpoint.ports.extend(added.iter().cloned());
        let done = self
            .store
            .put_endpoint(&endpoint)
            .and_then(|()| {
                slipway_fault::fallible("netd.ports.recorded")
                    .doing(|| "write the record of an endpoint".to_owned())
            })
            .and_then(|()| self.publish(&state, &before.ports, &endpoint.ports, endpoint.address));
        if let Err(error) = done {
            state.ports.give_back(id, &added);
            self.withdraw(&state, &endpoint.ports, &before.ports, endpoint.address);
            self.store.put_endpoint(&before)?;
            return Err(error);
        }
        slipway_fault::point("netd.ports.published");
        state.endpoints.insert(id.clone(), endpoint.clone());
        let answer = state.answer(id);
        drop(state);
        forget_strays(&added);
        let changed = |port: &&Published| limited.iter().any(|old| old.is_at(port));
        let changed: Vec<&Published> = endpoint.ports.iter().filter(changed).collect();
        self.forget_others(&changed);
        answer
    }

    /// Withdraws ports of a container that runs; a host port of 0 stands for any. Connections by them end.
    pub fn remove_ports(&self, id: &EndpointId, bindings: &[Binding]) -> Result<Attached, Error> {
        let mut state = self.state();
        let mut endpoint = state.known(id)?.clone();
        let before = endpoint.ports.clone();
        let named = |port: &Published| {
            bindings.iter().any(|binding| match binding.host_port {
                0 => {
                    binding.protocol == port.protocol
                        && binding.container_port == port.container_port
                }
                _ => port.is_one_of(binding),
            })
        };
        let (removed, kept): (Vec<_>, Vec<_>) = endpoint.ports.into_iter().partition(named);
        if removed.is_empty() {
            return Err(Error::Invalid(
                "no such port is published by that container".to_owned(),
            ));
        }
        endpoint.ports = kept;
        self.store.put_endpoint(&endpoint)?;
        slipway_fault::point("netd.unports.recorded");
        self.withdraw(&state, &before, &endpoint.ports, endpoint.address);
        slipway_fault::point("netd.unports.withdrawn");
        state.ports.give_back(id, &removed);
        let address = endpoint.address;
        state.endpoints.insert(id.clone(), endpoint);
        let answer = state.answer(id);
        drop(state);
        forget_led(&removed, address);
        slipway_fault::point("netd.unports.flushed");
        answer
    }

    /// Forgets the connections by ports of clients that may not use them any more.
    fn forget_others(&self, ports: &[&Published]) {
        if ports.is_empty() {
            return;
        }
        let own = self.own_addresses();
        for port in ports {
            let may = |flow: &Flow| own.contains(&flow.client) || port.from.contains(flow.client);
            told(conntrack::forget(
                Among::Port(port.protocol.number(), port.host_port),
                |flow| port.is_by(flow) && !may(flow),
            ));
        }
    }

    /// The host's: who comes from there is never limited.
    pub(super) fn own_addresses(&self) -> Vec<IpAddr> {
        let addresses = self.kernel().route.addresses();
        let addresses = addresses.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the host's addresses");
            Vec::new()
        });
        addresses.into_iter().map(|(_, net)| net.addr()).collect()
    }

    /// Forgets connections of containers that are gone, and those by ports that nobody publishes, or not to their
    /// clients: of what we did not come to the end of.
    pub(super) fn forget_strangers(&self, state: &State, subnets: &[IpNet], known: &[IpAddr]) {
        let is_strange =
            |address| subnets.iter().any(|net| net.contains(&address)) && !known.contains(&address);
        let mut published: HashMap<(u8, u16), Vec<(&Endpoint, &Published)>> = HashMap::new();
        let mut containers: Vec<IpAddr> = Vec::new();
        for endpoint in state.endpoints.values() {
            containers.extend(endpoint.address.all());
            for port in &endpoint.ports {
                let key = (port.protocol.number(), port.host_port);
                published.entry(key).or_default().push((endpoint, port));
            }
        }
        containers.sort_unstable();
        let own = self.own_addresses();
        let may_go_on = |flow: &Flow| {
            let ports = published.get(&(flow.protocol, flow.host_port));
            ports.into_iter().flatten().any(|(endpoint, port)| {
                port.leads(flow, endpoint.address)
                    && (own.contains(&flow.client) || port.from.contains(flow.client))
            })
        };
        told(conntrack::forget(Among::All, |flow| {
            let is_led = flow.host != flow.server && containers.binary_search(&flow.server).is_ok();
            is_strange(flow.client) || is_strange(flow.server) || is_led && !may_go_on(flow)
        }));
    }
}

/// A client that sent to a port of udp before it was published would stay with the host for as long as it goes on
/// sending.
pub(super) fn forget_strays(ports: &[Published]) {
    let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
    let udp: Vec<u16> = udp.map(|port| port.host_port).collect();
    let number = Protocol::Udp.number();
    let among = match udp.as_slice() {
        [] => return,
        [one] => Among::Port(number, *one),
        _ => Among::Protocol(number),
    };
    told(conntrack::forget(among, |flow| {
        flow.protocol == number && flow.host == flow.server && udp.contains(&flow.host_port)
    }));
}

/// Forgets the connections that ports led to an endpoint.
fn forget_led(ports: &[Published], to: DualStack) {
    for address in to.all() {
        told(conntrack::forget(Among::AnsweredBy(address), |flow| {
            ports.iter().any(|port| port.leads(flow, to))
        }));
    }
}

fn told(forgotten: std::io::Result<usize>) {
    if let Err(error) = forgotten {
        tracing::warn!(%error, "cannot forget connections by published ports");
    }
}
