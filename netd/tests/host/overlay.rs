//! A network that spans hosts: this one with netd on it, and its neighbour as another host of the list.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use netd::netlink::{Mac, Netns, Route, link};
use netd::network::{Kind, PoolRequest, Request};
use netd::overlay::{Here, Tunnel};
use slipway_proto::netd::v1::*;

use crate::limits::stream_as;
use crate::overlay_names::{answer_names, resolve};
use crate::world::*;

pub const PEERS: &str = "a=192.0.2.1,b=192.0.2.2,c=192.0.2.3";
const SUBNET: &str = "10.20.0.0/16";
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 1);
const OUTSIDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);

pub fn asked(options: &[(&str, &str)]) -> CreateNetworkRequest {
    let pool = create_network_request::Pool {
        subnet: SUBNET.to_owned(),
        ..create_network_request::Pool::default()
    };
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    CreateNetworkRequest {
        name: "wide".to_owned(),
        driver: "overlay".to_owned(),
        pools: vec![pool],
        options: options.iter().map(text).collect(),
        ..CreateNetworkRequest::default()
    }
}

pub fn container(world: &World, name: &str) -> Container {
    let wanted = CreateEndpointRequest {
        network: "wide".to_owned(),
        ..request(name, &[])
    };
    world.attach(wanted).unwrap()
}

/// The neighbour's end of the network, as netd would plan it there.
pub fn their_end() -> Tunnel {
    let pool = PoolRequest {
        subnet: SUBNET.parse().ok(),
        ..PoolRequest::default()
    };
    let request = Request {
        name: "wide".to_owned(),
        kind: Kind::Overlay,
        v4: pool,
        options: [("peers".to_owned(), PEERS.to_owned())].into(),
        ..Request::default()
    };
    let here = Here {
        address: NEIGHBOUR.into(),
        mtu: 1500,
    };
    Tunnel::of(&netd::overlay::plan(request, &[here]).unwrap()).unwrap()
}

/// Makes it, with the gateway's address on `lo`.
pub fn join(neighbour: &Netns, tunnel: &Tunnel) {
    let made = neighbour.inside(|| {
        let mut route = Route::open()?;
        route.apply(&[
            link::add_address(1, tunnel.gateway, IpNet::from(tunnel.gateway)),
            tunnel.create(),
        ])?;
        let index = route.link(&tunnel.name)?.unwrap().index;
        route.apply(&[link::set_up(index)])?;
        route.apply(&tunnel.lead(index))
    });
    made.unwrap();
}

#[test]
fn hosts_reach_each_others_containers_and_see_who_they_are() {
    on_a_host(|world| {
        let made = world.network(asked(&[("peers", PEERS)])).unwrap();
        let shown = (made.driver.as_str(), made.scope.as_str());
        assert_eq!(shown, ("overlay", "global"));
        let [pool] = &made.pools[..] else { panic!() };
        let shown = [&pool.subnet, &pool.gateway, &pool.ip_range];
        assert_eq!(shown, [SUBNET, "10.20.0.1", "10.20.0.0/24"]);
        let peer = |peer: &network_details::Peer| {
            format!(
                "{} {} {} {}",
                peer.name, peer.address, peer.subnet, peer.here
            )
        };
        let peers: Vec<_> = made.peers.iter().map(peer).collect();
        assert_eq!(
            peers,
            [
                "a 192.0.2.1 10.20.0.0/24 true",
                "b 192.0.2.2 10.20.1.0/24 false",
                "c 192.0.2.3 10.20.2.0/24 false"
            ]
        );

        let tunnel = their_end();
        assert_eq!(tunnel.name, format!("svx{}", &made.id[..10]));
        join(&world.neighbour, &tunnel);
        let web = container(world, "web");
        assert_eq!(web.address(), Ipv4Addr::new(10, 20, 0, 2));
        web.serve(80);
        let from_there = world.neighbour.inside(|| ask((web.address(), 80)));
        assert_eq!(from_there.unwrap(), THEIRS.to_string());

        // The other way round.
        let listen = || std::net::TcpListener::bind((THEIRS, 80));
        let listener = world.neighbour.inside(listen).unwrap();
        let client = std::thread::spawn(move || listener.accept().unwrap().1.ip());
        // The connection is enough.
        let _ = web.netns.inside(|| ask_briefly((THEIRS, 80)));
        assert_eq!(client.join().unwrap(), IpAddr::from(web.address()));

        // Another network's containers have no part in it.
        let stranger = world.run("stranger", &[]);
        assert!(stranger.netns.inside(|| ask_briefly((THEIRS, 80))).is_err());
        assert!(
            stranger
                .netns
                .inside(|| ask_briefly((web.address(), 80)))
                .is_err()
        );
        // Nor has a neighbour by any way but the tunnel.
        let by_the_lan = world.neighbour.inside(|| {
            let mut route = Route::open()?;
            let index = route.link("lan0")?.unwrap().index;
            let slice = "10.20.0.0/24".parse().unwrap();
            route.apply(&[link::replace_route(slice, HOST.into(), index)])?;
            ask_briefly((web.address(), 80))
        });
        assert!(by_the_lan.is_err());
    });
}

