//! rtnetlink(7) requests as values: VXLAN links (RFC 7348) that learn nothing and flood nothing, and routes over them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::link::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, RTA_DST,
    RTA_GATEWAY, RTA_OIF, RTM_NEWLINK, RTM_NEWROUTE, link_header, octets, route_header,
};
use super::mac::Mac;
use super::route::address;
use super::wire::{CREATE, EXCL, Message, REPLACE, attributes, number};

/// The port that IANA gave it.
pub const PORT: u16 = 4789;

/// A VXLAN link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Number of the network that it carries, 24 bits.
    pub vni: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The address of this host that it sends from.
    pub local: IpAddr,
    /// MTU inside of the tunnel.
    pub mtu: u32,
}

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// What cannot be changed of a VXLAN link once it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// See [`Vxlan::vni`].
    pub vni: u32,
    /// See [`Vxlan::local`].
    pub local: Option<IpAddr>,
    /// Where frames are sent to and taken from: [`PORT`], on a link of ours.
    pub port: u16,
}

/// As the kernel lists it (`IFLA_INFO_DATA`).
pub(super) fn carried(data: &[u8]) -> Carried {
    let mut carried = Carried {
        vni: 0,
        local: None,
        port: 0,
    };
    for (kind, value) in attributes(data) {
        match kind {
            IFLA_VXLAN_ID => carried.vni = number(value).unwrap_or_default(),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => carried.local = address(value),
            IFLA_VXLAN_PORT => {
                carried.port = value.try_into().map_or(0, u16::from_be_bytes);
            }
            _ => {}
        }
    }
    carried
}

impl Vxlan<'_> {
    /// Makes it, still off.
    pub fn create(&self) -> Message {
        let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, &link_header(0, 0, 0));
        message
            .str(IFLA_IFNAME, self.name)
            .attr(IFLA_ADDRESS, &self.mac.0)
            .u32(IFLA_MTU, self.mtu);
        let local = match self.local {
            IpAddr::V4(_) => IFLA_VXLAN_LOCAL,
            IpAddr::V6(_) => IFLA_VXLAN_LOCAL6,
        };
        message.nest(IFLA_LINKINFO, |info| {
            info.str(IFLA_INFO_KIND, "vxlan")
                .nest(IFLA_INFO_DATA, |data| {
                    data.u32(IFLA_VXLAN_ID, self.vni)
                        .attr(local, &octets(self.local))
                        .attr(IFLA_VXLAN_LEARNING, &[0])
                        .attr(IFLA_VXLAN_PORT, &PORT.to_be_bytes());
                });
        });
        message
    }
}

/// Leads to a destination by a gateway that is on the link though no address of ours is, from an address of ours that
/// is elsewhere.
pub fn replace_route(destination: IpNet, gateway: IpAddr, source: IpAddr, index: u32) -> Message {
    const RTA_PREFSRC: u16 = 7;
    const RTNH_F_ONLINK: u32 = 4;
    let mut header = route_header(destination);
    header[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    let mut message = Message::new(RTM_NEWROUTE, CREATE | REPLACE, &header);
    message
        .attr(RTA_DST, &octets(destination.network()))
        .attr(RTA_GATEWAY, &octets(gateway))
        .attr(RTA_PREFSRC, &octets(source))
        .u32(RTA_OIF, index);
    message
}

#[cfg(test)]
mod tests {
    use super::super::wire::hex_of;
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn as_iproute2_sends_them() {
        let link = |local| {
            let link = Vxlan {
                name: "svx0",
                vni: 0x0a_0b_0c,
                mac: Mac::of([10, 20, 0, 1].into()),
                local,
                mtu: 1450,
            };
            hex_of(&link.create())
        };
        // ip link add svx0 address 02:42:0a:14:00:01 mtu 1450 type vxlan id 658188 local 192.0.2.1 nolearning dstport 4789
        let head = "0100000000000000\
             00000000000000000000000000000000\
             0900030073767830000000000a00010002420a14000100000800\
             0400aa050000";
        assert_eq!(
            link([192, 0, 2, 1].into()),
            format!(
                "7400000010000506{head}34001280\
                 0a00010076786c616e000000\
                 24000280\
                 080001000c0b0a00\
                 08000400c0000201\
                 0500070000000000\
                 06000f0012b50000"
            )
        );
        assert_eq!(
            link("2001:db8::1".parse().unwrap()),
            format!(
                "8000000010000506{head}40001280\
                 0a00010076786c616e000000\
                 30000280\
                 080001000c0b0a00\
                 1400110020010db8000000000000000000000001\
                 0500070000000000\
                 06000f0012b50000"
            )
        );
        // ip route replace 10.20.1.0/24 via 10.20.1.1 src 10.20.0.1 dev #7 onlink
        let slice = "10.20.1.0/24".parse().unwrap();
        let ours = [10, 20, 0, 1].into();
        assert_eq!(
            hex_of(&replace_route(slice, [10, 20, 1, 1].into(), ours, 7)),
            "3c000000180005050100000000000000\
             02180000fe03000104000000\
             080001000a140100\
             080005000a140101\
             080007000a140001\
             0800040007000000"
        );
    }
}
