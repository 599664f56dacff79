//! rtnetlink(7) requests as values: links, addresses, routes.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use super::mac::Mac;
use super::wire::{CREATE, EXCL, Message, REPLACE};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub(super) const RTM_NEWROUTE: u16 = 24;

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
pub(super) const IFLA_NET_NS_FD: u16 = 28;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
pub(super) const IFLA_INFO_SLAVE_DATA: u16 = 5;
pub(super) const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;

pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;

pub(super) const IFF_UP: u32 = 1;
pub(super) const IFF_RUNNING: u32 = 0x40;

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

/// An address as the kernel takes it.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// `struct ifinfomsg`.
pub(super) fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A bridge device, up. A fixed MAC keeps it from taking over its lowest port's.
pub fn create_bridge(name: &str, mac: Mac, mtu: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, &link_header(0, IFF_UP, IFF_UP));
    message
        .str(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &mac.0)
        .u32(IFLA_MTU, mtu);
    message.nest(IFLA_LINKINFO, |info| {
        info.str(IFLA_INFO_KIND, "bridge");
    });
    message
}

/// A veth pair: this end up and in a bridge (or free), the other one already inside a namespace.
pub struct Veth<'a> {
    /// Name of the host's end.
    pub host: &'a str,
    /// Index of the bridge that it joins.
    pub bridge: Option<u32>,
    /// Name of the container's end.
    pub peer: &'a str,
    /// MAC of the container's end.
    pub peer_mac: Mac,
    /// Namespace of the container's end.
    pub netns: BorrowedFd<'a>,
    /// MTU of both.
    pub mtu: u32,
}

impl Veth<'_> {
    /// The one request that makes all of it.
    pub fn create(&self) -> Message {
        let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, &link_header(0, IFF_UP, IFF_UP));
        message.str(IFLA_IFNAME, self.host).u32(IFLA_MTU, self.mtu);
        if let Some(bridge) = self.bridge {
            message.u32(IFLA_MASTER, bridge);
        }
        message.nest(IFLA_LINKINFO, |info| {
            info.str(IFLA_INFO_KIND, "veth")
                .nest(IFLA_INFO_DATA, |data| {
                    data.nest_after(VETH_INFO_PEER, &link_header(0, 0, 0), |peer| {
                        peer.str(IFLA_IFNAME, self.peer)
                            .attr(IFLA_ADDRESS, &self.peer_mac.0)
                            .u32(IFLA_MTU, self.mtu)
                            .attr(IFLA_NET_NS_FD, &self.netns.as_raw_fd().to_ne_bytes());
                    });
                });
        });
        message
    }
}

/// Switches a link on.
pub fn set_up(index: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP))
}

/// Switches a link off.
pub fn set_down(index: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &link_header(index, 0, IFF_UP))
}

/// Takes an address from a link.
pub fn remove_address(index: u32, address: IpAddr, subnet: IpNet) -> Message {
    let mut header = [0; 8];
    header[0] = family(address);
    header[1] = subnet.prefix_len();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(RTM_DELADDR, 0, &header);
    message.attr(IFA_LOCAL, &octets(address));
    message
}

/// Gives a link another MTU, in bytes.
pub fn set_mtu(index: u32, mtu: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
    message.u32(IFLA_MTU, mtu);
    message
}

/// Gives a link another MAC.
pub fn set_mac(index: u32, mac: Mac) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
    message.attr(IFLA_ADDRESS, &mac.0);
    message
}

/// Writes on a link whose it is (ip-link(8)).
pub fn set_alias(index: u32, alias: &str) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
    message.str(IFLA_IFALIAS, alias);
    message
}

/// Puts a link into a bridge.
pub fn set_master(index: u32, bridge: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
    message.u32(IFLA_MASTER, bridge);
    message
}

/// What the alias of a link of ours begins with.
pub const OURS: &str = "slipway:";

/// Says whose a host's end is (its alias, ip-link(8), which begins with [`OURS`]), and lets its bridge send a frame back through the port that it
/// came by: with br_netfilter, a packet from a container to its own published port is translated and bridged right
/// back to it.
pub fn mark(name: &str, alias: &str) -> Message {
    const IFLA_INFO_SLAVE_KIND: u16 = 4;
    let mut message = Message::new(RTM_NEWLINK, 0, &link_header(0, 0, 0));
    message.str(IFLA_IFNAME, name).str(IFLA_IFALIAS, alias);
    message.nest(IFLA_LINKINFO, |info| {
        info.str(IFLA_INFO_SLAVE_KIND, "bridge")
            .nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attr(IFLA_BRPORT_MODE, &[1]);
            });
    });
    message
}

