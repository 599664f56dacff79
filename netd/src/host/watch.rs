//! What the kernel says when somebody changes something, and which of it is damage.

use std::collections::BTreeMap;
use std::io;

use tokio::io::unix::AsyncFd;

use crate::firewall::TABLE;
use crate::id::HOST_LINK_PREFIX;
use crate::netlink::wire::{Received, attributes, number, text};
use crate::netlink::{Family, Mac, Socket};
use crate::nft::{TABLE_EVENTS, is_event_of, is_foreign_chain};
use crate::sysctl;

use super::Host;
use super::reconcile::FORWARDING;

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
pub(super) struct Damage {
    pub table: bool,
    pub links: bool,
    /// Others may have changed what the host drops.
    pub policy: bool,
    /// Links that are gone, off or in no bridge, and that are called as hosts' ends of ours are: usually those of
    /// containers that have just ended, or are just beginning.
    pub ends: Vec<String>,
}

impl Damage {
    pub fn all() -> Self {
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
    pub(super) async fn next(&mut self, host: &Host, own_port: u32) -> io::Result<Damage> {
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
