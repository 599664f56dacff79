//! This host's end of the tunnels of networks that span hosts: made off, and switched on when our table says who may
//! send into it.

use std::io;

use nix::errno::Errno;

use crate::error::{Doing as _, Error};
use crate::id::NetworkId;
use crate::netlink::{Link, Route, link, vxlan, wireguard};
use crate::network::Network;
use crate::overlay::{Carrier, Led, Tunnel};
use crate::sysctl;

use super::networks::mark_of;
use super::{Host, Live, State};

impl Host {
    /// Makes the tunnel link of a network that has one, and leads by it to its other hosts, and to nobody else, if our
    /// table is in the kernel; else that is done after it. One that is right is not touched. Returns its index.
    pub(super) fn tunnel_up(&self, network: &Network) -> Result<Option<u32>, Error> {
        let index = self.tunnel_link(network)?;
        let ruled = self.kernel().ruled;
        if let (Some(tunnel), Some(index), true) = (Tunnel::of(network), index, ruled) {
            let what = || format!("lead by tunnel {} of network {}", tunnel.name, network.name);
            if tunnel.is_encrypted() {
                self.encrypt(&tunnel, index)?;
            }
            let led = self.lead(&tunnel, index);
            led.map_err(|error| refused(tunnel.carrier, error, what))?;
            slipway_fault::point("netd.overlay.led");
        }
        Ok(index)
    }

    /// Only makes it: a new one is off.
    pub(super) fn tunnel_link(&self, network: &Network) -> Result<Option<u32>, Error> {
        let Some(tunnel) = Tunnel::of(network) else {
            return Ok(None);
        };
        let what = || format!("make tunnel {} of network {}", tunnel.name, network.name);
        let find = || {
            let found = self.kernel().route.link(&tunnel.name);
            found.doing(|| format!("look for link {}", tunnel.name))
        };
        if let Some(fence) = tunnel.fence() {
            let raised = self.kernel().route.apply_idempotent(&[fence]);
            raised.doing(what)?;
            slipway_fault::point("netd.encrypt.fenced");
        }
        let mut found = find()?;
        if let Some(wrong) = found.as_ref().and_then(|link| tunnel.refuses(link)) {
            tracing::info!(tunnel = tunnel.name, "is made anew: it {wrong}");
            self.delete_link(&tunnel.name);
            found = None;
        }
        if found.is_none() {
            let made = self.kernel().route.apply(&[tunnel.create()]);
            made.map_err(|error| refused(tunnel.carrier, error, what))?;
            slipway_fault::point("netd.overlay.linked");
            found = find()?;
        }
        let found = found.ok_or(io::ErrorKind::NotFound);
        let found = found.map_err(io::Error::from).doing(what)?;
        // It carries routed packets of IPv4 only.
        let conf = format!("ipv6/conf/{}/disable_ipv6", tunnel.name);
        sysctl::ignore_missing(sysctl::write(&conf, "1")).doing(what)?;
        let mut changes = Vec::new();
        // By it one is found that nobody's record speaks of.
        let mark = mark_of(network);
        if found.alias != mark {
            changes.push(link::set_alias(found.index, &mark));
        }
        if found.mtu != tunnel.mtu {
            changes.push(link::set_mtu(found.index, tunnel.mtu));
        }
        if !changes.is_empty() {
            self.kernel().route.apply(&changes).doing(what)?;
        }
        Ok(Some(found.index))
    }

    /// Tells a link its key and its hosts, if it has been told otherwise. What hosts have agreed upon stays, and so do
    /// connections.
    fn encrypt(&self, tunnel: &Tunnel, index: u32) -> Result<(), Error> {
        let what = || format!("encrypt tunnel {}", tunnel.name);
        let Carrier::WireGuard { port } = tunnel.carrier else {
            return Ok(());
        };
        let own = self.store.key()?;
        if tunnel.disowns(own.public()).is_some() {
            return Err(Error::Invalid(format!(
                "this host's key is {}, and its network's list has another: make the network again with this one",
                own.public()
            )));
        }
        let led = led(&mut self.kernel().route, tunnel, index).doing(what)?;
        if tunnel.mistold(&led).is_some() {
            let told = wireguard::Client::open()
                .and_then(|mut link| link.tell(index, own.bytes(), port, &tunnel.ends()));
            told.map_err(|error| refused(tunnel.carrier, error, what))?;
        }
        slipway_fault::point("netd.encrypt.told");
        Ok(())
    }

    fn lead(&self, tunnel: &Tunnel, index: u32) -> io::Result<()> {
        let route = &mut self.kernel().route;
        let found = route.link(&tunnel.name)?;
        if !found.is_some_and(|link| link.up) {
            route.apply(&[link::set_up(index)])?;
        }
        let differ = tunnel.differences(index, &led(route, tunnel, index)?);
        let changes: Vec<_> = differ.into_iter().map(|(_, change)| change).collect();
        match changes.is_empty() {
            true => Ok(()),
            false => route.apply_idempotent(&changes),
        }
    }

