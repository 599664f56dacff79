//! This host's end of the tunnels of networks that span hosts.

use nix::errno::Errno;

use crate::error::{Doing as _, Error};
use crate::ipam::pools::overlap;
use crate::netlink::link;
use crate::network::{Driver, Kind, Network, Request};
use crate::overlay::{self, Here, Tunnel};
use crate::sysctl;

use super::{Host, State};

impl Host {
    /// Makes such a network of what was asked for, if this host can be one of its hosts.
    pub(super) fn plan_overlay(&self, state: &State, request: Request) -> Result<Network, Error> {
        let network = overlay::plan(request, &self.here()?)?;
        let Driver::Overlay(planned) = &network.driver else {
            return Ok(network);
        };
        let in_use = self.subnets_in_use(state)?;
        if in_use.iter().any(|used| overlap(planned.subnet, *used)) {
            return Err(Error::Overlap(planned.subnet));
        }
        for live in state.networks.values() {
            if let Driver::Overlay(other) = &live.network.driver
                && other.vni == planned.vni
            {
                return Err(Error::Invalid(format!(
                    "network {} has number {} in tunnels already: choose another by --opt vni=, on all hosts",
                    live.network.name, other.vni
                )));
            }
        }
        Ok(network)
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
        // Where it sends from cannot be changed.
        if after.here.address != before.here.address {
            self.tunnel_down(&known);
        }
        self.store.put_network(&changed)?;
        slipway_fault::point("netd.peers.recorded");
        let tunnel = self.tunnel_up(&changed)?;
        slipway_fault::point("netd.peers.led");
        if let Some(live) = state.networks.get_mut(&changed.id) {
            live.zone
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .span(&changed);
            live.network = changed.clone();
            live.tunnel = tunnel;
        }
        self.note_bridges(state);
        self.write_table(state)?;
        slipway_fault::point("netd.peers.ruled");
        Ok(changed)
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

    /// Makes the tunnel link of a network that has one and leads to its other hosts, and to no others that it may have
    /// led to before. Returns its index.
    pub(super) fn tunnel_up(&self, network: &Network) -> Result<Option<u32>, Error> {
        let Some(tunnel) = Tunnel::of(network) else {
            return Ok(None);
        };
        let what = || format!("make tunnel {} of network {}", tunnel.name, network.name);
        if self.link_index(&tunnel.name)?.is_none() {
            let made = self.kernel().route.apply(&[tunnel.create()]);
            made.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EOPNOTSUPP) => Error::Unsupported(
                    "this host's kernel has no VXLAN (CONFIG_VXLAN): overlay networks need it".to_owned(),
                ),
                Some(Errno::EEXIST) => Error::Invalid(format!(
                    "another VXLAN link of this host has number {}: choose one by --opt vni=, on all hosts",
                    tunnel.vni
                )),
                _ => Error::System {
                    what: what(),
                    source: error,
                },
            })?;
        }
        slipway_fault::point("netd.overlay.linked");
        // It carries routed packets of IPv4 only.
        let conf = format!("ipv6/conf/{}/disable_ipv6", tunnel.name);
        sysctl::ignore_missing(sysctl::write(&conf, "1")).doing(what)?;
        let Some(index) = self.link_index(&tunnel.name)? else {
            return Err(std::io::Error::from(std::io::ErrorKind::NotFound)).doing(what);
        };
        // Off and on again: without routes and neighbours of before.
        let mut requests = vec![link::set_down(index), link::set_up(index)];
        requests.extend(tunnel.lead(index));
        self.kernel().route.apply(&requests).doing(what)?;
        slipway_fault::point("netd.overlay.led");
        Ok(Some(index))
    }

    /// The same for a network that was there before: one that cannot be whole keeps no other.
    pub(super) fn tunnel_again(&self, network: &Network) -> Option<u32> {
        self.tunnel_up(network).unwrap_or_else(|error| {
            tracing::error!(network = network.name, %error, "containers here do not reach those on other hosts");
            None
        })
    }

    /// Takes it away.
    pub(super) fn tunnel_down(&self, network: &Network) {
        if let Some(tunnel) = Tunnel::of(network) {
            self.delete_link(&tunnel.name);
            slipway_fault::point("netd.unoverlay.unlinked");
        }
    }
}
