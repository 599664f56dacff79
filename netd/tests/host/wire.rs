//! Frames as a container with NET_RAW sends and hears them, byte by byte.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use netd::netlink::{Mac, Netns};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

pub const IP: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const EVERYBODY: Mac = Mac([0xff; 6]);

/// The container's end of its link (packet(7)).
pub struct Wire(OwnedFd);

impl Wire {
    pub fn of(netns: &Netns) -> Self {
        Self::on(netns, "eth0")
    }

    /// Any link's.
    pub fn on(netns: &Netns, name: &str) -> Self {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let all = SockProtocol::EthAll;
            let fd = socket(AddressFamily::Packet, SockType::Raw, flags, all)?;
            let mut links = getifaddrs()?.filter(|found| found.interface_name == name);
            let link = links.find_map(|found| found.address?.as_link_addr().copied());
            bind(fd.as_raw_fd(), &link.ok_or(io::ErrorKind::NotFound)?)?;
            Ok(Self(fd))
        };
        netns.inside(open).unwrap()
    }

    pub fn send(&self, frame: &[u8]) {
        // ENOBUFS and the like would be a frame less, and no attack.
        assert_eq!(
            send(self.0.as_raw_fd(), frame, MsgFlags::empty()),
            Ok(frame.len())
        );
    }

    /// What has come (and gone) since it was asked for last.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 2048];
        let mut all = Vec::new();
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            all.push(buffer[..length].to_vec());
        }
        all
    }
}

pub fn ether(to: Mac, from: Mac, kind: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(content);
    frame
}

/// An answer (RFC 826): `sender` has `address`.
pub fn arp(sender: Mac, address: Ipv4Addr, more: &[u8]) -> Vec<u8> {
    const ANSWER: u8 = 2;
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, ANSWER];
    packet.extend(sender.0);
    packet.extend(address.octets());
    packet.extend(EVERYBODY.0);
    packet.extend(address.octets());
    packet.extend(more);
    packet
}

/// The sum of RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded).unwrap()).to_be_bytes()
}

pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + content.len()).unwrap();
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header.extend(content);
    header
}

pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 255];
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header.extend(from.octets());
    header.extend(to.octets());
    header.extend(content);
    header
}

/// Without a checksum, which IPv4 allows.
pub fn udp(from: u16, to: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + content.len()).unwrap();
    let mut packet = [from, to, length, 0].map(u16::to_be_bytes).concat();
    packet.extend(content);
    packet
}

/// A segment that begins a connection.
pub fn syn(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 7, 0, 0, 0, 0, 5 << 4, 0x02, 255, 255, 0, 0, 0, 0]);
    let mut pseudo = [from.0.octets(), to.0.octets()].concat();
    pseudo.extend([0, TCP, 0, 20]);
    pseudo.extend(&segment);
    let sum = checksum(&pseudo);
    segment[16..18].copy_from_slice(&sum);
    ipv4(from.0, to.0, TCP, &segment)
}

/// Type, code, no checksum (nobody who only listens looks at it), and what follows.
pub fn icmp(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(content);
    message
}