/// A frame of a tunnel: a udp datagram from one address to another inside.
pub fn frame(vni: u32, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut frame = vec![8, 0, 0, 0];
    frame.extend((vni << 8).to_be_bytes());
    frame.extend(Mac::of(OURS.into()).0);
    frame.extend(Mac::of(THEIRS.into()).0);
    frame.extend([8, 0]);
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend(from.octets());
    ip.extend(to.octets());
    let sum = ip
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = sum.sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(7u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 12, 0, 0]);
    frame.extend(*b"evil");
    frame
}

#[test]
fn only_hosts_of_the_list_send_into_it_and_only_as_themselves() {
    on_a_host(|world| {
        world
            .network(asked(&[("peers", PEERS), ("vni", "77")]))
            .unwrap();
        let web = container(world, "web");
        let heard = web
            .netns
            .inside(|| UdpSocket::bind((web.address(), 9)))
            .unwrap();
        let lan = world.neighbour.inside(|| {
            let mut route = Route::open()?;
            let index = route.link("lan0")?.unwrap().index;
            route.apply(&[link::add_address(
                index,
                OUTSIDER.into(),
                "192.0.2.66/24".parse().unwrap(),
            )])?;
            Ok((
                UdpSocket::bind((NEIGHBOUR, 0))?,
                UdpSocket::bind((OUTSIDER, 0))?,
            ))
        });
        let (peer, outsider) = lan.unwrap();
        let send = |from: &UdpSocket, frame: &[u8]| {
            from.send_to(frame, (HOST, 4789)).unwrap();
        };
        let there = Ipv4Addr::new(10, 20, 1, 5);
        let forged = [
            // As somebody of this host, of no host, and of another network.
            frame(77, Ipv4Addr::new(10, 20, 0, 3), web.address(), 9),
            frame(77, Ipv4Addr::new(192, 0, 2, 2), web.address(), 9),
            frame(78, there, web.address(), 9),
        ];
        send(&outsider, &frame(77, there, web.address(), 9));
        forged.iter().for_each(|frame| send(&peer, frame));
        // A container sends what the peer would.
        let stranger = world.run("stranger", &[]);
        let inside = stranger
            .netns
            .inside(|| UdpSocket::bind((stranger.address(), 0)));
        send(&inside.unwrap(), &frame(77, there, web.address(), 9));
        // So does a program of this host.
        let own = UdpSocket::bind((HOST, 0)).unwrap();
        send(&own, &frame(77, there, web.address(), 9));
        // Frames are handled in the order in which they come.
        send(&peer, &frame(77, there, web.address(), 9));
        heard
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut buffer = [0; 64];
        let (_, from) = heard.recv_from(&mut buffer).unwrap();
        assert_eq!(from, SocketAddr::from((there, 7)));
        heard
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(
            heard.recv_from(&mut buffer).is_err(),
            "one of the forged ones"
        );
    });
}

#[test]
fn containers_elsewhere_reach_containers_and_not_what_the_host_serves() {
    on_a_host(|world| {
        world.network(asked(&[("peers", PEERS)])).unwrap();
        join(&world.neighbour, &their_end());
        let there = Ipv4Addr::new(10, 20, 1, 5);
        let as_container = |route: &mut Route| {
            route.apply(&[link::add_address(
                1,
                there.into(),
                IpNet::from(IpAddr::from(there)),
            )])
        };
        let routed = world.neighbour.inside(|| as_container(&mut Route::open()?));
        routed.unwrap();
        let own = std::net::TcpListener::bind((OURS, 8080)).unwrap();
        let web = container(world, "web");
        web.serve(80);
        let shown = CreateEndpointRequest {
            network: "wide".to_owned(),
            ..request("shown", &["8081:80"])
        };
        let shown = world.attach(shown).unwrap();
        shown.serve(80);
        let reach = |from: Ipv4Addr, to: (Ipv4Addr, u16), patience| {
            let connect = || stream_as(from, to, patience);
            world.neighbour.inside(connect).map(drop)
        };
        reach(there, (web.address(), 80), PATIENCE).unwrap();
        reach(there, (OURS, 8081), PATIENCE).unwrap();
        // Hosts are among themselves.
        reach(THEIRS, (OURS, 8080), PATIENCE).unwrap();
        let refused = reach(there, (OURS, 8080), MOMENT).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        // What this host asks of it is answered.
        let theirs = world
            .neighbour
            .inside(|| std::net::TcpListener::bind((there, 80)));
        let _theirs = theirs.unwrap();
        stream_as(OURS, (there, 80), PATIENCE).unwrap();
        drop(own);
    });
}

