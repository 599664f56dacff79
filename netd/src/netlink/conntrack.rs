//! Forgetting connections by address (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`).
//!
//! A udp "connection" has no end: a client that goes on sending keeps the translation to a container
//! that is gone, and the next owner of the address or port would get, or miss, its packets.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::route::address;
use super::socket::{Family, Socket};
use super::wire::{DUMP, Message, attributes};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
const NESTED: u16 = 0x8000;
/// `struct nfgenmsg` of both families.
const ANY: [u8; 4] = [0; 4];

/// Forgets every connection from one of the addresses, and every one that was led to it.
pub fn forget_addresses(addresses: &[IpAddr]) -> io::Result<usize> {
    let is_one = |tuple: &[u8]| source(tuple).is_some_and(|found| addresses.contains(&found));
    forget(|original, reply| is_one(original) || is_one(reply))
}

/// Forgets every connection from or to an address of these subnets that nobody has.
pub fn forget_strangers(subnets: &[IpNet], known: &[IpAddr]) -> io::Result<usize> {
    let is_one = |tuple: &[u8]| {
        source(tuple).is_some_and(|found| {
            subnets.iter().any(|subnet| subnet.contains(&found)) && !known.contains(&found)
        })
    };
    forget(|original, reply| is_one(original) || is_one(reply))
}

/// Forgets every udp exchange that was begun with one of the ports.
pub fn forget_udp_ports(ports: &[u16]) -> io::Result<usize> {
    forget(|original, _| udp_port(original).is_some_and(|port| ports.contains(&port)))
}

fn forget(doom: impl Fn(&[u8], &[u8]) -> bool) -> io::Result<usize> {
    // Listing them walks the whole table, 262,144 rows on a usual host: some 10 ms of a processor.
    if count().is_some_and(|count| count == 0) {
        return Ok(0);
    }
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut doomed = Vec::new();
    socket.query(&Message::new(GET, DUMP, &ANY), true, |message| {
        let Some((header, body)) = message.payload.split_first_chunk::<{ ANY.len() }>() else {
            return;
        };
        let tuple = |kind| child(body, kind);
        let (Some(original), Some(reply)) = (tuple(CTA_TUPLE_ORIG), tuple(CTA_TUPLE_REPLY)) else {
            return;
        };
        if doom(original, reply) {
            // The kernel answers with the family of each.
            let mut delete = Message::new(DELETE, 0, &[header[0], 0, 0, 0]);
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

/// How many connections this network namespace knows; `None` = the kernel does not say.
fn count() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").ok()?;
    text.trim().parse().ok()
}

fn child(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(k, _)| *k == kind)
        .map(|(_, data)| data)
}

fn source(tuple: &[u8]) -> Option<IpAddr> {
    let ip = child(tuple, CTA_TUPLE_IP)?;
    address(child(ip, CTA_IP_V4_SRC).or_else(|| child(ip, CTA_IP_V6_SRC))?)
}

fn udp_port(tuple: &[u8]) -> Option<u16> {
    let protocol = child(tuple, CTA_TUPLE_PROTO)?;
    let port = child(protocol, CTA_PROTO_DST_PORT)?;
    let is_udp = child(protocol, CTA_PROTO_NUM)? == [UDP];
    is_udp.then(|| Some(u16::from_be_bytes(port.try_into().ok()?)))?
}
