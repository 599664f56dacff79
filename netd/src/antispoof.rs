//! What table `bridge slipway` says: which frames a container may give to its bridge, as a pure function.
//!
//! A container's link speaks for one MAC and for the addresses that go with it. All else is dropped where it comes in,
//! before the bridge learns from it: another's MAC, ARP or neighbour advertisements for another's address, another's
//! source address, answers of DHCP, router advertisements, redirects, IPv6 where the network has none, and whatever is
//! neither IP nor ARP (a frame with a tag of 802.1Q, too). Links that are none of ours are passed over.
//!
//! One element a set for each endpoint, and hashes: a frame costs the same, however many endpoints there are.

use std::net::{IpAddr, Ipv6Addr};

use crate::firewall::{Ownership, TABLE};
use crate::ipam::DualStack;
use crate::netlink::{Mac, octets};
use crate::nft::{
    Batch, Chain,
    Compare::IsNot,
    DataType, Element, Hook,
    IpVersion::{V4, V6},
    Rule, Set, Verdict, link_name, register,
};
use crate::ports::Protocol;

/// Links of ours.
const PORTS: &str = "ports";
/// With their MACs.
const MACS: &str = "macs";
/// And with their addresses.
const OWN4: &str = "own4";
const OWN6: &str = "own6";

const FRAMES: &str = "frames";
const FROM4: &str = "from4";
const FROM6: &str = "from6";

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Ports that servers of DHCP answer from (RFC 2131, 4.1; RFC 8415, 7.2).
const DHCP: u16 = 67;
const DHCPV6: u16 = 547;

/// RFC 792.
const REDIRECT: u8 = 5;
/// RFC 4861, 4.2, 4.4 and 4.5.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT6: u8 = 137;

/// Before all others; br_netfilter comes at 0 (`NF_BR_PRI_BRNF`).
const FIRST: i32 = -300;

/// An endpoint as its bridge sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    /// The host's end of its veth pair.
    pub link: String,
    /// The MAC of the other end.
    pub mac: Mac,
    /// The addresses there.
    pub address: DualStack,
}

impl Station {
    fn sender(&self) -> Vec<u8> {
        let mut key = link_name(&self.link);
        key.extend(register(&self.mac.0));
        key
    }

    fn with(&self, address: IpAddr) -> Element {
        let mut key = self.sender();
        key.extend(octets(address));
        Element::member(key)
    }

    /// Beside its own: the link-local address that its kernel makes of the MAC, and none at all, as neighbours have
    /// while they join groups and look whether somebody has an address (RFC 4862, 5.4.2; RFC 3590).
    fn own6(&self) -> Vec<Element> {
        let addresses = self.address.v6.map(|own| {
            [
                own,
                self.mac.link_local().into(),
                Ipv6Addr::UNSPECIFIED.into(),
            ]
        });
        let all = addresses.into_iter().flatten();
        all.map(|address| self.with(address)).collect()
    }
}

/// The elements of some stations, by set.
fn elements<'a>(
    stations: impl Iterator<Item = &'a Station> + Clone,
) -> [(&'static str, Vec<Element>); 4] {
    let each = |element: fn(&Station) -> Element| stations.clone().map(element).collect();
    [
        (
            PORTS,
            each(|station| Element::member(link_name(&station.link))),
        ),
        (MACS, each(|station| Element::member(station.sender()))),
        (OWN4, each(|station| station.with(station.address.v4))),
        (OWN6, stations.clone().flat_map(Station::own6).collect()),
    ]
}

/// From now on the station may send, as itself.
pub fn admit(station: &Station) -> Batch {
    let mut batch = Batch::of_bridges(TABLE);
    for (set, elements) in elements(std::iter::once(station)) {
        batch.add(set, &elements);
    }
    batch
}

/// Nothing is known of these links any more: they must be gone.
pub fn dismiss<'a>(stations: impl Iterator<Item = &'a Station> + Clone) -> Batch {
    let mut batch = Batch::of_bridges(TABLE);
    for (set, elements) in elements(stations) {
        batch.remove(set, &elements);
    }
    batch
}

