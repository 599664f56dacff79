//! Forgetting connections (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`).
//!
//! A udp "connection" has no end: a client that goes on sending keeps the translation to a container
//! that is gone, and the next owner of the address or port would get, or miss, its packets. And one of tcp goes on by
//! a port that nobody publishes any more.

use std::io;
use std::net::IpAddr;

use super::octets;
use super::route::address;
use super::socket::{Family, Socket};
use super::wire::{DUMP, Message, attributes};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4: (u16, u16) = (1, 2);
const CTA_IP_V6: (u16, u16) = (3, 4);
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NESTED: u16 = 0x8000;

/// A connection as it was begun, and who answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Number of the transport protocol.
    pub protocol: u8,
    /// Who began it.
    pub client: IpAddr,
    /// Where it was sent to.
    pub host: IpAddr,
    /// And its port; 0 of protocols without.
    pub host_port: u16,
    /// Who answers: another one where the destination was translated.
    pub server: IpAddr,
    /// By which port.
    pub server_port: u16,
}

/// Which connections the kernel is to tell of at least; those before Linux 5.8 tell of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// All.
    All,
    /// Those that this address answers.
    AnsweredBy(IpAddr),
    /// Those of a transport protocol.
    Protocol(u8),
    /// Those of a transport protocol that were sent to this port.
    Port(u8, u16),
}

/// Forgets those that are doomed; tells how many.
///
/// The kernel walks its whole table for it, 262,144 rows on a usual host: some 10 ms of a processor.
pub fn forget(among: Among, doom: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    if count().is_some_and(|count| count == 0) {
        return Ok(0);
    }
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut doomed = Vec::new();
    for request in among.requests() {
        socket.query(&request, true, |message| {
            let Some((header, body)) = message.payload.split_first_chunk::<4>() else {
                return;
            };
            let (Some(original), Some(reply)) =
                (child(body, CTA_TUPLE_ORIG), child(body, CTA_TUPLE_REPLY))
            else {
                return;
            };
            if flow(original, reply).is_some_and(|flow| doom(&flow)) {
                // The kernel answers with the family of each.
                let mut delete = Message::new(DELETE, 0, &[header[0], 0, 0, 0]);
                delete.attr(CTA_TUPLE_ORIG | NESTED, original);
                if let Some(zone) = child(body, CTA_ZONE) {
                    delete.attr(CTA_ZONE, zone);
                }
                doomed.push(delete);
            }
        })?;
    }
    // One that ended in the meantime is answered with ENOENT: as good.
    // In portions, because every request is answered and the answers have to fit the buffer.
    for portion in doomed.chunks(50) {
        socket.request(portion)?;
    }
    Ok(doomed.len())
}

impl Among {
    fn requests(self) -> Vec<Message> {
        // CTA_FILTER_F_* (net/netfilter/nf_internals.h).
        const IP_SRC: u32 = 1;
        const PROTO_NUM: u32 = 1 << 3;
        const PROTO_DST_PORT: u32 = 1 << 5;
        /// `struct nfgenmsg` of both families.
        const ANY: [u8; 4] = [0; 4];
        const AF_INET: u8 = 2;
        const AF_INET6: u8 = 10;
        let (original, reply) = match self {
            Self::All => return vec![Message::new(GET, DUMP, &ANY)],
            // Observed with Linux 6.18: asked for one address of IPv6, the kernel left out a stream that it answers, which
            // outlived its port. It is told when all of that version are asked for.
            Self::AnsweredBy(IpAddr::V6(_)) => {
                return vec![Message::new(GET, DUMP, &[AF_INET6, 0, 0, 0])];
            }
            Self::AnsweredBy(_) => (0, IP_SRC),
            Self::Protocol(_) => (PROTO_NUM, 0),
            Self::Port(..) => (PROTO_NUM | PROTO_DST_PORT, 0),
        };
        let families: &[u8] = match self {
            Self::AnsweredBy(_) => &[AF_INET],
            _ => &[AF_INET, AF_INET6],
        };
        let filtered = |family: &u8| {
            let mut message = Message::new(GET, DUMP, &[*family, 0, 0, 0]);
            message.nest(CTA_FILTER, |filter| {
                // CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS
                filter.u32(1, original).u32(2, reply);
            });
            match self {
                Self::All => {}
                Self::AnsweredBy(server) => {
                    let (source, _) = kinds(server);
                    message.nest(CTA_TUPLE_REPLY, |tuple| {
                        tuple.nest(CTA_TUPLE_IP, |ip| {
                            ip.attr(source, &octets(server));
                        });
                    });
                }
                Self::Protocol(protocol) | Self::Port(protocol, _) => {
                    message.nest(CTA_TUPLE_ORIG, |tuple| {
                        tuple.nest(CTA_TUPLE_PROTO, |proto| {
                            proto.attr(CTA_PROTO_NUM, &[protocol]);
                            if let Self::Port(_, port) = self {
                                proto.attr(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                            }
                        });
                    });
                }
            }
            message
        };
        families.iter().map(filtered).collect()
    }
}

/// How source and destination are called.
fn kinds(address: IpAddr) -> (u16, u16) {
    match address {
        IpAddr::V4(_) => CTA_IP_V4,
        IpAddr::V6(_) => CTA_IP_V6,
    }
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

fn flow(original: &[u8], reply: &[u8]) -> Option<Flow> {
    let (client, host) = ends(original)?;
    let (server, _) = ends(reply)?;
    Some(Flow {
        protocol: *child(child(original, CTA_TUPLE_PROTO)?, CTA_PROTO_NUM)?.first()?,
        client,
        host,
        host_port: port(original, CTA_PROTO_DST_PORT),
        server,
        server_port: port(reply, CTA_PROTO_SRC_PORT),
    })
}

fn ends(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ip = child(tuple, CTA_TUPLE_IP)?;
    let of =
        |(source, destination): (u16, u16)| Some((child(ip, source)?, child(ip, destination)?));
    let (source, destination) = of(CTA_IP_V4).or_else(|| of(CTA_IP_V6))?;
    Some((address(source)?, address(destination)?))
}

fn port(tuple: &[u8], kind: u16) -> u16 {
    let told = child(tuple, CTA_TUPLE_PROTO).and_then(|protocol| child(protocol, kind));
    told.and_then(|port| port.try_into().ok())
        .map_or(0, u16::from_be_bytes)
}
