//! Forgetting connections by address (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`).
//!
//! A udp "connection" has no end: a client that goes on sending keeps the translation to a container
//! that is gone, and the next owner of the address or port would get, or miss, its packets.

use std::io;
use std::net::Ipv4Addr;

use super::socket::{Family, Socket};
use super::wire::{DUMP, Message, attributes};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const NESTED: u16 = 0x8000;
/// `struct nfgenmsg` of IPv4.
const IPV4: [u8; 4] = [2, 0, 0, 0];

/// Forgets every connection from the address, and every one that was led to it.
pub fn forget(address: Ipv4Addr) -> io::Result<usize> {
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut doomed = Vec::new();
    socket.query(&Message::new(GET, DUMP, &IPV4), true, |message| {
        let Some(body) = message.payload.get(IPV4.len()..) else {
            return;
        };
        let tuple = |kind| {
            attributes(body)
                .find(|(k, _)| *k == kind)
                .map(|(_, data)| data)
        };
        let (Some(original), Some(reply)) = (tuple(CTA_TUPLE_ORIG), tuple(CTA_TUPLE_REPLY)) else {
            return;
        };
        if source(original) == Some(address) || source(reply) == Some(address) {
            let mut delete = Message::new(DELETE, 0, &IPV4);
            delete.attr(CTA_TUPLE_ORIG | NESTED, original);
            doomed.push(delete);
        }
    })?;
    // One that ended in the meantime is answered with ENOENT: as good.
    // In portions, because every request is answered and the answers have to fit the buffer.
    for portion in doomed.chunks(50) {
        socket.request(portion)?;
    }
    Ok(doomed.len())
}

fn source(tuple: &[u8]) -> Option<Ipv4Addr> {
    let (_, ip) = attributes(tuple).find(|(kind, _)| *kind == CTA_TUPLE_IP)?;
    let (_, bytes) = attributes(ip).find(|(kind, _)| *kind == CTA_IP_V4_SRC)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}
