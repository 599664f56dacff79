//! rtnetlink(7) requests as values: neighbours, and where a tunnel leads their frames.

use std::net::IpAddr;

use super::link::{family, octets};
use super::mac::Mac;
use super::route::address;
use super::wire::{CREATE, DUMP, Message, REPLACE, Received, attributes, number};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// `struct ndmsg`.
const HEADER: usize = 12;
const AF_BRIDGE: u8 = 7;
const NTF_SELF: u8 = 0x02;
const NUD_PERMANENT: u16 = 0x80;

/// `struct ndmsg`.
fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

/// Says which Ethernet address an address has, for as long as the link is up: nobody has to be asked.
pub fn neighbour(index: u32, address: IpAddr, mac: Mac) -> Message {
    let header = header(family(address), index, NUD_PERMANENT, 0);
    let mut message = Message::new(RTM_NEWNEIGH, CREATE | REPLACE, &header);
    message
        .attr(NDA_DST, &octets(address))
        .attr(NDA_LLADDR, &mac.0);
    message
}

/// Asks who on a link has an address. Who has none itself yet asks as RFC 5227, 2.1.1 wants it.
pub fn probe(index: u32, address: IpAddr) -> Message {
    const NTF_USE: u8 = 0x01;
    let header = header(family(address), index, 0, NTF_USE);
    let mut message = Message::new(RTM_NEWNEIGH, CREATE, &header);
    message.attr(NDA_DST, &octets(address));
    message
}

/// Asks for all neighbours of a version of IP; see [`answered`].
pub fn all(like: IpAddr) -> Message {
    Message::new(RTM_GETNEIGH, DUMP, &header(family(like), 0, 0, 0))
}

/// Whether a neighbour is one on that link, with that address, that has answered.
pub fn answered(message: &Received<'_>, index: u32, address: IpAddr) -> bool {
    // NUD_REACHABLE, NUD_STALE, NUD_DELAY and NUD_PROBE.
    const ANSWERED: u16 = 0x02 | 0x04 | 0x08 | 0x10;
    let payload = message.payload;
    let state = payload.get(8..10).and_then(|state| state.try_into().ok());
    let has_address = || {
        let mut all = attributes(payload.get(HEADER..).unwrap_or_default());
        all.any(|(kind, value)| kind == NDA_DST && value == octets(address))
    };
    message.kind == RTM_NEWNEIGH
        && payload.get(4..8).and_then(number) == Some(index)
        && state
            .map(u16::from_ne_bytes)
            .is_some_and(|state| state & ANSWERED != 0)
        && has_address()
}

/// Says to which host a VXLAN link sends frames for an Ethernet address (`bridge fdb replace ... self permanent`).
pub fn tunnel_entry(index: u32, mac: Mac, host: IpAddr) -> Message {
    let header = header(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF);
    let mut message = Message::new(RTM_NEWNEIGH, CREATE | REPLACE, &header);
    message
        .attr(NDA_LLADDR, &mac.0)
        .attr(NDA_DST, &octets(host));
    message
}

/// What was said for good of an Ethernet address on a link: who has it ([`neighbour`]), or where a tunnel leads frames
/// for it ([`tunnel_entry`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Known {
    /// The Ethernet address.
    pub mac: Mac,
    /// Whose it is, or the host that it leads to.
    pub address: IpAddr,
}

impl Known {
    /// Takes back what [`neighbour`] said.
    pub fn forget_neighbour(self, index: u32) -> Message {
        let header = header(family(self.address), index, 0, 0);
        let mut message = Message::new(RTM_DELNEIGH, 0, &header);
        message.attr(NDA_DST, &octets(self.address));
        message
    }

    /// Takes back what [`tunnel_entry`] said.
    pub fn forget_tunnel_entry(self, index: u32) -> Message {
        let header = header(AF_BRIDGE, index, 0, NTF_SELF);
        let mut message = Message::new(RTM_DELNEIGH, 0, &header);
        message
            .attr(NDA_LLADDR, &self.mac.0)
            .attr(NDA_DST, &octets(self.address));
        message
    }
}

/// Asks for the entries of all tunnels and bridges; see [`known`].
pub(super) fn all_entries() -> Message {
    Message::new(RTM_GETNEIGH, DUMP, &header(AF_BRIDGE, 0, 0, 0))
}

/// What a listed neighbour or entry says for good of a link. One that leads to another port, another network or by a
/// certain link is none of ours.
pub(super) fn known(message: &Received<'_>, index: u32) -> Option<Known> {
    const NDA_PORT: u16 = 6;
    const NDA_VNI: u16 = 7;
    const NDA_IFINDEX: u16 = 8;
    let payload = message.payload;
    let state = u16::from_ne_bytes(payload.get(8..10)?.try_into().ok()?);
    let of_link = payload.get(4..8).and_then(number) == Some(index);
    if message.kind != RTM_NEWNEIGH || !of_link || state & NUD_PERMANENT == 0 {
        return None;
    }
    let (mut mac, mut to) = (None, None);
    for (kind, value) in attributes(payload.get(HEADER..)?) {
        match kind {
            NDA_LLADDR => mac = value.try_into().ok().map(Mac),
            NDA_DST => to = address(value),
            NDA_PORT | NDA_VNI | NDA_IFINDEX => return None,
            _ => {}
        }
    }
    Some(Known {
        mac: mac?,
        address: to?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::wire::hex_of;
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn as_iproute2_sends_them() {
        let mac = Mac::of([10, 20, 1, 1].into());
        // ip neighbour replace 10.20.1.1 lladdr 02:42:0a:14:01:01 dev #7 nud permanent
        assert_eq!(
            hex_of(&neighbour(7, [10, 20, 1, 1].into(), mac)),
            "300000001c0005050100000000000000\
             020000000700000080000000\
             080001000a140101\
             0a00020002420a1401010000"
        );
        // ip neighbour add 10.20.1.1 dev #7 use nud none
        assert_eq!(
            hex_of(&probe(7, [10, 20, 1, 1].into())),
            "240000001c0005040100000000000000\
             020000000700000000000100\
             080001000a140101"
        );
        // bridge fdb replace 02:42:0a:14:01:01 dev #7 dst 192.0.2.2 self permanent
        assert_eq!(
            hex_of(&tunnel_entry(7, mac, [192, 0, 2, 2].into())),
            "300000001c0005050100000000000000\
             070000000700000080000200\
             0a00020002420a1401010000\
             08000100c0000202"
        );
        // ip neighbour del 10.20.1.1 dev #7; bridge fdb del 02:42:0a:14:01:01 dev #7 dst 192.0.2.2 self
        let known = |address: [u8; 4]| Known {
            mac,
            address: address.into(),
        };
        assert_eq!(
            hex_of(&known([10, 20, 1, 1]).forget_neighbour(7)),
            "240000001d0005000100000000000000\
             020000000700000000000000\
             080001000a140101"
        );
        assert_eq!(
            hex_of(&known([192, 0, 2, 2]).forget_tunnel_entry(7)),
            "300000001d0005000100000000000000\
             070000000700000000000200\
             0a00020002420a1401010000\
             08000100c0000202"
        );
    }
}
