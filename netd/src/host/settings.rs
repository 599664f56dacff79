//! Settings of `netd.toml` that say what networks are: followed when they change, or told that they are not.

use ipnet::IpNet;

use crate::error::{Doing as _, Error};
use crate::ipam::{pools, ula};
use crate::network::{DEFAULT, Network, Request};
use crate::sysctl;

use super::{Host, State};

/// MTU of Ethernet, in bytes: more is for those who say so.
const ETHERNET: u32 = 1500;

impl Host {
    /// MTU of new networks, in bytes: no packet of a container is larger than what the host's own way out takes.
    pub(super) fn mtu(&self) -> Result<u32, Error> {
        if let Some(mtu) = self.config.mtu {
            return Ok(mtu);
        }
        let route = &mut self.kernel().route;
        let everywhere = ["0.0.0.0/0", "::/0"].map(str::parse::<IpNet>);
        let mut by = Vec::new();
        for everywhere in everywhere.into_iter().flatten() {
            let found = route.default_routes(everywhere);
            by.extend(found.doing(|| "list routes".to_owned())?);
        }
        let links = route.links().doing(|| "list links".to_owned())?;
        let out = links.iter().filter(|link| by.contains(&link.index));
        Ok(out
            .map(|link| link.mtu)
            .fold(ETHERNET, |least, mtu| least.min(mtu)))
    }

    /// Refuses what cannot be.
    pub(super) fn check_settings(&self) -> Result<(), Error> {
        let config = &self.config;
        if let (false, Some(subnet)) = (config.ipv6, config.subnet6) {
            return Err(Error::Invalid(format!(
                "netd.toml has subnet6 = \"{subnet}\": set ipv6 = true as well, or leave it out"
            )));
        }
        match config.mtu {
            Some(mtu) if !(68..=65535).contains(&mtu) => Err(Error::Invalid(format!(
                "netd.toml has mtu = {mtu}: say 68 to 65535, or leave it out"
            ))),
            _ => Ok(()),
        }
    }

    /// The default network of a host that has none.
    pub(super) fn plan_default(&self, state: &State, stored: &[Network]) -> Result<Network, Error> {
        let mut in_use = self.subnets_in_use(state)?;
        in_use.extend(stored.iter().flat_map(Network::subnets));
        let v4 = match self.config.subnet {
            Some(subnet) => subnet.into(),
            None => pools::first_free(&in_use).ok_or(Error::PoolsExhausted)?,
        };
        let v6 = match (self.config.ipv6, self.config.subnet6) {
            (false, _) => None,
            (true, Some(subnet)) => Some(subnet.into()),
            (true, None) => {
                let free = ula::first_free(self.store.ula_prefix()?, &in_use);
                Some(free.ok_or(Error::PoolsExhausted)?)
            }
        };
        self.default_of(v4, v6)
    }

    fn default_of(&self, v4: IpNet, v6: Option<IpNet>) -> Result<Network, Error> {
        let request = Request {
            name: DEFAULT.to_owned(),
            ..Request::default()
        };
        let mut network = request.plan(v4, v6, self.mtu()?)?;
        network.device.clone_from(&self.config.bridge);
        Ok(network)
    }

    /// Networks as `netd.toml` says now. Addresses change while nobody has one only.
    pub(super) fn follow_settings(
        &self,
        state: &mut State,
        stored: &mut [Network],
    ) -> Result<(), Error> {
        state.ignored.clear();
        for place in 0..stored.len() {
            let Some((before, others)) = split(stored, place) else {
                continue;
            };
            let mut after = before.clone();
            if let Some(mtu) = self.config.mtu
                && before.follows_mtu()
            {
                after.mtu = mtu;
            }
            if before.is_default() {
                after.device.clone_from(&self.config.bridge);
                if let Err(why) = self.follow_subnets(&mut after, &others)? {
                    tracing::warn!("{why}");
                    state.ignored.push(why);
                }
            }
            if after == before {
                continue;
            }
            self.store.put_network(&after)?;
            slipway_fault::point("netd.settings.recorded");
            tracing::info!(
                network = after.name,
                "is made anew as netd.toml has it now: bridge {}, subnet {}, MTU {}",
                after.device,
                after.v4.subnet,
                after.mtu
            );
            if (&after.device, after.v4.subnet) != (&before.device, before.v4.subnet)
                || after.v6 != before.v6
            {
                self.remove_bridge(&before)?;
            }
            slipway_fault::point("netd.settings.followed");
            if let Some(network) = stored.get_mut(place) {
                *network = after;
            }
        }
        Ok(())
    }

    /// The inner error says why they stay what they are.
    fn follow_subnets(
        &self,
        network: &mut Network,
        others: &[Network],
    ) -> Result<Result<(), String>, Error> {
        let config = &self.config;
        let (has4, has6) = (network.v4.subnet, network.v6.as_ref().map(|v6| v6.subnet));
        let taken: Vec<IpNet> = others.iter().flat_map(Network::subnets).collect();
        let v4 = config.subnet.map_or(has4, IpNet::from);
        let v6 = match (config.ipv6, config.subnet6) {
            (false, _) => None,
            (true, Some(subnet)) => Some(subnet.into()),
            (true, None) => match has6 {
                None => ula::first_free(self.store.ula_prefix()?, &taken),
                has => has,
            },
        };
        if (v4, v6) == (has4, has6) {
            return Ok(Ok(()));
        }
        let stays = |why: String| {
            let has = has6.map_or(String::new(), |subnet| format!(" and {subnet}"));
            Ok(Err(format!(
                "netd.toml has other subnets for network {DEFAULT} than {has4}{has}, which it keeps: {why}"
            )))
        };
        if v6.is_some() && !sysctl::has_ipv6() {
            return stays("this kernel has no IPv6".to_owned());
        }
        let overlaps = |subnet: &IpNet| taken.iter().any(|other| pools::overlap(*subnet, *other));
        if let Some(subnet) = std::iter::once(v4).chain(v6).find(overlaps) {
            return stays(format!("{subnet} overlaps with another network's"));
        }
        let endpoints = self.store.endpoints()?;
        let on_it = endpoints.iter().filter(|e| e.network == network.id);
        let names: Vec<_> = on_it.map(|e| e.container_name.as_str()).collect();
        if !names.is_empty() {
            let names = names.join(", ");
            return stays(format!(
                "containers are on it ({names}); stop them, and start netd again"
            ));
        }
        let planned = self.default_of(v4, v6)?;
        (network.v4, network.v6) = (planned.v4, planned.v6);
        Ok(Ok(()))
    }

    /// The device of a network that has another from now on. What we do not get to is an orphan by its mark.
    fn remove_bridge(&self, network: &Network) -> Result<(), Error> {
        let found = self.kernel().route.link(&network.device);
        let found = found.doing(|| format!("look for link {}", network.device))?;
        if found.is_some_and(|link| super::reconcile::is_bridge_of(&link, network)) {
            self.delete_link(&network.device);
        }
        Ok(())
    }
}

/// One, and the others.
fn split(all: &[Network], place: usize) -> Option<(Network, Vec<Network>)> {
    let others = all.iter().enumerate().filter(|(at, _)| *at != place);
    Some((
        all.get(place)?.clone(),
        others.map(|(_, other)| other.clone()).collect(),
    ))
}
