//! Expressions of a rule: what nftables' virtual machine executes, one after the other.

use std::borrow::Cow;
use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::netlink::wire::Message;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl IpVersion {
    /// That of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        match address.is_ipv4() {
            true => Self::V4,
            false => Self::V6,
        }
    }

    /// All its addresses.
    pub fn everywhere(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }

    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// How many 32-bit registers an address takes.
    pub(super) fn registers(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The first register: 16 bytes, or four of the 32-bit registers.
pub const REG: u32 = 1;
/// The n-th 32-bit part of the first register (`NFT_REG32_00` is 8; part 0 is [`REG`] itself).
pub const fn part(n: u32) -> u32 {
    if n == 0 { REG } else { 8 + n }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not stopped by this chain; other tables may still.
    Accept,
    /// Gone without an answer.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On to another chain.
    Jump(Cow<'static, str>),
}

/// What can be loaded into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Name of the link that it came in by (16 bytes).
    InName,
    /// Name of the link that it leaves by (16 bytes).
    OutName,
    /// 2 = IPv4, 10 = IPv6.
    Family,
    /// 6, 17, 132.
    Layer4,
    /// Source address.
    Source(IpVersion),
    /// Destination address.
    Destination(IpVersion),
    /// Destination port of tcp, udp and sctp.
    DestinationPort,
    /// Number of the network of a VXLAN packet (RFC 7348, 5; 3 bytes).
    VxlanNetwork,
    /// State bits of the connection.
    ConnectionState,
    /// Status bits of the connection.
    ConnectionStatus,
    /// Destination address that the connection's first packet had.
    FirstDestination(IpVersion),
    /// Destination port that the connection's first packet had.
    FirstDestinationPort,
    /// Type of the destination address as the routing table sees it (`RTN_LOCAL` = 2).
    DestinationType,
    /// Type of a frame's content, as it stands in the frame: that of a tag, where there is one.
    EtherType,
    /// MAC that a frame comes from.
    EtherSource,
    /// MAC of who sends an ARP packet (RFC 826).
    ArpSenderMac,
    /// IPv4 address of who sends an ARP packet.
    ArpSenderAddress,
    /// Source port of tcp, udp and sctp.
    SourcePort,
    /// Type of an ICMP or ICMPv6 message.
    IcmpType,
    /// The address that a neighbour solicitation or advertisement speaks of (RFC 4861, 4.3 and 4.4).
    NeighbourTarget,
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Is,
    /// Not equal.
    IsNot,
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Puts a field into a register.
    Load(Field, u32),
    /// Masks the register.
    Mask(Vec<u8>),
    /// Goes on only if the register compares so.
    Cmp(Compare, Vec<u8>),
    /// Goes on only if the register is (or is not) in the set.
    InSet(&'static str, Compare),
    /// Replaces the register by what the map holds for it; goes on only if it does.
    Map(&'static str),
    /// Decides by what the map of verdicts holds for the register; goes on if it has nothing.
    Decide(&'static str),
    /// Rewrites the destination to the address that the register begins with and the port behind it.
    Dnat(IpVersion),
    /// Rewrites the destination to the address in the register; the port stays.
    DnatAddress(IpVersion),
    /// Rewrites the source to the address of the link that it leaves by.
    Masquerade,
    /// Counts the packet for the key in the register, in a [`super::Meter`]; goes on only above the limit.
    Exceeds(&'static str, Bound),
    /// Decides.
    Do(Verdict),
}

/// What a [`super::Meter`] bounds of each of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Connections that are open; closed ones of tcp do not count.
    Connections(u32),
    /// Packets a second, and as many at once.
    PacketsASecond(u32),
}

impl Expr {
    pub(super) fn write(&self, list: &mut Message) {
        list.nest(NFTA_LIST_ELEM, |expr| {
            expr.str(NFTA_EXPR_NAME, self.name());
            expr.nest(NFTA_EXPR_DATA, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Load(field, _) => match field {
                Field::InName | Field::OutName | Field::Family | Field::Layer4 => "meta",
                Field::Source(_)
                | Field::Destination(_)
                | Field::DestinationPort
                | Field::SourcePort
                | Field::EtherType
                | Field::EtherSource
                | Field::ArpSenderMac
                | Field::ArpSenderAddress
                | Field::IcmpType
                | Field::NeighbourTarget
                | Field::VxlanNetwork => "payload",
                Field::ConnectionState
                | Field::ConnectionStatus
                | Field::FirstDestination(_)
                | Field::FirstDestinationPort => "ct",
                Field::DestinationType => "fib",
            },
            Self::Mask(_) => "bitwise",
            Self::Cmp(..) => "cmp",
            Self::InSet(..) | Self::Map(_) | Self::Decide(_) => "lookup",
            Self::Dnat(_) | Self::DnatAddress(_) => "nat",
            Self::Masquerade => "masq",
            Self::Exceeds(..) => "dynset",
            Self::Do(_) => "immediate",
        }
    }

    fn write_data(&self, data: &mut Message) {
        match self {
            Self::Load(field, register) => write_load(*field, *register, data),
            Self::Mask(mask) => {
                let len = u32::try_from(mask.len()).expect("a mask is at most 16 bytes");
                // NFTA_BITWISE_SREG, DREG, LEN, MASK, XOR
                data.be32(1, REG).be32(2, REG).be32(3, len);
                data.nest(4, |value| {
                    value.attr(NFTA_DATA_VALUE, mask);
                });
                data.nest(5, |value| {
                    value.attr(NFTA_DATA_VALUE, &vec![0; mask.len()]);
                });
            }
            Self::Cmp(compare, value) => {
                // NFTA_CMP_SREG, OP (NFT_CMP_EQ = 0, NEQ = 1), DATA
                data.be32(1, REG)
                    .be32(2, u32::from(*compare == Compare::IsNot));
                data.nest(3, |data| {
                    data.attr(NFTA_DATA_VALUE, value);
                });
            }
            Self::InSet(set, compare) => {
                // NFTA_LOOKUP_SET, SREG, FLAGS (NFT_LOOKUP_F_INV = 1)
                data.str(1, set).be32(2, REG);
                if *compare == Compare::IsNot {
                    data.be32(5, 1);
                }
            }
            Self::Map(map) => {
                // NFTA_LOOKUP_SET, SREG, DREG
                data.str(1, map).be32(2, REG).be32(3, REG);
            }
            Self::Decide(map) => {
                // The same, into the verdict register.
                data.str(1, map).be32(2, REG).be32(3, 0);
            }
            Self::Dnat(version) => {
                // NFTA_NAT_TYPE (NFT_NAT_DNAT = 1), FAMILY, REG_ADDR_MIN, REG_PROTO_MIN
                data.be32(1, 1)
                    .be32(2, version.number().into())
                    .be32(3, part(0))
                    .be32(5, part(version.registers()));
            }
            Self::DnatAddress(version) => {
                data.be32(1, 1)
                    .be32(2, version.number().into())
                    .be32(3, part(0));
            }
            Self::Masquerade => {}
            Self::Exceeds(meter, limit) => {
                // NFTA_DYNSET_SET_NAME, OP, SREG_KEY, EXPR
                data.str(1, meter)
                    .be32(3, limit.operation())
                    .be32(4, REG)
                    .nest(7, |expr| {
                        expr.str(NFTA_EXPR_NAME, limit.name());
                        expr.nest(NFTA_EXPR_DATA, |data| limit.write(data));
                    });
            }
            Self::Do(verdict) => {
                // NFTA_IMMEDIATE_DREG (the verdict register), DATA
                data.be32(1, 0);
                data.nest(2, |data| {
                    data.nest(NFTA_DATA_VERDICT, |inner| write_verdict(verdict, inner));
                });
            }
        }
    }
}

impl Bound {
    /// `NFT_DYNSET_OP_ADD` or, where a key is forgotten if it is not seen for a while, `NFT_DYNSET_OP_UPDATE`.
    fn operation(self) -> u32 {
        match self {
            Self::Connections(_) => 0,
            Self::PacketsASecond(_) => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Connections(_) => "connlimit",
            Self::PacketsASecond(_) => "limit",
        }
    }

    fn write(self, data: &mut Message) {
        match self {
            // NFTA_CONNLIMIT_COUNT, FLAGS (NFT_CONNLIMIT_F_INV = 1: above it)
            Self::Connections(most) => data.be32(1, most).be32(2, 1),
            // NFTA_LIMIT_RATE, UNIT (seconds), BURST, TYPE (NFT_LIMIT_PKTS = 0), FLAGS (NFT_LIMIT_F_INV = 1)
            Self::PacketsASecond(most) => data
                .attr(1, &u64::from(most).to_be_bytes())
                .attr(2, &1_u64.to_be_bytes())
                .be32(3, most)
                .be32(4, 0)
                .be32(5, 1),
        };
    }
}

fn write_load(field: Field, register: u32, data: &mut Message) {
    // NFTA_META_DREG = 1, KEY = 2; NFTA_CT the same; NFTA_PAYLOAD_DREG, BASE, OFFSET, LEN = 1..4
    const LINK: u32 = 0;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    data.be32(1, register);
    match field {
        Field::InName => data.be32(2, 6),
        Field::OutName => data.be32(2, 7),
        Field::Family => data.be32(2, 15),
        Field::Layer4 => data.be32(2, 16),
        Field::Source(IpVersion::V4) => data.be32(2, NETWORK).be32(3, 12).be32(4, 4),
        Field::Destination(IpVersion::V4) => data.be32(2, NETWORK).be32(3, 16).be32(4, 4),
        Field::Source(IpVersion::V6) => data.be32(2, NETWORK).be32(3, 8).be32(4, 16),
        Field::Destination(IpVersion::V6) => data.be32(2, NETWORK).be32(3, 24).be32(4, 16),
        Field::DestinationPort => data.be32(2, TRANSPORT).be32(3, 2).be32(4, 2),
        Field::SourcePort => data.be32(2, TRANSPORT).be32(3, 0).be32(4, 2),
        Field::IcmpType => data.be32(2, TRANSPORT).be32(3, 0).be32(4, 1),
        Field::NeighbourTarget => data.be32(2, TRANSPORT).be32(3, 8).be32(4, 16),
        Field::EtherType => data.be32(2, LINK).be32(3, 12).be32(4, 2),
        Field::EtherSource => data.be32(2, LINK).be32(3, 6).be32(4, 6),
        Field::ArpSenderMac => data.be32(2, NETWORK).be32(3, 8).be32(4, 6),
        Field::ArpSenderAddress => data.be32(2, NETWORK).be32(3, 14).be32(4, 4),
        Field::VxlanNetwork => data.be32(2, TRANSPORT).be32(3, 12).be32(4, 3),
        Field::ConnectionState => data.be32(2, 0),
        Field::ConnectionStatus => data.be32(2, 2),
        // NFT_CT_DST_IP, NFT_CT_DST_IP6, NFT_CT_PROTO_DST; NFTA_CT_DIRECTION = IP_CT_DIR_ORIGINAL
        Field::FirstDestination(IpVersion::V4) => data.be32(2, 20).attr(3, &[0]),
        Field::FirstDestination(IpVersion::V6) => data.be32(2, 22).attr(3, &[0]),
        Field::FirstDestinationPort => data.be32(2, 12).attr(3, &[0]),
        // NFTA_FIB_RESULT = NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_FLAGS = NFTA_FIB_F_DADDR
        Field::DestinationType => data.be32(2, 3).be32(3, 2),
    };
}

pub(super) fn write_verdict(verdict: &Verdict, data: &mut Message) {
    const NF_DROP: i32 = 0;
    const NF_ACCEPT: i32 = 1;
    const NFT_JUMP: i32 = -3;
    const NFT_RETURN: i32 = -5;
    let code = match verdict {
        Verdict::Accept => NF_ACCEPT,
        Verdict::Drop => NF_DROP,
        Verdict::Return => NFT_RETURN,
        Verdict::Jump(_) => NFT_JUMP,
    };
    // NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN
    data.attr(1, &code.to_be_bytes());
    if let Verdict::Jump(chain) = verdict {
        data.str(2, chain);
    }
}
