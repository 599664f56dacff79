//! Noticing that somebody changed our table, took a bridge away or switched forwarding off, and putting it right; a
//! host whose table cannot be put back is closed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::error::{Doing, Error};
use crate::firewall::TABLE;
use crate::id::{EndpointId, HOST_LINK_PREFIX};
use crate::netlink::wire::{Received, attributes, number, text};
use crate::netlink::{Family, Mac, Socket, link};
use crate::nft::{TABLE_EVENTS, is_event_of, is_foreign_chain};
use crate::overlay::Tunnel;
use crate::sysctl;

use super::reconcile::FORWARDING;
use super::repair::whole;
use super::{Host, Live, State};

/// After a repair: changes come in bursts (a flush is many), and one repair is enough for what comes meanwhile.
const REST: Duration = Duration::from_millis(100);

/// Until a repair that failed is tried again: longer each time, up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// After so many failures our bridges are switched off until one succeeds.
const FAILURES: u32 = 3;

const AF_INET6: u8 = 10;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`, `RTNLGRP_IPV4_NETCONF` and `RTNLGRP_IPV6_NETCONF` as a
/// bit mask (`linux/rtnetlink.h`).
const LINK_EVENTS: u32 = 1 | 1 << 4 | 1 << 8 | 1 << 23 | 1 << 24;

/// Indexes of our bridges and tunnels, with the MTU and the MAC that they should have.
pub(super) type Bridges = BTreeMap<u32, (u32, Mac)>;

/// What is damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Damage {
    table: bool,
    links: bool,
    /// Others may have changed what the host drops.
    policy: bool,
    /// Links that are gone, off or in no bridge, and that are called as hosts' ends of ours are: usually those of
    /// containers that have just ended, or are just beginning.
    ends: Vec<String>,
}

impl Damage {
    fn all() -> Self {
        Self {
            table: true,
            links: true,
            policy: true,
            ends: Vec::new(),
        }
    }

    fn is_any(&self) -> bool {
        self.table || self.links || self.policy || !self.ends.is_empty()
    }
}

/// Sockets that hear of changes from when they were opened.
#[derive(Debug)]
pub struct Watch {
    tables: AsyncFd<Socket>,
    links: AsyncFd<Socket>,
}

impl Watch {
    /// Opens them in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            tables: ready(Socket::open_with_groups(Family::Netfilter, TABLE_EVENTS)?)?,
            links: ready(Socket::open_with_groups(Family::Route, LINK_EVENTS)?)?,
        })
    }

    /// Waits for damage.
    async fn next(&mut self, host: &Host, own_port: u32) -> io::Result<Damage> {
        loop {
            let mut damage = Damage::default();
            tokio::select! {
                read = read(&mut self.tables, |event| {
                    damage.table |= event.port != own_port && is_event_of(TABLE, event);
                    damage.policy |= is_foreign_chain(TABLE, event);
                }) => damage.table |= read?,
                read = read(&mut self.links, |event| {
                    damage.links |= is_damage(event, &host.bridges());
                    damage.ends.extend(loose_end(event));
                }) => damage.links |= read?,
            }
            if damage.is_any() {
                return Ok(damage);
            }
        }
    }
}

fn ready(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; our socket owns the one descriptor it has"
    )]
    AsyncFd::new(socket)
}

/// Reads what has come. True: something was lost, so anything may have happened.
async fn read(
    socket: &mut AsyncFd<Socket>,
    mut each: impl FnMut(&Received<'_>),
) -> io::Result<bool> {
    let mut ready = socket.readable_mut().await?;
    match ready.get_inner_mut().notifications(|event| each(&event)) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            ready.clear_ready();
            Ok(false)
        }
        // ENOBUFS.
        Err(_) => Ok(true),
    }
}

fn is_off(payload: &[u8]) -> bool {
    const IFF_UP: u32 = 1;
    let flags: Option<u32> = payload.get(8..12).and_then(number);
    flags.is_some_and(|flags| flags & IFF_UP == 0)
}

/// The name of a host's end, maybe of ours, that has no part in a bridge any more.
fn loose_end(event: &Received<'_>) -> Option<String> {
    const AF_BRIDGE: u8 = 7;
    if !matches!(event.kind, RTM_NEWLINK | RTM_DELLINK) || event.payload.first() == Some(&AF_BRIDGE)
    {
        return None;
    }
    let told = || attributes(event.payload.get(LINK_HEADER..).unwrap_or_default());
    let (_, name) = told().find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = text(name);
    let is_in_place = event.kind == RTM_NEWLINK
        && !is_off(event.payload)
        && told().any(|(kind, _)| kind == IFLA_MASTER);
    (name.starts_with(HOST_LINK_PREFIX) && !is_in_place).then_some(name)
}

/// A bridge or tunnel of ours is gone, off or without an address, or a setting of the host's changed.
fn is_damage(event: &Received<'_>, bridges: &Bridges) -> bool {
    const RTM_NEWADDR: u16 = 20;
    const RTM_DELADDR: u16 = 21;
    const RTM_NEWNETCONF: u16 = 80;
    let payload = event.payload;
    // `struct ifinfomsg` and `struct ifaddrmsg` have it at the same place.
    let index = || payload.get(4..8).and_then(number);
    let is_ours = || index().is_some_and(|index| bridges.contains_key(&index));
    let has_changed = || {
        let (mtu, mac) = index().and_then(|index| bridges.get(&index))?;
        let mut told = attributes(payload.get(LINK_HEADER..)?);
        told.find(|(kind, value)| match *kind {
            IFLA_ADDRESS => *value != mac.0,
            IFLA_MTU => number(value) != Some(*mtu),
            _ => false,
        })
    };
    match event.kind {
        // What a bridge says of its ports has its own family, and their indexes.
        RTM_NEWLINK => is_ours() && (is_off(payload) || has_changed().is_some()),
        RTM_DELLINK | RTM_DELADDR => is_ours(),
        // A link that others may reach us by from now on: it has to forward, too.
        RTM_NEWADDR => payload.starts_with(&[AF_INET6]) && payload.get(3) == Some(&0) && !is_ours(),
        RTM_NEWNETCONF if payload.starts_with(&[AF_INET6]) => may_stop_forwarding(payload),
        RTM_NEWNETCONF => sysctl::read(FORWARDING).is_ok_and(|value| value == "0"),
        _ => false,
    }
}

/// Whether some setting of IPv6 that lets packets through may have been switched off. Of `force_forwarding` the kernel
/// tells no more than the link (6.18); of a new link it tells everything, and that is no change.
fn may_stop_forwarding(payload: &[u8]) -> bool {
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_FORWARDING: u16 = 2;
    const NETCONFA_PROXY_NEIGH: u16 = 5;
    const NETCONFA_FORCE_FORWARDING: u16 = 9;
    let told = || attributes(payload.get(4..).unwrap_or_default());
    let is_off = |(kind, value): (u16, &[u8])| {
        matches!(kind, NETCONFA_FORWARDING | NETCONFA_FORCE_FORWARDING) && number(value) == Some(0)
    };
    let only_link = || told().all(|(kind, _)| kind == NETCONFA_IFINDEX);
    let all = || told().any(|(kind, _)| kind == NETCONFA_PROXY_NEIGH);
    only_link() || (told().any(is_off) && !all())
}

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
    fn bridges(&self) -> Bridges {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_harms_us_is_damage() {
        let bridges = BTreeMap::from([(7, (1500, Mac([2; 6])))]);
        let event = |kind: u16, index: u32, flags: u32| {
            let mut payload = vec![0; 16];
            payload[4..8].copy_from_slice(&index.to_ne_bytes());
            payload[8..12].copy_from_slice(&flags.to_ne_bytes());
            let event = Received {
                kind,
                sequence: 0,
                port: 0,
                payload: &payload,
            };
            is_damage(&event, &bridges)
        };
        assert!(event(17, 7, 1) && event(21, 7, 0) && event(16, 7, 0));
        let change = |kind: u8, value: [u8; 4]| {
            let mut payload = vec![0; 16];
            payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
            payload[8..12].copy_from_slice(&1_u32.to_ne_bytes());
            payload.extend([8, 0, kind, 0]);
            payload.extend(value);
            let event = Received {
                kind: 16,
                sequence: 0,
                port: 0,
                payload: &payload,
            };
            is_damage(&event, &bridges)
        };
        assert!(change(4, 1400_u32.to_ne_bytes()) && !change(4, 1500_u32.to_ne_bytes()));
        assert!(!event(17, 8, 1) && !event(16, 7, 1) && !event(16, 8, 0) && !event(20, 7, 0));
        // `struct ifaddrmsg`: family, prefix, flags, scope (0 = everywhere, 253 = the link), link.
        let address = |family: u8, scope: u8, index: u8| {
            let event = Received {
                kind: 20,
                sequence: 0,
                port: 0,
                payload: &[family, 64, 0, scope, index, 0, 0, 0],
            };
            is_damage(&event, &bridges)
        };
        assert!(address(10, 0, 8));
        assert!(!address(10, 0, 7) && !address(10, 253, 8) && !address(2, 0, 8));
    }

    #[test]
    fn a_link_that_forwards_no_more_is_noticed_and_a_new_one_is_not() {
        // `struct netconfmsg`, and settings: NETCONFA_FORCE_FORWARDING, NETCONFA_PROXY_NEIGH.
        let setting = |kind: u8, value: u8| [8, 0, kind, 0, value, 0, 0, 0];
        let told = |settings: &[[u8; 8]]| {
            let payload = [[10, 0, 0, 0].as_slice(), settings.concat().as_slice()].concat();
            may_stop_forwarding(&payload)
        };
        assert!(told(&[setting(9, 0)]) && told(&[setting(2, 0)]) && told(&[setting(1, 7)]));
        assert!(!told(&[setting(9, 1)]) && !told(&[setting(4, 0)]));
        assert!(
            !told(&[setting(2, 0), setting(5, 0)]),
            "all of a new link's"
        );
    }
}
