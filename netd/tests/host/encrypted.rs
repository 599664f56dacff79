//! A network that spans hosts and is encrypted: two netds, one on each end of a wire that is listened to all the time.
//! Where the kernel has no WireGuard, that it is told so; `tests/vm/run` has one that does.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;

use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use netd::netlink::wireguard::{self, Client};
use netd::netlink::{Netns, Route, fence, link};
use netd::overlay::{PrivateKey, PublicKey};
use slipway_fault::Action;
use slipway_proto::netd::v1::*;

use crate::overlay::{OURS, THEIRS, asked, container};
use crate::overlay_names::resolve;
use crate::reconcile::{GUARD, hold_the_guard, reconcile};
use crate::wire::{ICMP, IP, UDP, Wire};
use crate::world::*;

const PORT: u16 = 51820;
/// Has to be there: a kernel without WireGuard fails the tests instead of passing them over.
const NEEDED: &str = "SLIPWAY_TEST_WIREGUARD";

/// Asked as netd asks; a link that the question makes goes at once.
fn has_wireguard() -> bool {
    let made = Netns::create().unwrap().inside(|| {
        let mut route = Route::open()?;
        route.apply(&[wireguard::create("probe", 1420)])
    });
    if made.is_err() {
        assert!(std::env::var_os(NEEDED).is_none(), "{made:?}");
        eprintln!("skipped: this kernel has no WireGuard");
    }
    made.is_ok()
}

fn list(ours: &str, theirs: &str) -> String {
    format!("a={HOST}@{ours},b={NEIGHBOUR}@{theirs}")
}

fn encrypted(peers: &str, more: &[(&str, &str)]) -> CreateNetworkRequest {
    asked(&[&[("peers", peers), ("encrypted", "")][..], more].concat())
}

fn somebody() -> PublicKey {
    PrivateKey::random().public()
}

fn said(world: &World, request: CreateNetworkRequest) -> String {
    world.network(request).unwrap_err().message().to_owned()
}

/// The host, its neighbour, and the ear between them.
struct Hosts<'a> {
    here: &'a mut World,
    there: World,
    peers: String,
    ear: Wire,
    /// Largest datagram between the hosts.
    largest: usize,
}

impl<'a> Hosts<'a> {
    /// Both have the network; what finds no other way leaves by the wire.
    fn new(here: &'a mut World) -> Self {
        let there = here.on_the_neighbour();
        let peers = list(&here.key(), &there.key());
        let ear = Wire::on(&here.neighbour, "lan0");
        let mut route = Route::open().unwrap();
        let lan = route.link("lan0").unwrap().unwrap().index;
        let everywhere = "0.0.0.0/0".parse().unwrap();
        let out = link::add_route(everywhere, NEIGHBOUR.into(), lan);
        route.apply(&[out]).unwrap();
        for host in [&*here, &there] {
            let made = host.network(encrypted(&peers, &[])).unwrap();
            let keys: Vec<_> = made.peers.iter().map(|peer| peer.key.clone()).collect();
            assert_eq!(keys, [here.key(), there.key()]);
        }
        Self {
            here,
            there,
            peers,
            ear,
            largest: 0,
        }
    }

    fn tunnel(&self) -> String {
        let shown = InspectNetworkRequest {
            network: "wide".to_owned(),
        };
        let shown = self
            .here
            .call(async |mut netd| netd.inspect_network(shown).await);
        format!("svx{}", &shown.unwrap().id[..10])
    }

    /// Nothing went by so far that anybody could read: no address of the network, no frame of VXLAN, and between the hosts
    /// nothing but WireGuard's datagrams. Returns how many of those there were.
    fn nothing_in_the_clear(&mut self) -> usize {
        let network: IpNet = "10.20.0.0/16".parse().unwrap();
        let mut datagrams = 0;
        for frame in self.ear.heard() {
            if u16::from_be_bytes([frame[12], frame[13]]) != IP {
                continue;
            }
            let packet = &frame[14..];
            let address =
                |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            let (from, to) = (address(12), address(16));
            assert!(
                ![from, to]
                    .iter()
                    .any(|address| network.contains(&std::net::IpAddr::from(*address))),
                "in the clear: {packet:02x?}"
            );
            if [HOST, NEIGHBOUR].contains(&from) && [HOST, NEIGHBOUR].contains(&to) {
                assert!(
                    is_wireguards(packet),
                    "no datagram of WireGuard: {packet:02x?}"
                );
                datagrams += 1;
                self.largest = self.largest.max(packet.len());
            }
        }
        datagrams
    }
}