/// Deletes a link; of a veth pair the other end goes too.
pub fn delete(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0, &link_header(index, 0, 0))
}

/// The group of links that are about to go: a number that nobody else has a use for.
const DOOMED: u32 = 0x736c_7077;

/// Puts a link into the group that goes with [`delete_doomed`]. Not by RTM_NEWLINK, which takes a link that is
/// gone for the wish to change the whole group (rtnl_group_changelink before Linux 5.17).
pub fn set_doomed(name: &str) -> Message {
    let mut message = Message::new(RTM_SETLINK, 0, &link_header(0, 0, 0));
    message.str(IFLA_IFNAME, name).u32(IFLA_GROUP, DOOMED);
    message
}

/// Deletes them all: the kernel waits once for its readers, not once a link (rtnl_group_dellink).
pub fn delete_doomed() -> Message {
    let mut message = Message::new(RTM_DELLINK, 0, &link_header(0, 0, 0));
    message.u32(IFLA_GROUP, DOOMED);
    message
}

/// Gives a link an address with its subnet. One of IPv6 can be used at once: who hands it out knows that nobody has it,
/// so that the kernel need not ask for a second first (RFC 4862, 5.4).
pub fn add_address(index: u32, address: IpAddr, subnet: IpNet) -> Message {
    const IFA_F_NODAD: u8 = 0x02;
    let mut header = [0; 8];
    header[0] = family(address);
    header[1] = subnet.prefix_len();
    header[2] = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(RTM_NEWADDR, CREATE | EXCL, &header);
    message
        .attr(IFA_LOCAL, &octets(address))
        .attr(IFA_ADDRESS, &octets(address));
    if address.is_ipv4() && subnet.prefix_len() < 31 {
        message.attr(IFA_BROADCAST, &octets(subnet.broadcast()));
    }
    message
}

/// `struct rtmsg` of a unicast route in the main table.
pub(super) fn route_header(destination: IpNet) -> [u8; 12] {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_BOOT: u8 = 3;
    const RT_SCOPE_UNIVERSE: u8 = 0;
    const RTN_UNICAST: u8 = 1;
    [
        family(destination.addr()),
        destination.prefix_len(),
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]
}

/// A route to a destination (`0.0.0.0/0` or `::/0` = the default route) by way of a gateway.
pub fn add_route(destination: IpNet, gateway: IpAddr, index: u32) -> Message {
    route(CREATE | EXCL, destination, gateway, index)
}

/// The same in the place of the one that leads there now, if any does.
pub fn replace_route(destination: IpNet, gateway: IpAddr, index: u32) -> Message {
    route(CREATE | REPLACE, destination, gateway, index)
}

/// Takes away what leads to a destination by a link.
pub fn remove_route(destination: IpNet, index: u32) -> Message {
    const RTM_DELROUTE: u16 = 25;
    const RT_SCOPE_NOWHERE: u8 = 255;
    let mut header = route_header(destination);
    // Whoever made it, of whichever scope and type (ip-route(8)).
    (header[5], header[6], header[7]) = (0, RT_SCOPE_NOWHERE, 0);
    let mut message = Message::new(RTM_DELROUTE, 0, &header);
    message
        .attr(RTA_DST, &octets(destination.network()))
        .u32(RTA_OIF, index);
    message
}

/// The route to a link's own subnet, as the kernel makes it with the address: of who has taken it away alone.
pub fn add_own_route(index: u32, address: IpAddr, subnet: IpNet) -> Message {
    const RTPROT_KERNEL: u8 = 2;
    const RT_SCOPE_LINK: u8 = 253;
    /// `IP6_RT_PRIO_ADDRCONF`
    const ADDRCONF: u32 = 256;
    let mut header = route_header(subnet);
    header[5] = RTPROT_KERNEL;
    if address.is_ipv4() {
        header[6] = RT_SCOPE_LINK;
    }
    let mut message = Message::new(RTM_NEWROUTE, CREATE | EXCL, &header);
    message
        .attr(RTA_DST, &octets(subnet.network()))
        .u32(RTA_OIF, index);
    match address {
        IpAddr::V4(_) => message.attr(RTA_PREFSRC, &octets(address)),
        IpAddr::V6(_) => message.u32(RTA_PRIORITY, ADDRCONF),
    };
    message
}

fn route(flags: u16, destination: IpNet, gateway: IpAddr, index: u32) -> Message {
    let mut message = Message::new(RTM_NEWROUTE, flags, &route_header(destination));
    if destination.prefix_len() > 0 {
        message.attr(RTA_DST, &octets(destination.network()));
    }
    message
        .attr(RTA_GATEWAY, &octets(gateway))
        .u32(RTA_OIF, index);
    message
}
