//! Rules written the way one reads them: conditions, then what to do.

use std::borrow::Cow;

use ipnet::IpNet;

use crate::netlink::octets;

use super::expr::{Bound, Compare, Expr, Field, IpVersion, REG, Verdict, part};

const RTN_LOCAL: u32 = 2;
const CT_INVALID: u32 = 0b1;
const CT_NEW: u32 = 0b1000;
const CT_ESTABLISHED_OR_RELATED: u32 = 0b110;
/// `IPS_DST_NAT`: the connection's destination was rewritten.
const IPS_DST_NAT: u32 = 1 << 5;

/// How many 32-bit registers a link's name takes, and how many with a MAC behind it.
const LINK_NAME: u32 = 4;
const SENDER: u32 = LINK_NAME + 2;

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Rule {
    pub(super) chain: Cow<'static, str>,
    pub(super) expressions: Vec<Expr>,
}

/// A link name as the kernel compares it: 16 bytes, zero-padded.
pub fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

impl Rule {
    /// An empty rule of a chain.
    pub fn on(chain: impl Into<Cow<'static, str>>) -> Self {
        Self {
            chain: chain.into(),
            expressions: Vec::new(),
        }
    }

    fn push(mut self, expressions: impl IntoIterator<Item = Expr>) -> Self {
        self.expressions.extend(expressions);
        self
    }

    /// Came in by (or not by) that link.
    pub fn input(self, compare: Compare, name: &str) -> Self {
        self.push([
            Expr::Load(Field::InName, REG),
            Expr::Cmp(compare, link_name(name)),
        ])
    }

    /// Leaves by (or not by) that link.
    pub fn output(self, compare: Compare, name: &str) -> Self {
        self.push([
            Expr::Load(Field::OutName, REG),
            Expr::Cmp(compare, link_name(name)),
        ])
    }

    /// Came in by one of the links in the set.
    pub fn input_in(self, compare: Compare, set: &'static str) -> Self {
        self.push([Expr::Load(Field::InName, REG), Expr::InSet(set, compare)])
    }

    /// Leaves by one of the links in the set.
    pub fn output_in(self, compare: Compare, set: &'static str) -> Self {
        self.push([Expr::Load(Field::OutName, REG), Expr::InSet(set, compare)])
    }

    /// Came in by one of a pair of links and leaves by the other one; the pair is in the set.
    pub fn between(self, set: &'static str) -> Self {
        self.push([
            Expr::Load(Field::InName, part(0)),
            Expr::Load(Field::OutName, part(LINK_NAME)),
            Expr::InSet(set, Compare::Is),
        ])
    }

    /// The link that it came in by and its destination, of a version, are (or are not) in a set of such pairs.
    pub fn input_to(self, version: IpVersion, compare: Compare, set: &'static str) -> Self {
        self.ip(version).push([
            Expr::Load(Field::InName, part(0)),
            Expr::Load(Field::Destination(version), part(LINK_NAME)),
            Expr::InSet(set, compare),
        ])
    }

    /// The link that it leaves by and its source, of a version, are (or are not) in a set of such pairs.
    pub fn output_from(self, version: IpVersion, compare: Compare, set: &'static str) -> Self {
        self.ip(version).push([
            Expr::Load(Field::OutName, part(0)),
            Expr::Load(Field::Source(version), part(LINK_NAME)),
            Expr::InSet(set, compare),
        ])
    }

    /// Decides by the link that it came in by; goes on with those that the map does not have.
    pub fn decide_by_input(self, map: &'static str) -> Self {
        self.push([Expr::Load(Field::InName, REG), Expr::Decide(map)])
    }

    /// Is of that version. In an `inet` table every look at an IP header needs this first.
    pub fn ip(self, version: IpVersion) -> Self {
        self.push([
            Expr::Load(Field::Family, REG),
            Expr::Cmp(Compare::Is, vec![version.number()]),
        ])
    }

    /// Source in a subnet, or of its version and not in it.
    pub fn source(self, compare: Compare, net: IpNet) -> Self {
        self.subnet(Field::Source, compare, net)
    }

    /// Destination in a subnet, or of its version and not in it.
    pub fn destination(self, compare: Compare, net: IpNet) -> Self {
        self.subnet(Field::Destination, compare, net)
    }