/// Whether a packet is a datagram of WireGuard, or says of one that nobody is there to hear it.
fn is_wireguards(packet: &[u8]) -> bool {
    let (header, behind) = packet.split_at(usize::from(packet[0] & 0xf) * 4);
    if header[9] == ICMP {
        return is_wireguards(&behind[8..]);
    }
    // Types 1 to 4 of its messages, and three bytes of nothing.
    let is_message = matches!(behind[8..12], [1..=4, 0, 0, 0]);
    header[9] == UDP && behind[2..4] == PORT.to_be_bytes() && is_message
}

fn reaches(from: &Container, to: &Container) -> bool {
    from.netns
        .inside(|| ask_briefly((to.address(), 80)))
        .is_ok()
}

fn reaches_soon(from: &Container, to: &Container) {
    eventually("the other host's container is reached", || {
        reaches(from, to)
    });
}

#[test]
fn hosts_reach_each_others_containers_and_nobody_can_read_it() {
    if !has_wireguard() {
        return;
    }
    on_a_host(|world| {
        let mut hosts = Hosts::new(world);
        let one = container(hosts.here, "one");
        let two = container(&hosts.there, "two");
        one.serve(80);
        two.serve(80);
        reaches_soon(&one, &two);
        reaches_soon(&two, &one);
        // As who they are.
        let seen = one.netns.inside(|| ask((two.address(), 80))).unwrap();
        assert_eq!(seen, one.address().to_string());
        // By name, both ways.
        let known = |from: &Container, gateway, name: &str| {
            let found = from.netns.inside(|| resolve(gateway, name, RecordType::A));
            found.map_or(Vec::new(), |(_, found)| found)
        };
        eventually("its name is known here", || {
            known(&one, OURS, "two.") == [two.address().to_string()]
        });
        eventually("this one's is known there", || {
            known(&two, THEIRS, "one.") == [one.address().to_string()]
        });

        // What fills the wire to the last byte passes, and nothing is cut in two: 1440 inside, 1500 outside.
        let mtu = one.netns.inside(|| {
            let found = Route::open()?.link("eth0")?;
            Ok(found.unwrap().mtu)
        });
        assert_eq!(mtu.unwrap(), 1440);
        let bind = |of: &Container| {
            let address = (of.address(), 9);
            of.netns.inside(|| UdpSocket::bind(address)).unwrap()
        };
        let (sending, hearing) = (bind(&one), bind(&two));
        let large = [7; 1440 - 28];
        sending.send_to(&large, (two.address(), 9)).unwrap();
        hearing.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 2048];
        assert_eq!(hearing.recv(&mut buffer).unwrap(), large.len());
        assert!(hosts.nothing_in_the_clear() > 0);
        assert_eq!(hosts.largest, 1500);
    });
}

