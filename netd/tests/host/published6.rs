//! Ports published over IPv6: led by the kernel, so that clients keep their addresses; the relay for `::1`, and for
//! containers that have IPv4 only.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};

use netd::netlink::{Netns, Route};
use slipway_proto::netd::v1::*;

use crate::ipv6::{network, on};
use crate::world::*;

const LOOPBACK6: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// A network with both versions of IP, and the same on the LAN.
fn front(world: &World) {
    world.with_ipv6();
    let front = network("front", &["10.7.0.0/24", "fd00:7::/64"]);
    world.network(front).unwrap();
}

fn published(endpoint: &Endpoint) -> Vec<(String, u32, bool)> {
    let ports = endpoint.ports.iter();
    let ports = ports.map(|p| (p.host_address.clone(), p.host_port, p.covers_ipv6));
    ports.collect()
}

#[test]
fn a_port_is_reached_over_ipv6_and_keeps_the_clients_address() {
    on_a_host(|world| {
        front(world);
        let web = world
            .attach(on("front", "web", &["3000:80", "3001:81/udp"]))
            .unwrap();
        web.serve(80).serve_udp(81);
        let other = world.attach(on("front", "other", &[])).unwrap();
        assert_eq!(published(&web.endpoint)[0], (String::new(), 3000, true));

        let from_lan = world.neighbour.inside(|| ask((HOST6, 3000))).unwrap();
        assert_eq!(
            from_lan,
            NEIGHBOUR6.to_string(),
            "the LAN client's own address"
        );
        let from_lan = world.neighbour.inside(|| ask((HOST, 3000))).unwrap();
        assert_eq!(from_lan, NEIGHBOUR.to_string(), "over IPv4 as well");
        assert_eq!(
            ask((HOST6, 3000)).unwrap(),
            HOST6.to_string(),
            "the host to itself"
        );
        let gateway = "fd00:7::1";
        assert_eq!(ask((LOOPBACK6, 3000)).unwrap(), gateway, "from ::1");
        let hairpin = |from: &Container| from.netns.inside(|| ask((HOST6, 3000))).unwrap();
        assert_eq!(hairpin(&other), gateway, "hairpin");
        assert_eq!(hairpin(&web), gateway, "hairpin to oneself");
        let udp = world
            .neighbour
            .inside(|| ask_udp((HOST6, 3001), b"?"))
            .unwrap();
        assert_eq!(udp, NEIGHBOUR6.to_string().into_bytes(), "udp from the LAN");

        let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 3000));
        assert!(taken.is_err(), "nobody else can take it");
        world.release("web");
        assert!(
            ask_briefly((LOOPBACK6, 3000)).is_err() && ask_briefly((HOST6, 3000)).is_err(),
            "released"
        );
        assert!(
            world
                .neighbour
                .inside(|| ask_briefly((HOST6, 3000)))
                .is_err()
        );
    });
}

#[test]
fn an_address_of_ipv6_can_be_asked_for() {
    on_a_host(|world| {
        front(world);
        let ports = ["::1:3000:80", &format!("{HOST6}:3001:80"), ":::3002:80"];
        let web = world.attach(on("front", "web", &ports)).unwrap();
        web.serve(80);
        let from_lan = |port| world.neighbour.inside(|| ask((HOST6, port)));
        let shut_out = || world.neighbour.inside(|| ask_briefly((HOST6, 3000)));
        assert!(
            ask((LOOPBACK6, 3000)).is_ok() && shut_out().is_err(),
            "on loopback"
        );
        assert!(
            ask_briefly((LOOPBACK6, 3001)).is_err() && from_lan(3001).is_ok(),
            "on one address"
        );
        assert!(
            ask((LOOPBACK6, 3002)).is_ok() && from_lan(3002).is_ok(),
            "on all of IPv6"
        );
        assert_eq!(from_lan(3002).unwrap(), NEIGHBOUR6.to_string());
        for port in 3000..3003 {
            assert!(
                ask_briefly((Ipv4Addr::LOCALHOST, port)).is_err(),
                "and not of IPv4: {port}"
            );
        }
        // A client whose address is of the link alone cannot be led, nor is it let through the relay.
        let link_local = || -> std::io::Result<(Ipv6Addr, u32)> {
            let mut route = Route::open()?;
            let index = route.link("lan0")?.unwrap().index;
            let all = route.addresses()?.into_iter();
            let own = all.filter_map(|(link, net)| match net.addr() {
                std::net::IpAddr::V6(own) if link == index => Some(own),
                _ => None,
            });
            let mut own = own.filter(Ipv6Addr::is_unicast_link_local);
            Ok((own.next().unwrap(), index))
        };
        let (own, _) = link_local().unwrap();
        let across = |port: u16| {
            let from = || {
                let (_, index) = link_local()?;
                ask(SocketAddrV6::new(own, port, 0, index))
            };
            world.neighbour.inside(from)
        };
        let lan = Container {
            endpoint: Endpoint::default(),
            netns: Netns::current().unwrap(),
        };
        lan.serve(8001);
        // Not before both have made sure that nobody else has their address.
        eventually("the host itself answers", || across(8001).is_ok());
        assert_eq!(across(3002).unwrap_or_default(), "");
    });
}

