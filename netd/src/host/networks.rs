//! Networks as users see them: made, listed, removed.

use std::collections::HashSet;

use ipnet::IpNet;

use crate::error::{Doing as _, Error};
use crate::id::EndpointId;
use crate::ipam::{pools, ula};
use crate::network::{Direct, Kind, Network, PoolRequest, Request};
use crate::sysctl;

use super::{Attached, Host, Live, State};

/// A network with what hangs on it.
#[derive(Debug, Clone)]
pub struct Details {
    /// The network.
    pub network: Network,
    /// Its endpoints.
    pub endpoints: Vec<Attached>,
}

impl Host {
    /// Makes a network, or tells one that spans hosts of another list of them.
    pub fn create_network(&self, request: Request) -> Result<Network, Error> {
        let mut state = self.state();
        self.bring_up(&mut state)?;
        let name = request.name.as_str();
        let mut all = state.networks.values().map(Live::network);
        if let Some(known) = all.find(|network| network.name == name).cloned() {
            return self.change_overlay(&mut state, known, request);
        }
        if is_mode(name) || name == "default" {
            return Err(Error::NetworkExists(request.name));
        }
        let network = match request.kind {
            Kind::Bridge => self.plan_bridge(&state, request)?,
            Kind::Overlay => self.plan_overlay(&state, request)?,
            Kind::Macvlan => self.plan_direct(&state, request, Direct::macvlan)?,
            Kind::Ipvlan => self.plan_direct(&state, request, Direct::ipvlan)?,
        };
        let in_use = |name: &str| state.networks.values().any(|l| l.network.device == name);
        for name in [&network.device, &network.id.tunnel_link()] {
            if in_use(name) || self.link_index(name)?.is_some() {
                return Err(Error::Invalid(format!("a link {name} exists already")));
            }
        }
        self.store.put_network(&network)?;
        slipway_fault::point("netd.network.recorded");
        let made = self
            .network_up(&mut state, network.clone())
            .and_then(|()| {
                slipway_fault::fallible("netd.network.up")
                    .doing(|| "write the table of nftables".to_owned())
            })
            .and_then(|()| self.write_table(&state))
            .and_then(|()| {
                slipway_fault::point("netd.network.allowed");
                self.repair_tunnel(&mut state, &network.id)
            });
        if let Err(error) = made {
            if let Some(live) = state.networks.remove(&network.id) {
                self.tunnel_off(&live);
            }
            self.note_bridges(&state);
            // Its rules would keep what is for others who have its port from them.
            if let Err(trouble) = self.write_table(&state) {
                tracing::error!(network = network.name, error = %trouble,
                    "rules of a network that was not made are left behind");
            }
            self.forget_device(&network)?;
            return Err(error);
        }
        self.note_bridges(&state);
        slipway_fault::point("netd.network.ruled");
        Ok(network)
    }

    fn plan_bridge(&self, state: &State, request: Request) -> Result<Network, Error> {
        let in_use = self.subnets_in_use(state)?;
        let v4 = chosen(&request.v4, &in_use, || Ok(pools::first_free(&in_use)))?;
        let v6 = match &request.v6 {
            Some(pool) => Some(chosen(pool, &in_use, || {
                Ok(ula::first_free(self.store.ula_prefix()?, &in_use))
            })?),
            None => None,
        };
        must_have_ipv6(v6)?;
        request.plan(v4, v6, self.mtu()?)
    }

    /// Removes a network that nothing hangs on; `force` takes its endpoints back first.
    pub fn remove_network(&self, key: &str, force: bool) -> Result<Network, Error> {
        let mut state = self.state();
        if is_mode(key) {
            return Err(Error::Predefined(key.to_owned()));
        }
        let network = state.find(key)?.network.clone();
        if network.is_default() {
            return Err(Error::Predefined(network.name));
        }
        let on_it: Vec<_> = state
            .endpoints
            .values()
            .filter(|e| e.network == network.id)
            .cloned()
            .collect();
        if !on_it.is_empty() && !force {
            let names: Vec<_> = on_it.iter().map(|e| e.container_name.as_str()).collect();
            return Err(Error::NetworkInUse {
                name: network.name,
                containers: names.join(", "),
            });
        }
        for endpoint in on_it {
            self.release_in(&mut state, &endpoint.id)?;
        }
        self.forget_network(&mut state, &network)?;
        Ok(network)
    }

