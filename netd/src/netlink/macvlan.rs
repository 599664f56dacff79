//! rtnetlink(7) requests as values: links of a container that share another link's wire.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use serde::{Deserialize, Serialize};

use super::link::{
    IFLA_ADDRESS, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO,
    IFLA_MTU, IFLA_NET_NS_FD, OURS, RTM_NEWLINK, link_header,
};
use super::mac::Mac;
use super::wire::{CREATE, EXCL, Message};

/// How links share a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Each has a MAC of its own.
    Macvlan(Macvlan),
    /// All have the MAC of the link whose wire it is, and are told apart by their addresses (mode l2).
    Ipvlan(Ipvlan),
}

/// Who sends to whom on one link (`enum macvlan_mode` in linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Macvlan {
    /// Nobody to the others.
    Private,
    /// To the others by a switch that sends back.
    Vepa,
    /// All to each other.
    Bridge,
    /// There is but one, and it has the link's own MAC.
    Passthru,
}

/// The same of ipvlan (`IPVLAN_F_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipvlan {
    /// All to each other.
    Bridge,
    /// Nobody to the others.
    Private,
    /// To the others by a switch that sends back.
    Vepa,
}

impl Share {
    /// As the kernel calls such links.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(_) => "ipvlan",
        }
    }

    /// Whether a link may have another MAC than the one whose wire it shares.
    pub fn has_own_mac(self) -> bool {
        !matches!(self, Self::Ipvlan(_) | Self::Macvlan(Macvlan::Passthru))
    }

    fn write(self, data: &mut Message) {
        const IFLA_MACVLAN_MODE: u16 = 1;
        const IFLA_IPVLAN_MODE: u16 = 1;
        const IFLA_IPVLAN_FLAGS: u16 = 2;
        const IPVLAN_MODE_L2: u16 = 0;
        match self {
            Self::Macvlan(mode) => {
                let mode = match mode {
                    Macvlan::Private => 1,
                    Macvlan::Vepa => 2,
                    Macvlan::Bridge => 4,
                    Macvlan::Passthru => 8,
                };
                data.u32(IFLA_MACVLAN_MODE, mode);
            }
            Self::Ipvlan(flag) => {
                let flags: u16 = match flag {
                    Ipvlan::Bridge => 0,
                    Ipvlan::Private => 1,
                    Ipvlan::Vepa => 2,
                };
                data.attr(IFLA_IPVLAN_MODE, &IPVLAN_MODE_L2.to_ne_bytes())
                    .attr(IFLA_IPVLAN_FLAGS, &flags.to_ne_bytes());
            }
        }
    }
}

/// A link in a namespace, on the wire of one outside.
pub struct Sharing<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of the other one, where the request is made.
    pub parent: u32,
    /// How.
    pub share: Share,
    /// Its MAC, where it may have one.
    pub mac: Mac,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Where it is to be.
    pub netns: BorrowedFd<'a>,
}

impl Sharing<'_> {
    /// Makes it, still off.
    pub fn create(&self) -> Message {
        const IFLA_LINK: u16 = 5;
        let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, &link_header(0, 0, 0));
        message.str(IFLA_IFNAME, self.name).u32(IFLA_MTU, self.mtu);
        if self.share.has_own_mac() {
            message.attr(IFLA_ADDRESS, &self.mac.0);
        }
        message
            .u32(IFLA_LINK, self.parent)
            .attr(IFLA_NET_NS_FD, &self.netns.as_raw_fd().to_ne_bytes())
            .nest(IFLA_LINKINFO, |info| {
                info.str(IFLA_INFO_KIND, self.share.kind())
                    .nest(IFLA_INFO_DATA, |data| self.share.write(data));
            });
        message
    }
}

/// Gives a link that is off its name, and says whose it is.
pub fn name(index: u32, name: &str, endpoint: &str) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
    message
        .str(IFLA_IFNAME, name)
        .str(IFLA_IFALIAS, &format!("{OURS}{endpoint}"));
    message
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn as_iproute2_sends_them() {
        let netns = std::fs::File::open("/dev/null").unwrap();
        let link = |share| {
            let link = Sharing {
                name: "sw0",
                parent: 7,
                share,
                mac: Mac::of([192, 0, 2, 9].into()),
                mtu: 1500,
                netns: netns.as_fd(),
            };
            let mut bytes = Vec::new();
            link.create().finish(1, true, &mut bytes);
            // The number of the descriptor is any.
            let fd = hex::encode(netns.as_raw_fd().to_ne_bytes());
            hex::encode(&bytes[32..]).replacen(&format!("08001c00{fd}"), "FD", 1)
        };
        // ip link add sw0 address 02:42:c0:00:02:09 mtu 1500 link #7 netns FD type macvlan mode bridge
        let name = "080003007377300008000400dc050000";
        let mac = "0a0001000242c00002090000";
        assert_eq!(
            link(Share::Macvlan(Macvlan::Bridge)),
            format!(
                "{name}{mac}0800050007000000FD\
                 1c0012800c0001006d6163766c616e000c0002800800010004000000"
            )
        );
        // ip link add sw0 mtu 1500 link #7 netns FD type macvlan mode passthru
        assert_eq!(
            link(Share::Macvlan(Macvlan::Passthru)),
            format!(
                "{name}0800050007000000FD\
                 1c0012800c0001006d6163766c616e000c0002800800010008000000"
            )
        );
        // ip link add sw0 mtu 1500 link #7 netns FD type ipvlan mode l2 vepa
        assert_eq!(
            link(Share::Ipvlan(Ipvlan::Vepa)),
            format!(
                "{name}0800050007000000FD\
                 240012800b0001006970766c616e00001400028006000100000000000600020002000000"
            )
        );
    }
}