#[test]
fn conflicts_over_ipv6_are_found_before_anything_starts() {
    on_a_host(|world| {
        front(world);
        world
            .attach(on("front", "web", &["3000:80", "0.0.0.0:3001:80"]))
            .unwrap();
        let refused = |ports: &[&str]| {
            let error = world.attach(on("front", "late", ports)).err().unwrap();
            error.message().to_owned()
        };
        assert_eq!(
            refused(&[":::3000:80"]),
            "Bind for [::]:3000 failed: port is already allocated"
        );
        let one = format!("{HOST6}:3000:80");
        assert!(refused(&[&one]).contains("already allocated"));
        let only6 = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
            socket.set_only_v6(true)?;
            let any: std::net::SocketAddr = (Ipv6Addr::UNSPECIFIED, 3002).into();
            socket.bind(&any.into())?;
            socket.listen(1)?;
            std::io::Result::Ok(socket)
        };
        let foreign = only6().unwrap();
        assert!(refused(&["3002:80"]).contains("another program on this host"));
        drop(foreign);
        assert!(refused(&["::1:3003:81/udp"]).contains("use 127.0.0.1"));
        // What the other has is of IPv4 only.
        let late = world
            .attach(on("front", "late", &[":::3001:80", "3002:80", "0:80"]))
            .unwrap();
        let chosen = published(&late.endpoint)[2].1;
        late.serve(80);
        assert!(ask((HOST6, 3001)).is_ok() && ask((HOST6, u16::try_from(chosen).unwrap())).is_ok());
    });
}

#[test]
fn a_stream_over_ipv6_survives_netd() {
    on_a_host(|world| {
        front(world);
        let web = world.attach(on("front", "web", &["3000:80"])).unwrap();
        let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80));
        let listener = web.netns.inside(bind).unwrap();
        let mut client = world
            .neighbour
            .inside(|| TcpStream::connect((HOST6, 3000)))
            .unwrap();
        let (mut served, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), NEIGHBOUR6);
        world.restart();
        client.write_all(b"still").unwrap();
        let mut heard = [0; 5];
        served.read_exact(&mut heard).unwrap();
        drop(listener);
        web.serve(80);
        assert!(
            world.neighbour.inside(|| ask((HOST6, 3000))).is_ok(),
            "and new ones come"
        );
        assert!(ask((LOOPBACK6, 3000)).is_ok());
        let late = world.attach(on("front", "late", &[":::3000:80"]));
        assert!(late.err().unwrap().message().contains("already allocated"));
    });
}

#[test]
fn a_container_without_ipv6_is_relayed_to_only_if_that_was_asked_for() {
    on_a_host(|world| {
        world.with_ipv6();
        let web = world.run("web", &["3000:80", ":::3001:80"]);
        web.serve(80);
        assert_eq!(published(&web.endpoint)[0], (String::new(), 3000, false));
        assert_eq!(
            ask((LOOPBACK6, 3000)).unwrap(),
            "172.17.0.1",
            "the host itself"
        );
        let unsaid = world.neighbour.inside(|| ask_briefly((HOST6, 3000)));
        assert!(unsaid.is_err(), "nobody said IPv6");
        let said = world.neighbour.inside(|| ask((HOST6, 3001)));
        assert_eq!(said.unwrap(), "172.17.0.1");
        let udp = world.attach(request("late", &[":::3002:81/udp"]));
        assert!(
            udp.err()
                .unwrap()
                .message()
                .contains("give it a network with --ipv6")
        );
    });
}

#[test]
fn the_way_out_by_ipv6_is_that_of_the_best_network_that_has_it() {
    on_a_host(|world| {
        world
            .network(network("a", &["10.7.0.0/24", "fd00:7::/64"]))
            .unwrap();
        world
            .network(network("b", &["10.8.0.0/24", "fd00:8::/64"]))
            .unwrap();
        let web = world.attach(on("b", "web", &[])).unwrap();
        let join = |network: &str, gateway_priority: i32| {
            let more = CreateEndpointRequest {
                netns: web.netns.proc_path(),
                gateway_priority,
                ..on(network, "web", &[])
            };
            world.attach(more).unwrap()
        };
        let out = |netns: &Netns| {
            let look = || {
                let mut route = Route::open()?;
                let by = route.default_routes("::/0".parse().unwrap())?;
                let links = route.links()?;
                let name = |index: &u32| {
                    links
                        .iter()
                        .find(|l| l.index == *index)
                        .unwrap()
                        .name
                        .clone()
                };
                Ok(by.iter().map(name).collect::<Vec<_>>())
            };
            netns.inside(look).unwrap()
        };
        assert_eq!(out(&web.netns), ["eth0"]);
        // Without IPv6 it leads nobody out by that, however much it is preferred.
        join("bridge", 9);
        assert_eq!(out(&web.netns), ["eth0"]);
        let better = join("a", 0);
        assert_eq!(out(&web.netns), ["eth2"]);
        let gone = ReleaseEndpointRequest {
            endpoint_id: better.endpoint.id.clone(),
            container_id: better.endpoint.container_id.clone(),
            netns: web.netns.proc_path(),
        };
        world
            .call(async |mut netd| netd.release_endpoint(gone).await)
            .unwrap();
        assert_eq!(out(&web.netns), ["eth0"]);
    });
}