    /// Out of the kernel first: as long as the store has it, a start that follows on a kill knows of what
    /// is left of it.
    fn forget_network(&self, state: &mut State, network: &Network) -> Result<(), Error> {
        let live = state.networks.remove(&network.id);
        // Nobody sends into it without rules.
        if let Some(live) = &live {
            self.tunnel_off(live);
        }
        let unruled = slipway_fault::fallible("netd.unnetwork.begun")
            .doing(|| "write the table of nftables".to_owned())
            .and_then(|()| self.write_table(state));
        if let Err(error) = unruled {
            // It is there as before, and can be removed again.
            state
                .networks
                .extend(live.map(|live| (network.id.clone(), live)));
            if let Err(trouble) = self.repair_tunnel(state, &network.id) {
                tracing::error!(network = network.name, error = %trouble,
                    "containers here do not reach those on other hosts");
            }
            return Err(error);
        }
        self.note_bridges(state);
        slipway_fault::point("netd.unnetwork.unruled");
        self.forget_device(network)
    }

    fn forget_device(&self, network: &Network) -> Result<(), Error> {
        self.delete_link(&network.device);
        self.tunnel_down(network);
        slipway_fault::point("netd.unnetwork.deleted");
        self.store.remove_network(&network.id)?;
        slipway_fault::point("netd.unnetwork.forgotten");
        Ok(())
    }

    /// All networks, the default one included.
    pub fn networks(&self) -> Vec<Details> {
        let state = self.state();
        let ways_out = state.ways_out();
        let each = state.networks.values();
        let mut all: Vec<_> = each
            .map(|live| state.details(&live.network, &ways_out))
            .collect();
        all.sort_by(|a, b| a.network.name.cmp(&b.network.name));
        all
    }

    /// One network.
    pub fn network(&self, key: &str) -> Result<Details, Error> {
        let state = self.state();
        Ok(state.details(&state.find(key)?.network, &state.ways_out()))
    }

    /// Removes all user-defined networks that fit and that nothing hangs on.
    pub fn prune_networks(&self, fits: impl Fn(&Network) -> bool) -> Result<Vec<Network>, Error> {
        let mut removed = Vec::new();
        for details in self.networks() {
            let network = details.network;
            if network.is_default() || !details.endpoints.is_empty() || !fits(&network) {
                continue;
            }
            match self.remove_network(network.id.as_str(), false) {
                Ok(network) => removed.push(network),
                // Used or removed in the meantime: not ours to prune.
                Err(Error::NetworkInUse { .. } | Error::NoNetwork(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

/// A subnet of IPv6 is nothing to a kernel without.
pub(super) fn must_have_ipv6(v6: Option<IpNet>) -> Result<(), Error> {
    match v6.is_some() && !sysctl::has_ipv6() {
        true => Err(Error::Unsupported(
            "this kernel has no IPv6 (it may be switched off by ipv6.disable=1): leave --ipv6 out"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// What the alias of a bridge or a tunnel of ours begins with.
pub(super) const MARK: &str = "slipway:network:";

/// By it a link is known for that network's.
pub(super) fn mark_of(network: &Network) -> String {
    format!("{MARK}{}", network.id)
}

/// What is the name of a container's mode cannot be that of a network.
fn is_mode(name: &str) -> bool {
    matches!(name, "host" | "none")
}

/// The subnet asked for, or a free one.
pub(super) fn chosen(
    pool: &PoolRequest,
    in_use: &[IpNet],
    free: impl FnOnce() -> Result<Option<IpNet>, Error>,
) -> Result<IpNet, Error> {
    match pool.subnet {
        Some(subnet) if in_use.iter().any(|used| pools::overlap(subnet, *used)) => {
            Err(Error::Overlap(subnet))
        }
        Some(subnet) => Ok(subnet),
        None => free()?.ok_or(Error::PoolsExhausted),
    }
}

impl State {
    fn details(&self, network: &Network, ways_out: &HashSet<&EndpointId>) -> Details {
        let on_it = self
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == network.id);
        Details {
            network: network.clone(),
            endpoints: on_it
                .filter_map(|e| self.attached_as(e, ways_out.contains(&e.id)))
                .collect(),
        }
    }
}