    /// How a tunnel is not as it should be, if our table is in the kernel: before, it may be off.
    pub(super) fn wrong_with_tunnel(
        &self,
        network: &Network,
        index: Option<u32>,
        links: &[Link],
    ) -> Option<String> {
        let ruled = self.kernel().ruled;
        let tunnel = Tunnel::of(network).filter(|_| ruled)?;
        if tunnel.is_encrypted() {
            match self.store.key() {
                Ok(own) => {
                    if let Some(wrong) = tunnel.disowns(own.public()) {
                        return Some(wrong);
                    }
                }
                Err(error) => return Some(format!("cannot be compared: {error}")),
            }
        }
        let mut kernel = self.kernel();
        let found = links.iter().find(|link| link.name == tunnel.name);
        let Some(link) = found.filter(|link| Some(link.index) == index) else {
            return Some("is gone".to_owned());
        };
        if let Some(wrong) = tunnel.refuses(link) {
            return Some(wrong);
        }
        if !link.up {
            return Some("is switched off".to_owned());
        }
        if link.mtu != tunnel.mtu {
            return Some(format!("has MTU {} instead of {}", link.mtu, tunnel.mtu));
        }
        match led(&mut kernel.route, &tunnel, link.index) {
            Ok(led) => {
                let differ = tunnel.differences(link.index, &led);
                let differ = differ.into_iter().map(|(what, _)| what);
                let sentences: Vec<_> = tunnel.mistold(&led).into_iter().chain(differ).collect();
                (!sentences.is_empty()).then(|| sentences.join(", "))
            }
            Err(error) => Some(format!("cannot be looked at: {error}")),
        }
    }

    pub(super) fn repair_tunnel(&self, state: &mut State, id: &NetworkId) -> Result<(), Error> {
        if let Some(live) = state.networks.get_mut(id) {
            live.tunnel = self.tunnel_up(&live.network)?;
        }
        Ok(())
    }

    /// All tunnels lead, now that our table is in the kernel: one that cannot keeps no other.
    pub(super) fn tunnels_lead(&self, state: &mut State) {
        let ids: Vec<NetworkId> = state.networks.keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.repair_tunnel(state, &id) {
                let network = state.networks.get(&id).map(|live| &*live.network.name);
                tracing::error!(network, %error, "containers here do not reach those on other hosts");
            }
        }
        self.note_bridges(state);
    }

    /// Makes that of a network that was there before.
    pub(super) fn tunnel_again(&self, network: &Network) -> Option<u32> {
        self.tunnel_link(network).unwrap_or_else(|error| {
            tracing::error!(network = network.name, %error, "containers here do not reach those on other hosts");
            None
        })
    }

    /// Switches it off, before its rules go.
    pub(super) fn tunnel_off(&self, live: &Live) {
        let Some(index) = live.tunnel else {
            return;
        };
        let off = self
            .kernel()
            .route
            .apply_idempotent(&[link::set_down(index)]);
        if let Err(error) = off {
            tracing::error!(network = live.network.name, %error, "its tunnel cannot be switched off");
        }
    }

    /// Takes it away.
    pub(super) fn tunnel_down(&self, network: &Network) {
        if let Some(tunnel) = Tunnel::of(network) {
            self.delete_link(&tunnel.name);
            slipway_fault::point("netd.unoverlay.unlinked");
            if let Some(unfence) = tunnel.unfence()
                && let Err(error) = self.kernel().route.apply_idempotent(&[unfence])
            {
                tracing::error!(network = network.name, subnet = %tunnel.subnet, %error,
                    "a route to nowhere is left behind");
            }
        }
    }
}

pub(super) fn port_taken(port: u16) -> Error {
    Error::Invalid(format!(
        "udp port {port} of this host is taken: choose another by --opt port=, on all hosts"
    ))
}

/// Why the kernel made no tunnel, or does not lead by it.
fn refused(carrier: Carrier, error: io::Error, what: impl Fn() -> String) -> Error {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let is_missing = errno == Some(Errno::EOPNOTSUPP) || error.kind() == io::ErrorKind::Unsupported;
    match (carrier, errno) {
        (Carrier::Vxlan { .. }, _) if is_missing => Error::Unsupported(
            "this host's kernel has no VXLAN (CONFIG_VXLAN): overlay networks need it".to_owned(),
        ),
        (Carrier::WireGuard { .. }, _) if is_missing => Error::Unsupported(
            "this host's kernel has no WireGuard (CONFIG_WIREGUARD): leave --opt encrypted out on all hosts, or let \
             the hosts reach each other by a network that is encrypted itself"
                .to_owned(),
        ),
        (Carrier::Vxlan { vni }, Some(Errno::EEXIST)) => Error::Invalid(format!(
            "another VXLAN link of this host has number {vni}: choose one by --opt vni=, on all hosts"
        )),
        (Carrier::Vxlan { .. }, Some(Errno::EADDRINUSE)) => Error::Invalid(format!(
            "udp port {} of this host is taken, and frames of overlay networks come by it: end what has it",
            vxlan::PORT
        )),
        (Carrier::WireGuard { port }, Some(Errno::EADDRINUSE)) => port_taken(port),
        _ => Error::System {
            what: what(),
            source: error,
        },
    }
}

fn led(route: &mut Route, tunnel: &Tunnel, index: u32) -> io::Result<Led> {
    Ok(Led {
        routes: route.routes_by(index)?.into_iter().collect(),
        fenced: tunnel.is_encrypted() && route.routes()?.contains(&(0, tunnel.subnet)),
        told: match tunnel.is_encrypted() {
            true => wireguard::Client::open()?.device(index)?,
            false => wireguard::Device::default(),
        },
        neighbours: route
            .neighbours(index, tunnel.gateway)?
            .into_iter()
            .collect(),
        entries: route.tunnel_entries(index)?.into_iter().collect(),
    })
}
