//! WireGuard links: rtnetlink makes them, genetlink tells them their key, their port and their peers
//! (`linux/wireguard.h`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::genl;
use super::link::{
    IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, RTA_DST, RTA_OIF, RTM_NEWLINK,
    RTM_NEWROUTE, family, link_header, octets, route_header,
};
use super::route::address;
use super::socket::{Family, Socket};
use super::wire::{CREATE, DUMP, EXCL, Message, REPLACE, attributes};

/// What such links are called by the kernel.
pub const KIND: &str = "wireguard";

/// A key of Curve25519, public or private.
pub type Key = [u8; 32];

const VERSION: u8 = 1;
const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;

const WGDEVICE_A_IFINDEX: u16 = 1;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_PEERS: u16 = 8;

const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_ALLOWEDIPS: u16 = 9;

const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

/// Peers of one message: one has less than 120 bytes, and a list of them is one attribute of less than 64 KiB.
const PEERS_AT_ONCE: usize = 100;

/// Another end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its public key.
    pub key: Key,
    /// Where it hears us.
    pub endpoint: SocketAddr,
    /// What it may send from, and what is sent to it.
    pub allowed: IpNet,
}

/// A peer as a link has it. Ports of peers are not compared: those follow whom they are heard from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// Its public key.
    pub key: Key,
    /// Its address outside.
    pub at: Option<IpAddr>,
    /// What it may send from.
    pub allowed: Vec<IpNet>,
}

impl From<&Peer> for Known {
    fn from(peer: &Peer) -> Self {
        Self {
            key: peer.key,
            at: Some(peer.endpoint.ip()),
            allowed: vec![peer.allowed],
        }
    }
}

/// What a link has been told, as far as we tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its public key.
    pub key: Option<Key>,
    /// Where it listens, udp.
    pub port: u16,
    /// In the order in which it lists them.
    pub peers: Vec<Known>,
}

/// Makes a link, still off.
pub fn create(name: &str, mtu: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, &link_header(0, 0, 0));
    message.str(IFLA_IFNAME, name).u32(IFLA_MTU, mtu);
    message.nest(IFLA_LINKINFO, |info| {
        info.str(IFLA_INFO_KIND, KIND);
    });
    message
}