    fn subnet(self, field: fn(IpVersion) -> Field, compare: Compare, net: IpNet) -> Self {
        let version = IpVersion::of(net.addr());
        let rule = self.ip(version).push([Expr::Load(field(version), REG)]);
        let rule = if net.prefix_len() < net.max_prefix_len() {
            rule.push([Expr::Mask(octets(net.netmask()))])
        } else {
            rule
        };
        rule.push([Expr::Cmp(compare, octets(net.network()))])
    }

    /// Destination in a set of addresses of a version.
    pub fn destination_in(self, version: IpVersion, set: &'static str) -> Self {
        self.ip(version).push([
            Expr::Load(Field::Destination(version), REG),
            Expr::InSet(set, Compare::Is),
        ])
    }

    /// Source in (or not in) a set of addresses of a version.
    pub fn source_in(self, version: IpVersion, compare: Compare, set: &'static str) -> Self {
        self.ip(version).push([
            Expr::Load(Field::Source(version), REG),
            Expr::InSet(set, compare),
        ])
    }

    /// Protocol, destination and port in one set, and with the source behind them not in the other.
    pub fn not_from(self, version: IpVersion, what: &'static str, from: &'static str) -> Self {
        let registers = version.registers();
        self.ip(version).push([
            Expr::Load(Field::Layer4, part(0)),
            Expr::Load(Field::Destination(version), part(1)),
            Expr::Load(Field::DestinationPort, part(1 + registers)),
            Expr::InSet(what, Compare::Is),
            Expr::Load(Field::Source(version), part(2 + registers)),
            Expr::InSet(from, Compare::IsNot),
        ])
    }

    /// Protocol, destination and port are not in a set, as they were before they were rewritten.
    pub fn first_not_to(self, version: IpVersion, set: &'static str) -> Self {
        self.ip(version).push([
            Expr::Load(Field::Layer4, part(0)),
            Expr::Load(Field::FirstDestination(version), part(1)),
            Expr::Load(Field::FirstDestinationPort, part(1 + version.registers())),
            Expr::InSet(set, Compare::IsNot),
        ])
    }

    /// A frame's content is of that type (`ETH_P_...`, `linux/if_ether.h`).
    pub fn ether_type(self, number: u16) -> Self {
        self.push([
            Expr::Load(Field::EtherType, REG),
            Expr::Cmp(Compare::Is, number.to_be_bytes().to_vec()),
        ])
    }

    /// The frame's link and MAC are in a set of such pairs.
    pub fn sent_by(self, set: &'static str) -> Self {
        self.sender(Field::EtherSource)
            .push([Expr::InSet(set, Compare::Is)])
    }

    /// The frame's link, its MAC and the source of the packet in it are in a set of such.
    pub fn sent_from(self, version: IpVersion, set: &'static str) -> Self {
        self.sender(Field::EtherSource).push([
            Expr::Load(Field::Source(version), part(SENDER)),
            Expr::InSet(set, Compare::Is),
        ])
    }

    /// An ARP packet says of nobody else who he is: the frame's link and the sender that it names are in a set of such.
    pub fn arp_of(self, set: &'static str) -> Self {
        self.sender(Field::ArpSenderMac).push([
            Expr::Load(Field::ArpSenderAddress, part(SENDER)),
            Expr::InSet(set, Compare::Is),
        ])
    }

    /// An ARP packet asks for an address and says of nobody who he is (RFC 5227, 1.1: an ARP probe).
    pub fn arp_probe(self) -> Self {
        self.push([
            Expr::Load(Field::ArpSenderAddress, REG),
            Expr::Cmp(Compare::Is, vec![0; 4]),
        ])
    }

    /// A neighbour advertisement speaks of an address that is (or is not) its sender's.
    pub fn neighbour(self, compare: Compare, set: &'static str) -> Self {
        self.sender(Field::EtherSource).push([
            Expr::Load(Field::NeighbourTarget, part(SENDER)),
            Expr::InSet(set, compare),
        ])
    }

    /// Loads the frame's link and a MAC.
    fn sender(self, mac: Field) -> Self {
        self.push([
            Expr::Load(Field::InName, part(0)),
            Expr::Load(mac, part(LINK_NAME)),
        ])
    }

    /// What IP carries: 1 = ICMP, 6 = tcp, 17 = udp, 58 = ICMPv6.
    pub fn carries(self, protocol: u8) -> Self {
        self.push([
            Expr::Load(Field::Layer4, REG),
            Expr::Cmp(Compare::Is, vec![protocol]),
        ])
    }