/// Takes the table away.
pub fn remove(ownership: Ownership) -> Batch {
    let mut batch = Batch::of_bridges(TABLE);
    match ownership {
        Ownership::Owned | Ownership::Taken => batch.destroy_table(),
        // Made first, so that its absence is no error.
        Ownership::Shared => batch.table().delete_table(),
    };
    batch
}

/// Replaces the whole table, in one step for every frame.
pub fn replace<'a>(
    stations: impl Iterator<Item = &'a Station> + Clone,
    ownership: Ownership,
) -> Batch {
    let mut batch = remove(ownership);
    match ownership {
        Ownership::Owned => batch.own_table(),
        Ownership::Taken | Ownership::Shared => batch.table(),
    };
    use DataType::{Ipv4, Ipv6, LinkName, Mac};
    for (name, key) in [
        (PORTS, [LinkName].as_slice()),
        (MACS, &[LinkName, Mac]),
        (OWN4, &[LinkName, Mac, Ipv4]),
        (OWN6, &[LinkName, Mac, Ipv6]),
    ] {
        batch.set(Set {
            name,
            key,
            value: &[],
            interval: false,
        });
    }
    for (set, elements) in elements(stations) {
        batch.add(set, &elements);
    }
    for (name, hook) in [
        (FROM4, None),
        (FROM6, None),
        (
            FRAMES,
            Some(Hook {
                kind: "filter",
                number: 0,
                priority: FIRST,
            }),
        ),
    ] {
        batch.chain(Chain { name, hook });
    }
    rules(&mut batch);
    batch
}

fn rules(batch: &mut Batch) {
    let frame = || Rule::on(FRAMES);
    batch
        // Nearly all that comes by, so that it is first.
        .rule(
            frame()
                .ether_type(ETH_P_IP)
                .sent_from(V4, OWN4)
                .then(Verdict::Jump(FROM4.into())),
        )
        .rule(frame().input_in(IsNot, PORTS).then(Verdict::Accept))
        .rule(
            frame()
                .ether_type(ETH_P_IPV6)
                .sent_from(V6, OWN6)
                .then(Verdict::Jump(FROM6.into())),
        )
        .rule(
            frame()
                .ether_type(ETH_P_ARP)
                .sent_by(MACS)
                .arp_of(OWN4)
                .then(Verdict::Accept),
        )
        .rule(
            frame()
                .ether_type(ETH_P_ARP)
                .sent_by(MACS)
                .arp_probe()
                .then(Verdict::Accept),
        )
        .rule(frame().then(Verdict::Drop));

    let from4 = || Rule::on(FROM4);
    batch
        .rule(
            from4()
                .carries(Protocol::Tcp.number())
                .then(Verdict::Accept),
        )
        .rule(
            from4()
                .carries(Protocol::Udp.number())
                .source_port(DHCP)
                .then(Verdict::Drop),
        )
        .rule(from4().carries(ICMP).icmp(REDIRECT).then(Verdict::Drop))
        .rule(from4().then(Verdict::Accept));

    let from6 = || Rule::on(FROM6);
    batch.rule(
        from6()
            .carries(Protocol::Udp.number())
            .source_port(DHCPV6)
            .then(Verdict::Drop),
    );
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT6] {
        batch.rule(from6().carries(ICMPV6).icmp(kind).then(Verdict::Drop));
    }
    batch
        // Whoever asks for it learns the MAC of this address, not that of the source.
        .rule(
            from6()
                .carries(ICMPV6)
                .icmp(NEIGHBOUR_ADVERTISEMENT)
                .neighbour(IsNot, OWN6)
                .then(Verdict::Drop),
        )
        .rule(from6().then(Verdict::Accept));
}