/// Leads to a destination by a link that has no neighbours, from an address of ours that is elsewhere.
pub fn replace_route(destination: IpNet, source: IpAddr, index: u32) -> Message {
    const RTA_PREFSRC: u16 = 7;
    const RT_SCOPE_LINK: u8 = 253;
    let mut header = route_header(destination);
    header[6] = RT_SCOPE_LINK;
    let mut message = Message::new(RTM_NEWROUTE, CREATE | REPLACE, &header);
    message
        .attr(RTA_DST, &octets(destination.network()))
        .attr(RTA_PREFSRC, &octets(source))
        .u32(RTA_OIF, index);
    message
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn sockaddr(endpoint: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(family(endpoint.ip())).to_ne_bytes().to_vec();
    bytes.extend(endpoint.port().to_be_bytes());
    match endpoint {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn ip_of(sockaddr: &[u8]) -> Option<IpAddr> {
    const SOCKADDR_IN: usize = 16;
    match sockaddr.len() {
        SOCKADDR_IN => address(sockaddr.get(4..8)?),
        _ => address(sockaddr.get(8..24)?),
    }
}

fn add(list: &mut Message, peer: &Peer) {
    const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 1 << 1;
    list.nest(0, |one| {
        one.attr(WGPEER_A_PUBLIC_KEY, &peer.key)
            .u32(WGPEER_A_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS)
            .attr(WGPEER_A_ENDPOINT, &sockaddr(peer.endpoint))
            .nest(WGPEER_A_ALLOWEDIPS, |all| {
                all.nest(0, |net| {
                    let of = u16::from(family(peer.allowed.addr()));
                    net.attr(WGALLOWEDIP_A_FAMILY, &of.to_ne_bytes())
                        .attr(WGALLOWEDIP_A_IPADDR, &octets(peer.allowed.network()))
                        .attr(WGALLOWEDIP_A_CIDR_MASK, &[peer.allowed.prefix_len()]);
                });
            });
    });
}

fn remove(list: &mut Message, key: &Key) {
    const WGPEER_F_REMOVE_ME: u32 = 1 << 0;
    list.nest(0, |one| {
        one.attr(WGPEER_A_PUBLIC_KEY, key)
            .u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME);
    });
}

fn message(number: u16, command: u8, flags: u16, index: u32) -> Message {
    let mut message = Message::new(number, flags, &genl::header(command, VERSION));
    message.u32(WGDEVICE_A_IFINDEX, index);
    message
}

/// Key and port, then who goes, then who stays or comes: what a peer that stays has agreed upon with us stays, too.
fn set(
    number: u16,
    index: u32,
    key: &Key,
    port: u16,
    gone: &[Key],
    peers: &[Peer],
) -> Vec<Message> {
    let new = || message(number, WG_CMD_SET_DEVICE, 0, index);
    let mut device = new();
    device
        .attr(WGDEVICE_A_PRIVATE_KEY, key)
        .attr(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
    let list = |write: &dyn Fn(&mut Message)| {
        let mut message = new();
        message.nest(WGDEVICE_A_PEERS, |list| write(list));
        message
    };
    let gone = gone
        .chunks(PEERS_AT_ONCE)
        .map(|some| list(&|to| some.iter().for_each(|key| remove(to, key))));
    let peers = peers
        .chunks(PEERS_AT_ONCE)
        .map(|some| list(&|to| some.iter().for_each(|peer| add(to, peer))));
    std::iter::once(device).chain(gone).chain(peers).collect()
}

fn key(data: &[u8]) -> Option<Key> {
    data.try_into().ok()
}

fn allowed(data: &[u8]) -> Option<IpNet> {
    let (mut found, mut prefix) = (None, None);
    for (kind, data) in attributes(data) {
        match kind {
            WGALLOWEDIP_A_IPADDR => found = address(data),
            WGALLOWEDIP_A_CIDR_MASK => prefix = data.first().copied(),
            _ => {}
        }
    }
    IpNet::new(found?, prefix?).ok()
}

impl Device {
    /// Of a part of the answer: a long list comes in several, and one peer may be in more than one.
    fn learn(&mut self, payload: &[u8]) {
        for (kind, data) in attributes(payload.get(genl::HEADER..).unwrap_or_default()) {
            match kind {
                WGDEVICE_A_PUBLIC_KEY => self.key = key(data),
                WGDEVICE_A_LISTEN_PORT => {
                    self.port = data.try_into().map_or(0, u16::from_ne_bytes);
                }
                WGDEVICE_A_PEERS => attributes(data).for_each(|(_, peer)| self.learn_peer(peer)),
                _ => {}
            }
        }
    }

    fn learn_peer(&mut self, data: &[u8]) {
        let of = |wanted| attributes(data).find(|(kind, _)| *kind == wanted);
        let Some(known) = of(WGPEER_A_PUBLIC_KEY).and_then(|(_, data)| key(data)) else {
            return;
        };
        let nets = of(WGPEER_A_ALLOWEDIPS).map_or(&[][..], |(_, data)| data);
        let nets = attributes(nets).filter_map(|(_, net)| allowed(net));
        match self.peers.last_mut() {
            Some(last) if last.key == known => last.allowed.extend(nets),
            _ => self.peers.push(Known {
                key: known,
                at: of(WGPEER_A_ENDPOINT).and_then(|(_, data)| ip_of(data)),
                allowed: nets.collect(),
            }),
        }
    }
}

/// A genetlink socket.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    number: u16,
}

impl Client {
    /// Opens it in the calling thread's network namespace. `Unsupported`: this kernel has no WireGuard.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::open(Family::Generic)?;
        let number = genl::family(&mut socket, KIND)?;
        let number = number.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { socket, number })
    }

    /// What a link has been told.
    pub fn device(&mut self, index: u32) -> io::Result<Device> {
        let request = message(self.number, WG_CMD_GET_DEVICE, DUMP, index);
        let mut found = Device::default();
        self.socket.query(&request, true, |message| {
            found.learn(message.payload);
        })?;
        Ok(found)
    }

    /// Tells a link its private key, its port and its peers; others that it has go.
    pub fn tell(&mut self, index: u32, own: &Key, port: u16, peers: &[Peer]) -> io::Result<()> {
        let known = self.device(index)?.peers.into_iter().map(|peer| peer.key);
        let stays = |key: &Key| peers.iter().any(|peer| peer.key == *key);
        let gone: Vec<Key> = known.filter(|key| !stays(key)).collect();
        let requests = set(self.number, index, own, port, &gone, peers);
        for answer in self.socket.request(&requests)? {
            answer?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::{hex_of, messages};
    use super::*;

    fn peer(number: u16) -> Peer {
        let [high, low] = number.to_be_bytes();
        Peer {
            key: [low; 32],
            endpoint: match low % 2 {
                0 => ([192, 0, 2, low], 51820).into(),
                _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(low)], 51820).into(),
            },
            allowed: IpNet::new([10, high, low, 0].into(), 24).unwrap(),
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn links_and_routes_are_made_as_iproute2_makes_them() {
        // ip link add svx0 mtu 1440 type wireguard
        assert_eq!(
            hex_of(&create("svx0", 1440)),
            "4800000010000506010000000000000000000000000000000000000000000000\
             090003007376783000000000\
             08000400a0050000\
             140012800e000100776972656775617264000000"
        );
        // ip route replace 10.20.1.0/24 dev #7 src 10.20.0.1
        let route = replace_route("10.20.1.0/24".parse().unwrap(), [10, 20, 0, 1].into(), 7);
        assert_eq!(
            hex_of(&route),
            "34000000180005050100000000000000\
             02180000fe03fd0100000000\
             080001000a140100\
             080007000a140001\
             0800040007000000"
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn keys_ports_and_peers_are_told_as_the_header_has_them() {
        let own = [0xaa; 32];
        let at = |number, endpoint: &str| Peer {
            endpoint: endpoint.parse().unwrap(),
            ..peer(number)
        };
        let peers = [at(1, "192.0.2.1:51820"), at(2, "[2001:db8::1]:51821")];
        let told = set(0x1d, 7, &own, 51820, &[[9; 32]], &peers);
        let told: Vec<_> = told.iter().map(hex_of).collect();
        let head = "1d00050001000000000000000101000008000100070000 00".replace(' ', "");
        assert_eq!(
            told[0],
            format!("48000000{head}24000300{}060006006cca0000", "aa".repeat(32))
        );
        // 1 = WGPEER_F_REMOVE_ME.
        assert_eq!(
            told[1],
            format!(
                "50000000{head}3400088030000080\
                 24000100{}0800030001000000",
                "09".repeat(32)
            )
        );
        // 2 = WGPEER_F_REPLACE_ALLOWEDIPS.
        let peer = |length, key: &str, endpoint, net| {
            format!(
                "{length}24000100{}0800030002000000\
                 {endpoint}20000980\
                 1c00008006000100020000000800020{net}0500030018000000",
                key.repeat(32)
            )
        };
        let one = peer(
            "64000080",
            "01",
            "140004000200ca6cc00002010000000000000000",
            "00a000100",
        );
        let other = peer(
            "70000080",
            "02",
            "200004000a00ca6d0000000020010db8000000000000000000000001000000 00"
                .replace(' ', "")
                .as_str(),
            "00a000200",
        );
        assert_eq!(told[2], format!("f4000000{head}d8000880{one}{other}"));
    }

    #[test]
    fn an_answer_in_parts_is_one_device() {
        let part = |nets: &[&str]| {
            let mut part = Message::new(0x1d, 0, &genl::header(WG_CMD_GET_DEVICE, VERSION));
            part.attr(WGDEVICE_A_PUBLIC_KEY, &[7; 32])
                .attr(WGDEVICE_A_LISTEN_PORT, &51820u16.to_ne_bytes())
                .nest(WGDEVICE_A_PEERS, |list| {
                    list.nest(0, |peer| {
                        peer.attr(WGPEER_A_PUBLIC_KEY, &[1; 32])
                            .nest(WGPEER_A_ALLOWEDIPS, |all| {
                                for net in nets {
                                    let net: IpNet = net.parse().unwrap();
                                    all.nest(0, |one| {
                                        one.attr(WGALLOWEDIP_A_IPADDR, &octets(net.addr()))
                                            .attr(WGALLOWEDIP_A_CIDR_MASK, &[net.prefix_len()]);
                                    });
                                }
                            });
                    });
                });
            let mut bytes = Vec::new();
            part.finish(1, false, &mut bytes);
            bytes
        };
        let mut device = Device::default();
        for bytes in [part(&["10.20.1.0/24"]), part(&["fd00::/64"])] {
            messages(&bytes).for_each(|message| device.learn(message.payload));
        }
        let nets = ["10.20.1.0/24", "fd00::/64"].map(|net| net.parse().unwrap());
        let expected = Device {
            key: Some([7; 32]),
            port: 51820,
            peers: vec![Known {
                key: [1; 32],
                at: None,
                allowed: nets.to_vec(),
            }],
        };
        assert_eq!(device, expected);
    }

    proptest! {
        /// What comes from the kernel is never trusted to be whole.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Device::default().learn(&bytes);
        }

        /// However many there are, every message fits, and all are told once.
        #[test]
        fn long_lists_go_in_several_messages(count in 0u16..1500) {
            let peers: Vec<_> = (0..count).map(peer).collect();
            let told = set(1, 7, &[0; 32], 51820, &[], &peers);
            let mut device = Device::default();
            for message in &told {
                let mut bytes = Vec::new();
                message.finish(1, false, &mut bytes);
                prop_assert!(bytes.len() < 16 << 10);
                messages(&bytes).for_each(|message| device.learn(message.payload));
            }
            let expected: Vec<_> = peers.iter().map(Known::from).collect();
            prop_assert_eq!(device.peers, expected);
        }
    }
}