    /// Type of an ICMP or ICMPv6 message.
    pub fn icmp(self, kind: u8) -> Self {
        self.push([
            Expr::Load(Field::IcmpType, REG),
            Expr::Cmp(Compare::Is, vec![kind]),
        ])
    }

    /// Source port.
    pub fn source_port(self, port: u16) -> Self {
        self.push([
            Expr::Load(Field::SourcePort, REG),
            Expr::Cmp(Compare::Is, port.to_be_bytes().to_vec()),
        ])
    }

    /// Its source, of a version, has more of something than it may have.
    pub fn source_exceeds(self, version: IpVersion, meter: &'static str, limit: Bound) -> Self {
        self.ip(version).push([
            Expr::Load(Field::Source(version), REG),
            Expr::Exceeds(meter, limit),
        ])
    }

    /// Begins a connection.
    pub fn begins(self) -> Self {
        self.bits(Field::ConnectionState, CT_NEW)
    }

    /// Destination port.
    pub fn port(self, port: u16) -> Self {
        self.push([
            Expr::Load(Field::DestinationPort, REG),
            Expr::Cmp(Compare::Is, port.to_be_bytes().to_vec()),
        ])
    }

    /// A VXLAN packet (udp) to that port, of the network with that number.
    pub fn vxlan(self, port: u16, network: u32) -> Self {
        const UDP: u8 = 17;
        let [_, number @ ..] = network.to_be_bytes();
        self.push([
            Expr::Load(Field::Layer4, REG),
            Expr::Cmp(Compare::Is, vec![UDP]),
        ])
        .port(port)
        .push([
            Expr::Load(Field::VxlanNetwork, REG),
            Expr::Cmp(Compare::Is, number.to_vec()),
        ])
    }

    /// The destination is (or is not) an address of this host.
    pub fn to_this_host(self, compare: Compare) -> Self {
        self.push([
            Expr::Load(Field::DestinationType, REG),
            Expr::Cmp(compare, RTN_LOCAL.to_ne_bytes().to_vec()),
        ])
    }

    /// Belongs to a connection that was let through before.
    pub fn established(self) -> Self {
        self.bits(Field::ConnectionState, CT_ESTABLISHED_OR_RELATED)
    }

    /// Belongs to no connection and cannot begin one, so that it is not translated either.
    pub fn invalid(self) -> Self {
        self.bits(Field::ConnectionState, CT_INVALID)
    }

    /// Belongs to a connection to a published port.
    pub fn published(self) -> Self {
        self.bits(Field::ConnectionStatus, IPS_DST_NAT)
    }

    fn bits(self, field: Field, mask: u32) -> Self {
        self.push([
            Expr::Load(field, REG),
            Expr::Mask(mask.to_ne_bytes().to_vec()),
            Expr::Cmp(Compare::IsNot, vec![0; 4]),
        ])
    }

    /// Rewrites the destination by a map of protocol and port to addresses of a version.
    pub fn dnat_by_port(self, version: IpVersion, map: &'static str) -> Self {
        self.push([
            Expr::Load(Field::Layer4, part(0)),
            Expr::Load(Field::DestinationPort, part(1)),
            Expr::Map(map),
            Expr::Dnat(version),
        ])
    }

    /// Rewrites the destination's address by a map of protocol and ranges of ports; the port stays.
    pub fn dnat_by_range(self, version: IpVersion, map: &'static str) -> Self {
        self.push([
            Expr::Load(Field::Layer4, part(0)),
            Expr::Load(Field::DestinationPort, part(1)),
            Expr::Map(map),
            Expr::DnatAddress(version),
        ])
    }

    /// Rewrites the destination by a map of protocol, address of a version, and port.
    pub fn dnat_by_address_and_port(self, version: IpVersion, map: &'static str) -> Self {
        self.ip(version).push([
            Expr::Load(Field::Layer4, part(0)),
            Expr::Load(Field::Destination(version), part(1)),
            Expr::Load(Field::DestinationPort, part(1 + version.registers())),
            Expr::Map(map),
            Expr::Dnat(version),
        ])
    }

    /// Rewrites the source to the address of the link that the packet leaves by.
    pub fn masquerade(self) -> Self {
        self.push([Expr::Masquerade])
    }

    /// Decides.
    pub fn then(self, verdict: Verdict) -> Self {
        self.push([Expr::Do(verdict)])
    }
}
