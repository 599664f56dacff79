//! Who may use a published port: by ranges of clients, asked for or from netd.toml.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use ipnet::IpNet;
use netd::netlink::{Route, link};
use slipway_proto::netd::v1::*;
use socket2::{Domain, Socket, Type};

use crate::ipv6::{network, on};
use crate::world::*;

/// The neighbour's second addresses.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 3);

/// A LAN with two clients of each version of IP, and a network with both.
pub fn front(world: &World) {
    world.with_ipv6();
    let more = || {
        let mut route = Route::open()?;
        let index = route.link("lan0")?.unwrap().index;
        route.apply(&[
            link::add_address(index, OTHER.into(), IpNet::new(OTHER.into(), 24).unwrap()),
            link::add_address(index, OTHER6.into(), IpNet::new(OTHER6.into(), 64).unwrap()),
        ])
    };
    world.neighbour.inside(more).unwrap();
    let front = network("front", &["10.7.0.0/24", "fd00:7::/64"]);
    world.network(front).unwrap();
}

/// A connection of the client with this address, which waits for nothing longer.
pub fn stream_as(
    client: impl Into<IpAddr>,
    server: impl Into<SocketAddr>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let (client, server) = (client.into(), server.into());
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.connect_timeout(&server.into(), patience)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// Whether the client with this address is served; waits long for what is expected only.
fn is_served(world: &World, client: IpAddr, server: SocketAddr, expected: bool) -> bool {
    let patience = if expected { PATIENCE } else { MOMENT };
    let ask = || {
        let mut stream = stream_as(client, server, patience)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let said = world.neighbour.inside(ask);
    if let Ok(said) = &said {
        assert_eq!(*said, client.to_string(), "the client's own address");
    }
    said.is_ok()
}

pub fn from(port: &str, ranges: &[&str]) -> PortBinding {
    PortBinding {
        allow_from: ranges.iter().map(|range| (*range).to_owned()).collect(),
        ..binding(port)
    }
}

/// Holds the port to what its clients on the LAN find: first address, second, and both of IPv6.
fn assert_served(world: &World, port: u16, expected: [bool; 4]) {
    let clients: [(IpAddr, IpAddr); 4] = [
        (NEIGHBOUR.into(), HOST.into()),
        (OTHER.into(), HOST.into()),
        (NEIGHBOUR6.into(), HOST6.into()),
        (OTHER6.into(), HOST6.into()),
    ];
    for ((client, host), expected) in clients.into_iter().zip(expected) {
        let served = is_served(world, client, (host, port).into(), expected);
        assert_eq!(served, expected, "{client} at port {port}");
    }
}

#[test]
fn only_those_clients_reach_a_port_that_may() {
    on_a_host(|world| {
        front(world);
        let one6 = format!("{OTHER6}/128");
        let request = CreateEndpointRequest {
            ports: vec![
                from("3000:80", &["192.0.2.2"]),
                from("3001:80", &["192.0.2.3/32", &one6]),
                from(&format!("{HOST}:3002:80"), &["192.0.2.3"]),
                from("3003:80", &["0.0.0.0/0"]),
                binding("3004:80"),
            ],
            ..on("front", "web", &[])
        };
        let web = world.attach(request).unwrap();
        web.serve(80);
        let told: Vec<&[String]> = web.endpoint.ports.iter().map(|p| &*p.allow_from).collect();
        assert_eq!(told[0], ["192.0.2.2/32"]);
        assert!(told[4].is_empty());

        let check = |world: &World| {
            assert_served(world, 3000, [true, false, false, false]);
            assert_served(world, 3001, [false, true, false, true]);
            // one address
            assert_served(world, 3002, [false, true, false, false]);
            // all of IPv4
            assert_served(world, 3003, [true, true, false, false]);
            // no limit
            assert_served(world, 3004, [true; 4]);
        };
        check(world);
        for port in 3000..3005 {
            assert!(ask((HOST, port)).is_ok(), "the host itself: {port}");
        }
        assert!(ask((Ipv4Addr::LOCALHOST, 3000)).is_ok());
        assert!(
            ask((Ipv6Addr::LOCALHOST, 3000)).is_ok(),
            "also by the relay"
        );
        let other = world.attach(on("front", "other", &[])).unwrap();
        assert!(
            other.netns.inside(|| ask_briefly((HOST, 3000))).is_err(),
            "a container by the host's port"
        );
        assert!(other.netns.inside(|| ask((web.address(), 80))).is_ok());

        world.restart();
        check(world);
        world.release("web");
        let next = world.attach(on("front", "next", &["3000:80"])).unwrap();
        next.serve(80);
        // the next one has none of it
        assert_served(world, 3000, [true; 4]);
    });
}

/// Whether the client is served by one who sees the host in its place.
fn is_served_by_relay(world: &World, client: Ipv6Addr, relay: SocketAddr, wait: Duration) -> bool {
    let read = || stream_as(client, relay, wait)?.read_exact(&mut [0]);
    world.neighbour.inside(read).is_ok()
}

#[test]
fn a_relayed_port_is_limited_as_well() {
    on_a_host(|world| {
        front(world);
        let allowed = format!("{OTHER6}");
        let request = CreateEndpointRequest {
            ports: vec![from(":::3000:80", &[&allowed])],
            ..request("four", &[])
        };
        let four = world.attach(request).unwrap();
        four.serve(80);
        let relay = SocketAddr::from((HOST6, 3000));
        assert!(is_served_by_relay(world, OTHER6, relay, PATIENCE));
        assert!(!is_served_by_relay(world, NEIGHBOUR6, relay, MOMENT));
        assert!(ask((Ipv6Addr::LOCALHOST, 3000)).is_ok());
    });
}

#[test]
fn a_port_stays_limited_when_a_neighbouring_one_goes_with_its_container() {
    on_a_host(|world| {
        front(world);
        let one = OTHER.to_string();
        let one6 = OTHER6.to_string();
        let limited = |request: CreateEndpointRequest, port: &str| CreateEndpointRequest {
            ports: vec![from(port, &[&one, &one6])],
            ..request
        };
        let run = |world: &World, request, port| world.attach(limited(request, port)).unwrap();
        let _gone = run(world, on("front", "gone", &[]), "3000:80");
        let web = run(world, on("front", "web", &[]), "3001:80");
        let _gone_four = run(world, request("gone-four", &[]), ":::3010:80");
        let four = run(world, request("four", &[]), ":::3011:80");
        web.serve(80);
        four.serve(80);
        // The table is written whole, with the ports of all containers at once.
        world.restart();
        for gone in ["gone", "gone-four"] {
            world.release(gone);
            assert_served(world, 3001, [false, true, false, true]);
            let relay = SocketAddr::from((HOST6, 3011));
            assert!(is_served_by_relay(world, OTHER6, relay, PATIENCE));
            assert!(!is_served_by_relay(world, NEIGHBOUR6, relay, MOMENT));
        }
        // The same port again is as limited, and the one after it goes.
        let next = run(world, on("front", "next", &[]), "3000:80");
        next.serve(80);
        world.release("web");
        assert_served(world, 3000, [false, true, false, true]);
    });
}

#[test]
fn what_says_nothing_is_limited_by_netd_toml() {
    on_a_host_with("publish_from = [\"192.0.2.3\"]\n", |world| {
        front(world);
        let request = CreateEndpointRequest {
            ports: vec![
                binding("3000:80"),
                from("3001:80", &["0.0.0.0/0", "::/0"]),
                from("3002:80", &["192.0.2.2"]),
                binding(&format!("{HOST}:3003:80")),
            ],
            ..on("front", "web", &[])
        };
        let web = world.attach(request).unwrap();
        web.serve(80);
        assert_eq!(web.endpoint.ports[0].allow_from, ["192.0.2.3/32"]);
        assert_served(world, 3000, [false, true, false, false]);
        // opened
        assert_served(world, 3001, [true; 4]);
        assert_served(world, 3002, [true, false, false, false]);
        assert_served(world, 3003, [false, true, false, false]);
        assert!(ask((HOST, 3000)).is_ok(), "the host itself");
        let relayed = world
            .attach(self::request("four", &[":::3004:80"]))
            .unwrap();
        relayed.serve(80);
        let by_relay = world.neighbour.inside(|| ask_briefly((HOST6, 3004)));
        assert!(by_relay.is_err(), "nobody of IPv6");
        // Containers reach each other, and out.
        let other = world.attach(on("front", "other", &[])).unwrap();
        assert!(other.netns.inside(|| ask((web.address(), 80))).is_ok());
        let lan = Container {
            endpoint: Endpoint::default(),
            netns: world
                .neighbour
                .inside(netd::netlink::Netns::current)
                .unwrap(),
        };
        lan.serve(8000);
        assert!(other.netns.inside(|| ask((NEIGHBOUR, 8000))).is_ok());
    });
}

#[test]
fn what_is_no_range_is_refused() {
    on_a_host(|world| {
        let request = CreateEndpointRequest {
            ports: vec![from("3000:80", &["lan"])],
            ..request("web", &[])
        };
        let error = world.attach(request).err().unwrap();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(
            error
                .message()
                .contains("\"lan\" is not a range of clients")
        );
    });
}
