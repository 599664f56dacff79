//! Noticing that somebody changed our table, took a bridge away or switched forwarding off, and putting it right; a
//! host whose table cannot be put back is closed.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::firewall::TABLE;
use crate::id::EndpointId;
use crate::netlink::link;
use crate::overlay::Tunnel;

use super::repair::whole;
use super::watch::{Bridges, Damage, Watch};
use super::{Host, Live, State};

/// After a repair: changes come in bursts (a flush is many), and one repair is enough for what comes meanwhile.
const REST: Duration = Duration::from_millis(100);

/// Until a repair that failed is tried again: longer each time, up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// After so many failures our bridges are switched off until one succeeds.
const FAILURES: u32 = 3;

/// Puts things right whenever somebody else touches them. Never ends by itself.
pub async fn guard(host: Arc<Host>, mut watch: Watch) {
    loop {
        let own_port = host.nft_port();
        let damage = match &own_port {
            Ok(port) => watch.next(&host, *port).await,
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        match damage {
            Ok(damage) => mend(&host, damage).await,
            Err(error) => {
                tracing::error!(%error, "cannot hear what happens to our table and links");
                tokio::time::sleep(AGAIN.1).await;
                if let Ok(new) = Watch::open() {
                    watch = new;
                    // Nobody knows what happened meanwhile.
                    mend(&host, Damage::all()).await;
                }
            }
        }
        tokio::time::sleep(REST).await;
    }
}

async fn mend(host: &Arc<Host>, damage: Damage) {
    let (mut pause, mut failures) = (AGAIN.0, 0);
    loop {
        let (mending, mended) = (Arc::clone(host), damage.clone());
        let mended = tokio::task::spawn_blocking(move || mending.mend(&mended));
        let error = match mended.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        failures += 1;
        tracing::error!(error, failures, "cannot put right what somebody changed");
        if failures == FAILURES && damage.table {
            let closing = Arc::clone(host);
            // What cannot be switched off is told by it.
            let _ = tokio::task::spawn_blocking(move || closing.close()).await;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

impl Host {
    pub(super) fn bridges(&self) -> Bridges {
        self.bridges
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What is watched from now on.
    pub(super) fn note_bridges(&self, state: &State) {
        let bridge = |live: &Live| (live.index, (live.network.mtu, live.network.bridge_mac()));
        let tunnel = |live: &Live| {
            let mac = Tunnel::of(&live.network)?.mac();
            Some((live.tunnel?, (live.network.mtu, mac)))
        };
        let all = state.bridged();
        let all = all.flat_map(|live| [bridge(live)].into_iter().chain(tunnel(live)));
        let all = all.collect();
        *self.bridges.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    fn mend(&self, damage: &Damage) -> Result<(), Error> {
        slipway_fault::point("netd.guard.heard");
        let mut state = self.state();
        let is_ours = |name: &String| state.has_end(name);
        let is_any_else = damage.table || damage.links || damage.policy;
        let only_strangers = !is_any_else && !damage.ends.iter().any(is_ours);
        if !state.up || only_strangers {
            return Ok(());
        }
        if damage.table {
            self.write_table(&state)?;
            tracing::warn!("somebody changed table inet {TABLE}; it is put back");
        }
        if damage.policy && self.policy_changed(&state)? {
            self.write_table(&state)?;
            tracing::info!("the host's policy for input changed, and published ports follow it");
        }
        // Also those that a table that could not be written had switched off.
        let resolvers = |state: &State| {
            let all = state.networks.values();
            all.filter(|live| live.resolver.is_some()).count()
        };
        let before = resolvers(&state);
        self.repair_links(&mut state)?;
        if resolvers(&state) != before {
            self.write_table(&state)?;
        }
        if self.forward_ipv6(&state)? {
            self.write_table(&state)?;
        }
        // What is dropped depends on whether the host forwards for us only.
        if !self.repair_settings(&state).is_empty() {
            self.write_table(&state)?;
        }
        Ok(())
    }

    /// Puts a link into a bridge.
    pub(super) fn join(&self, id: &EndpointId, index: u32, bridge: u32) -> Result<(), Error> {
        let name = &id.host_link();
        let join = [
            link::set_master(index, bridge),
            link::mark(name, &whole(id)),
            link::set_up(index),
        ];
        self.kernel()
            .route
            .apply(&join)
            .doing(|| format!("put {name} into its bridge"))
    }

    fn close(&self) {
        self.switch_off(&self.state());
    }

    /// Switches our bridges off, and our tunnels: without the table their containers would be open to whoever can send to
    /// this host, and a tunnel to whoever says that he is one of its hosts.
    pub(super) fn switch_off(&self, state: &State) {
        self.kernel().ruled = false;
        let links = |live: &Live| std::iter::once(live.index).chain(live.tunnel);
        let all = state.bridged();
        for (live, index) in all.flat_map(|live| links(live).map(move |index| (live, index))) {
            let off = self.kernel().route.apply(&[link::set_down(index)]);
            match off {
                Ok(()) => tracing::error!(
                    network = live.network.name,
                    index,
                    "switched off until our table can be written"
                ),
                Err(error) => tracing::error!(network = live.network.name, index, %error,
                    "cannot be switched off while our table cannot be written"),
            }
        }
    }
}
