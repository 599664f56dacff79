//! Networks that span hosts: made, and told of other hosts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use crate::error::{Doing as _, Error};
use crate::ipam::pools::overlap;
use crate::network::{Driver, Kind, Network, Request};
use crate::overlay::{self, Carrier, Here, Overlay, PublicKey};

use super::tunnel::port_taken;
use super::{Host, State};

impl Host {
    /// Makes such a network of what was asked for, if this host can be one of its hosts.
    pub(super) fn plan_overlay(&self, state: &State, request: Request) -> Result<Network, Error> {
        let network = overlay::plan(request, &self.here()?)?;
        let Driver::Overlay(planned) = &network.driver else {
            return Ok(network);
        };
        self.must_be_ours(planned)?;
        let in_use = self.subnets_in_use(state)?;
        if in_use.iter().any(|used| overlap(planned.subnet, *used)) {
            return Err(Error::Overlap(planned.subnet));
        }
        for live in state.networks.values() {
            if let Driver::Overlay(other) = &live.network.driver
                && other.carrier == planned.carrier
            {
                let name = &live.network.name;
                return Err(Error::Invalid(match other.carrier {
                    Carrier::Vxlan { vni } => format!(
                        "network {name} has number {vni} in tunnels already: choose another by --opt vni=, on all hosts"
                    ),
                    Carrier::WireGuard { port } => format!(
                        "network {name} has port {port} already: choose another by --opt port=, on all hosts"
                    ),
                }));
            }
        }
        if let Carrier::WireGuard { port } = planned.carrier
            && is_taken(port)
        {
            return Err(port_taken(port));
        }
        Ok(network)
    }

    /// Whether the list has the key of this host that it has.
    fn must_be_ours(&self, overlay: &Overlay) -> Result<(), Error> {
        let Some(listed) = overlay.here.key else {
            return Ok(());
        };
        let own = self.public_key()?;
        match own == listed {
            true => Ok(()),
            false => Err(Error::Invalid(format!(
                "host {} is this one, and its key is {own}: the list has another",
                overlay.here.name
            ))),
        }
    }

    /// What other hosts know this one by, on networks that are encrypted.
    pub fn public_key(&self) -> Result<PublicKey, Error> {
        Ok(self.store.key()?.public())
    }

    /// Another list of the hosts of a network that is there: everything else has to be as it is, and all that stay keep
    /// their addresses.
    pub(super) fn change_overlay(
        &self,
        state: &mut State,
        known: Network,
        request: Request,
    ) -> Result<Network, Error> {
        let exists = || Err(Error::NetworkExists(known.name.clone()));
        let Driver::Overlay(before) = &known.driver else {
            return exists();
        };
        if request.kind != Kind::Overlay {
            return exists();
        }
        let planned = overlay::plan(request, &self.here()?)?;
        let changed = Network {
            driver: planned.driver.clone(),
            options: planned.options.clone(),
            ..known.clone()
        };
        let Driver::Overlay(after) = &changed.driver else {
            return exists();
        };
        let as_known = Network {
            driver: known.driver.clone(),
            options: known.options.clone(),
            created: known.created,
            v4: known.v4.clone(),
            ..planned
        };
        if as_known != known || after == before {
            return exists();
        }
        if let Some(moved) = after.moves_from(before) {
            return Err(Error::Invalid(format!(
                "host {moved} would have other addresses than it has: new hosts come last in the list, and one that \
                 goes leaves - in its place"
            )));
        }
        self.must_be_ours(after)?;
        self.store.put_network(&changed)?;
        slipway_fault::point("netd.peers.recorded");
        if let Err(error) = self.span(state, &changed) {
            // It was told that nothing changed.
            let undone = [self.store.put_network(&known), self.span(state, &known)];
            for trouble in undone.into_iter().filter_map(Result::err) {
                tracing::error!(network = known.name, error = %trouble,
                    "it may lead to other hosts than before, until netd starts anew");
            }
            return Err(error);
        }
        Ok(changed)
    }

    /// Has a network lead to other hosts than it did: first nobody may send into it but those.
    fn span(&self, state: &mut State, network: &Network) -> Result<(), Error> {
        if let Some(live) = state.networks.get_mut(&network.id) {
            live.zone
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .span(network);
            live.network = network.clone();
        }
        self.write_table(state)?;
        slipway_fault::point("netd.peers.ruled");
        slipway_fault::fallible("netd.peers.allowed")
            .doing(|| format!("lead to the hosts of network {}", network.name))?;
        self.repair_tunnel(state, &network.id)?;
        self.note_bridges(state);
        slipway_fault::point("netd.peers.led");
        Ok(())
    }

    /// The addresses of this host.
    fn here(&self) -> Result<Vec<Here>, Error> {
        let mut kernel = self.kernel();
        let links = kernel.route.links().doing(|| "list links".to_owned())?;
        let addresses = kernel.route.addresses();
        let addresses = addresses.doing(|| "list addresses".to_owned())?;
        let here = |(index, net): (u32, ipnet::IpNet)| {
            let link = links.iter().find(|link| link.index == index)?;
            Some(Here {
                address: net.addr(),
                mtu: link.mtu,
            })
        };
        Ok(addresses.into_iter().filter_map(here).collect())
    }
}

/// Whether another program has a port of udp: asked before our rules would keep its datagrams from it.
fn is_taken(port: u16) -> bool {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let is_in_use = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
    all.into_iter()
        .any(|address| UdpSocket::bind((address, port)).is_err_and(is_in_use))
}