/// Whatever is taken away: what is for other hosts does not leave by any other way.
#[test]
fn without_its_tunnel_nothing_leaves_and_it_comes_back() {
    if !has_wireguard() {
        return;
    }
    on_a_host(|world| {
        let mut hosts = Hosts::new(world);
        let one = container(hosts.here, "one");
        let two = container(&hosts.there, "two");
        two.serve(80);
        reaches_soon(&one, &two);
        let tunnel = hosts.tunnel();
        let index = |route: &mut Route| route.link(&tunnel).unwrap().map(|link| link.index);
        let mut route = Route::open().unwrap();

        // A connection that was there before goes on by its tunnel, whoever is dead.
        let listen = || std::net::TcpListener::bind((two.address(), 81));
        let listener = two.netns.inside(listen).unwrap();
        let connect = || TcpStream::connect((two.address(), 81));
        let mut stream = one.netns.inside(connect).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        other
            .set_read_timeout(Some(std::time::Duration::from_secs(60)))
            .unwrap();
        let mut passes = |stream: &mut TcpStream| {
            stream.write_all(b"x").unwrap();
            io::Read::read_exact(&mut other, &mut [0]).unwrap();
        };
        let before = index(&mut route);
        hosts.here.kill();
        passes(&mut stream);
        reaches_soon(&one, &two);
        hosts.here.restart_dead();
        passes(&mut stream);
        reaches_soon(&one, &two);
        assert_eq!(
            index(&mut route),
            before,
            "netd came back and disturbed nobody"
        );

        // Taken away while nobody looks: what the connection sends, what begins anew, and what this host itself asks.
        hosts.here.kill();
        route.apply(&[link::delete(before.unwrap())]).unwrap();
        stream.write_all(b"secret").unwrap();
        assert!(!reaches(&one, &two));
        let own = UdpSocket::bind((OURS, 0)).unwrap();
        let refused = own.send_to(b"who is two?", (THEIRS, 53)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::HostUnreachable);
        hosts.nothing_in_the_clear();
        hosts.here.restart_dead();
        reaches_soon(&one, &two);
        io::Read::read_exact(&mut other, &mut [0; 6]).unwrap();

        // Taken away or switched off while netd looks.
        for harm in [link::delete, link::set_down] {
            let now = index(&mut route).unwrap();
            route.apply(&[harm(now)]).unwrap();
            reaches_soon(&one, &two);
        }
        // A route, a peer, the fence.
        hold_the_guard(hosts.here);
        let finds = |hosts: &Hosts<'_>, what: &str| {
            let found = hosts
                .here
                .call(async |mut netd| netd.reconcile(ReconcileRequest {}).await);
            let found = found.unwrap().findings;
            let right = found
                .iter()
                .any(|one| one.what.contains(what) && one.trouble.is_empty());
            assert!(right, "{what}: {found:?}");
        };
        let now = index(&mut route).unwrap();
        let slice = "10.20.1.0/24".parse().unwrap();
        route.apply(&[link::remove_route(slice, now)]).unwrap();
        finds(&hosts, "without its route to 10.20.1.0/24");
        let subnet = "10.20.0.0/16".parse().unwrap();
        route.apply(&[fence::lower(subnet)]).unwrap();
        finds(&hosts, "lets what is for 10.20.0.0/16 leave by other ways");
        let mut client = Client::open().unwrap();
        let stranger = PrivateKey::random();
        client.tell(now, stranger.bytes(), PORT, &[]).unwrap();
        finds(&hosts, "has another key than this host");
        let again = hosts
            .here
            .call(async |mut netd| netd.reconcile(ReconcileRequest {}).await);
        assert_eq!(again.unwrap().findings, []);
        hosts.here.let_go(GUARD);
        reaches_soon(&one, &two);

        // The wire is cut, and whole again.
        let lan = route.link("lan0").unwrap().unwrap().index;
        route.apply(&[link::set_down(lan)]).unwrap();
        assert!(!reaches(&one, &two));
        let out = link::add_route("0.0.0.0/0".parse().unwrap(), NEIGHBOUR.into(), lan);
        route.apply(&[link::set_up(lan), out]).unwrap();
        reaches_soon(&one, &two);
        hosts.nothing_in_the_clear();

        // Gone, and all of it.
        hosts.here.release("one");
        let name = RemoveNetworkRequest {
            network: "wide".to_owned(),
            force: false,
        };
        hosts
            .here
            .call(async |mut netd| netd.remove_network(name).await)
            .unwrap();
        assert!(!hosts.here.links().contains(&tunnel));
        assert_no_fence();
        hosts.nothing_in_the_clear();
    });
}

fn assert_no_fence() {
    let routes = Route::open().unwrap().routes().unwrap();
    let left = routes
        .iter()
        .find(|(_, to)| to.to_string() == "10.20.0.0/16");
    assert_eq!(left, None);
}

#[test]
fn a_wrong_key_lets_nothing_through() {
    if !has_wireguard() {
        return;
    }
    on_a_host(|world| {
        let mut hosts = Hosts::new(world);
        let one = container(hosts.here, "one");
        let two = container(&hosts.there, "two");
        one.serve(80);
        two.serve(80);
        reaches_soon(&one, &two);
        let wrong = list(&hosts.here.key(), &somebody().to_string());
        hosts.here.network(encrypted(&wrong, &[])).unwrap();
        assert!(!reaches(&one, &two) && !reaches(&two, &one));
        let right = encrypted(&hosts.peers, &[]);
        hosts.here.network(right.clone()).unwrap();
        reaches_soon(&one, &two);
        reaches_soon(&two, &one);
        // A host that is no more.
        let alone = format!("a={HOST}@{}", hosts.here.key());
        hosts.here.network(encrypted(&alone, &[])).unwrap();
        assert!(!reaches(&one, &two) && !reaches(&two, &one));
        hosts.here.network(right).unwrap();
        reaches_soon(&one, &two);

        // A second network needs a port of its own, and one that nobody has.
        let other = |port: &str| {
            let mut other = encrypted(&hosts.peers, &[("port", port)]);
            other.name = "other".to_owned();
            other.pools[0].subnet = "10.21.0.0/16".to_owned();
            other
        };
        let refused = said(hosts.here, other("51820"));
        assert!(refused.contains("network wide has port 51820"), "{refused}");
        let taken = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let SocketAddr::V4(at) = taken.local_addr().unwrap() else {
            panic!()
        };
        let refused = said(hosts.here, other(&at.port().to_string()));
        assert!(refused.contains("of this host is taken"), "{refused}");
        hosts.here.network(other("51821")).unwrap();
        reaches_soon(&one, &two);
        hosts.nothing_in_the_clear();
    });
}