#[test]
fn what_cannot_span_hosts_is_refused() {
    on_a_host(|world| {
        let said = |request| world.network(request).unwrap_err().message().to_owned();
        let elsewhere = asked(&[("peers", "b=192.0.2.2,c=192.0.2.3")]);
        assert!(said(elsewhere).contains("none of the hosts' addresses is one of this host's"));
        world
            .network(asked(&[("peers", PEERS), ("vni", "7")]))
            .unwrap();
        let mut other = asked(&[("peers", PEERS), ("vni", "7")]);
        other.name = "other".to_owned();
        assert!(said(other.clone()).contains("overlaps"));
        other.pools[0].subnet = "10.21.0.0/16".to_owned();
        assert!(said(other.clone()).contains("network wide has number 7"));
        // The part that no host has is not free either.
        let mut bridge = asked(&[]);
        bridge.driver = "bridge".to_owned();
        bridge.name = "front".to_owned();
        bridge.pools[0].subnet = "10.20.200.0/24".to_owned();
        assert!(said(bridge).contains("overlaps"));
        // Somebody else's tunnel.
        let foreign = netd::netlink::vxlan::Vxlan {
            name: "vx8",
            vni: 8,
            mac: Mac::of(OUTSIDER.into()),
            local: HOST.into(),
            mtu: 1450,
        };
        Route::open().unwrap().apply(&[foreign.create()]).unwrap();
        other.options.insert("vni".to_owned(), "8".to_owned());
        assert!(said(other).contains("another VXLAN link of this host has number 8"));
        let networks = world
            .call(async |mut netd| netd.list_networks(ListNetworksRequest::default()).await)
            .unwrap();
        assert_eq!(networks.networks.len(), 4, "what was refused left nothing");

        let at = |address: &str| CreateEndpointRequest {
            network: "wide".to_owned(),
            ipv4_address: address.to_owned(),
            ..request("web", &[])
        };
        let Err(status) = world.attach(at("10.20.1.9")) else {
            panic!("it is another host's")
        };
        assert!(status.message().contains("host b (192.0.2.2)"), "{status}");
        assert_eq!(
            world.attach(at("10.20.0.9")).unwrap().endpoint.ipv4_address,
            "10.20.0.9"
        );
    });
}

#[test]
fn a_list_changes_while_containers_run_and_moves_nobody() {
    on_a_host(|world| {
        let two = "a=192.0.2.1,-,c=192.0.2.3";
        world.network(asked(&[("peers", two)])).unwrap();
        let tunnel = their_end();
        join(&world.neighbour, &tunnel);
        let web = container(world, "web");
        web.serve(80);
        let reached = |world: &World| {
            let web = (web.address(), 80);
            world.neighbour.inside(|| ask_briefly(web)).is_ok()
        };
        assert!(!reached(world), "it is not in the list");
        assert!(
            web.netns
                .inside(|| resolve(OURS, "there.", RecordType::A))
                .unwrap()
                .1
                .is_empty()
        );

        let made = world.network(asked(&[("peers", PEERS)])).unwrap();
        assert_eq!(made.peers.len(), 3);
        eventually("the container is reached", || reached(world));
        let _there = answer_names(&world.neighbour);
        let known = || {
            web.netns
                .inside(|| resolve(OURS, "there.", RecordType::A))
                .unwrap()
                .1
        };
        eventually("they answer", || known() == ["10.20.1.9"]);
        let refused = |world: &World, peers: &str| {
            let said = world.network(asked(&[("peers", peers)])).unwrap_err();
            said.message().to_owned()
        };
        assert!(refused(world, PEERS).contains("already exists"));
        let moved = "a=192.0.2.1,c=192.0.2.3,b=192.0.2.2";
        assert!(refused(world, moved).contains("host b would have other addresses"));
        let mut other = asked(&[("peers", two)]);
        other.internal = true;
        assert!(
            world
                .network(other)
                .unwrap_err()
                .message()
                .contains("already exists")
        );
        world.restart();
        eventually("the container is reached", || reached(world));

        world.network(asked(&[("peers", two)])).unwrap();
        assert!(!reached(world));
        let routes = Route::open().unwrap().routes().unwrap();
        assert!(
            !routes
                .iter()
                .any(|(_, to)| to.to_string() == "10.20.1.0/24"),
            "{routes:?}"
        );
        // Where no host is, nobody else is looked for, though there is a way to who would say no.
        let mut route = Route::open().unwrap();
        let lan = route.link("lan0").unwrap().unwrap().index;
        let everywhere = "0.0.0.0/0".parse().unwrap();
        route
            .apply(&[link::add_route(everywhere, NEIGHBOUR.into(), lan)])
            .unwrap();
        let lost = web.netns.inside(|| ask_briefly((THEIRS, 80)));
        let lost = lost.unwrap_err();
        assert_eq!(lost.kind(), io::ErrorKind::TimedOut);
    });
}