#[test]
fn netd_is_killed_while_it_encrypts() {
    if !has_wireguard() {
        return;
    }
    for point in [
        "netd.encrypt.fenced",
        "netd.overlay.linked",
        "netd.encrypt.told",
        "netd.overlay.led",
    ] {
        on_a_host(|world| {
            let peers = list(&world.key(), &somebody().to_string());
            world.arm(point, Action::Kill);
            world.network(encrypted(&peers, &[])).unwrap_err();
            assert!(world.fired(point), "{point}");
            world.restart();
            // Its record was there before, so the next one finishes it.
            let again = said(world, encrypted(&peers, &[]));
            assert!(again.contains("already exists"), "{point}: {again}");
            let found = world.call(async |mut netd| netd.reconcile(ReconcileRequest {}).await);
            assert_eq!(found.unwrap().findings, [], "{point}");
            let name = RemoveNetworkRequest {
                network: "wide".to_owned(),
                force: false,
            };
            world
                .call(async |mut netd| netd.remove_network(name).await)
                .unwrap();
            assert!(!world.links().iter().any(|name| name.starts_with("svx")));
            assert_no_fence();
        });
    }
}

#[test]
fn a_key_is_made_once_whoever_dies_meanwhile() {
    on_a_host(|world| {
        let file = world.path("state/netd/wireguard.key");
        let key = world.key();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        world.restart();
        assert_eq!(world.key(), key);
        // Killed while it makes one.
        world.kill();
        std::fs::remove_file(&file).unwrap();
        world.arm("netd.key.written", Action::Kill);
        world.begin();
        eventually("it is killed there", || {
            let _ = world.call(async |mut netd| netd.info(InfoRequest {}).await);
            world.fired("netd.key.written")
        });
        assert!(!file.exists());
        world.restart();
        let next = world.key();
        assert_ne!(next, key);
        world.restart();
        assert_eq!(world.key(), next);
        let private = std::fs::read_to_string(&file).unwrap();
        let log = std::fs::read_to_string(world.path("log")).unwrap();
        assert!(!log.contains(private.trim_end()));
    });
}

/// The kernel goes on with the key that it was told.
#[test]
fn a_key_that_was_replaced_is_told() {
    if !has_wireguard() {
        return;
    }
    on_a_host(|world| {
        let peers = list(&world.key(), &somebody().to_string());
        world.network(encrypted(&peers, &[])).unwrap();
        assert_eq!(reconcile(world), []);
        world.kill();
        std::fs::remove_file(world.path("state/netd/wireguard.key")).unwrap();
        world.restart_dead();
        let found = reconcile(world);
        let [finding] = &found[..] else {
            panic!("{found:?}")
        };
        let what = format!(
            "is for another key than this host's, which is {}",
            world.key()
        );
        assert!(finding.what.contains(&what), "{finding:?}");
        let trouble = "make the network again";
        assert!(finding.trouble.contains(trouble), "{finding:?}");
    });
}

/// Before anything of the network is there that would keep datagrams from it.
#[test]
fn a_port_that_another_program_has_is_refused() {
    on_a_host(|world| {
        let peers = list(&world.key(), &somebody().to_string());
        for address in [HOST, Ipv4Addr::UNSPECIFIED] {
            let taken = UdpSocket::bind((address, 0)).unwrap();
            let port = taken.local_addr().unwrap().port().to_string();
            let refused = said(world, encrypted(&peers, &[("port", &port)]));
            let sentence = format!("udp port {port} of this host is taken");
            assert!(refused.contains(&sentence), "{refused}");
        }
    });
}

#[test]
fn lists_with_another_key_for_this_host_and_kernels_without_wireguard_are_refused() {
    let is_there = has_wireguard();
    on_a_host(|world| {
        let own = world.key();
        let wrong = said(world, encrypted(&list(&somebody().to_string(), &own), &[]));
        let sentence = format!("host a is this one, and its key is {own}: the list has another");
        assert!(wrong.contains(&sentence), "{wrong}");
        let none = encrypted(&format!("a={HOST}@{own},b={NEIGHBOUR}"), &[]);
        assert!(said(world, none).contains("host b has no key"));
        let right = encrypted(&list(&own, &somebody().to_string()), &[]);
        if is_there {
            return drop(world.network(right).unwrap());
        }
        let refused = said(world, right);
        assert!(
            refused.contains("this host's kernel has no WireGuard"),
            "{refused}"
        );
        // Nothing of it is left.
        let networks =
            world.call(async |mut netd| netd.list_networks(ListNetworksRequest::default()).await);
        let networks = networks.unwrap().networks;
        assert!(!networks.iter().any(|network| network.name == "wide"));
        assert!(!world.links().iter().any(|name| name.starts_with("svx")));
        assert_no_fence();
    });
}
