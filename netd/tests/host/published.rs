//! Published ports: who reaches them, who does not, and what a restart or a flush does to them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::world::*;
use slipway_proto::netd::v1::*;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_port_is_reached_from_everywhere_and_keeps_the_clients_address() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80", "3001:81/udp"]);
        web.serve(80).serve_udp(81);
        let other = world.run("other", &[]);
        let gateway = web.endpoint.ipv4_gateway.clone();
        assert_eq!(
            (web.address(), gateway.as_str()),
            ([172, 17, 0, 2].into(), "172.17.0.1")
        );

        assert_eq!(
            ask((LOOPBACK, 3000)).unwrap(),
            gateway,
            "from the host's loopback"
        );
        assert_eq!(
            ask((Ipv6Addr::LOCALHOST, 3000)).unwrap(),
            gateway,
            "from ::1"
        );
        assert_eq!(
            ask((HOST, 3000)).unwrap(),
            HOST.to_string(),
            "from the host to itself"
        );
        let from_lan = world.neighbour.inside(|| ask((HOST, 3000))).unwrap();
        assert_eq!(
            from_lan,
            NEIGHBOUR.to_string(),
            "the LAN client's own address"
        );
        assert_eq!(
            other.netns.inside(|| ask((HOST, 3000))).unwrap(),
            gateway,
            "hairpin"
        );
        assert_eq!(
            web.netns.inside(|| ask((HOST, 3000))).unwrap(),
            gateway,
            "hairpin to oneself"
        );
        let direct = other.netns.inside(|| ask((web.address(), 80))).unwrap();
        assert_eq!(
            direct, other.endpoint.ipv4_address,
            "a neighbour on the bridge"
        );

        let from_lan = world
            .neighbour
            .inside(|| ask_udp((HOST, 3001), b"?"))
            .unwrap();
        assert_eq!(
            from_lan,
            NEIGHBOUR.to_string().into_bytes(),
            "udp from the LAN"
        );
        assert_eq!(
            ask_udp((LOOPBACK, 3001), b"?").unwrap(),
            gateway.as_bytes(),
            "udp, loopback"
        );

        // Outbound: the LAN sees the host's address.
        let lan = Container {
            endpoint: Endpoint::default(),
            netns: world
                .neighbour
                .inside(netd::netlink::Netns::current)
                .unwrap(),
        };
        lan.serve(8000);
        assert_eq!(
            web.netns.inside(|| ask((NEIGHBOUR, 8000))).unwrap(),
            HOST.to_string()
        );

        world.release("web");
        assert!(ask_briefly((LOOPBACK, 3000)).is_err(), "released");
        assert!(
            world
                .neighbour
                .inside(|| ask_briefly((HOST, 3000)))
                .is_err()
        );
    });
}

#[test]
fn the_lan_reaches_neither_loopback_ports_nor_container_addresses() {
    on_a_host(|world| {
        let web = world.run("web", &["127.0.0.1:3000:80"]);
        web.serve(80);
        assert!(ask((LOOPBACK, 3000)).is_ok());
        world
            .neighbour
            .inside(|| {
                assert!(
                    ask_briefly((HOST, 3000)).is_err(),
                    "published on loopback only"
                );
                assert!(
                    ask_briefly((web.address(), 80)).is_err(),
                    "the container's own address"
                );
                assert!(
                    ask_briefly((Ipv4Addr::new(172, 17, 0, 1), 53)).is_err(),
                    "the gateway's resolver"
                );
                // A packet to 127.0.0.1 that is really sent to the neighbour's router.
                let mut route = netd::netlink::Route::open()?;
                let index = route.link("lan0")?.unwrap().index;
                std::fs::write("/proc/sys/net/ipv4/conf/lan0/route_localnet", "1")?;
                route.apply(&[netd::netlink::link::add_route(
                    "127.9.0.0/16".parse().unwrap(),
                    HOST.into(),
                    index,
                )])?;
                assert!(ask_briefly((Ipv4Addr::new(127, 9, 0, 1), 3000)).is_err());
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn conflicts_are_found_before_anything_starts() {
    on_a_host(|world| {
        let _web = world.run("web", &["3000:80"]);
        let error = world.attach(request("again", &["3000:80"])).err().unwrap();
        assert_eq!(error.code(), tonic::Code::AlreadyExists);
        assert_eq!(
            error.message(),
            "Bind for 0.0.0.0:3000 failed: port is already allocated"
        );
        assert_eq!(slipway_service::error::reason(&error), "PORT_ALLOCATED");
        let foreign = std::net::TcpListener::bind((LOOPBACK, 3001)).unwrap();
        let error = world.attach(request("again", &["3001:80"])).err().unwrap();
        assert!(
            error.message().contains("another program on this host"),
            "{error}"
        );
        drop(foreign);
        let late = world.run("again", &["3001:80", "0:81", "0:82"]);
        let chosen: Vec<u32> = late
            .endpoint
            .ports
            .iter()
            .map(|port| port.host_port)
            .collect();
        assert!(
            chosen[1] >= 32768 && chosen[2] > 32768 && chosen[1] != chosen[2],
            "{chosen:?}"
        );
        let held = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 3000));
        assert!(held.is_err(), "nobody else can take a published port");
    });
}

#[test]
fn ports_come_and_go_while_the_container_runs() {
    on_a_host(|world| {
        let web = world.run("web", &[]);
        web.serve(80);
        let id = web.endpoint.id.clone();
        let add = AddPortsRequest {
            endpoint_id: id.clone(),
            ports: vec![binding("3000:80")],
        };
        world
            .call(async |mut netd| netd.add_ports(add).await)
            .unwrap();
        assert!(ask((LOOPBACK, 3000)).is_ok());
        let remove = RemovePortsRequest {
            endpoint_id: id,
            ports: vec![binding("3000:80")],
        };
        let left = world
            .call(async |mut netd| netd.remove_ports(remove).await)
            .unwrap();
        assert!(left.ports.is_empty() && ask_briefly((LOOPBACK, 3000)).is_err());
    });
}

#[test]
fn kill_9_loses_nothing_and_orphans_go() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        let gone = world.run("gone", &["3002:80"]);
        drop(gone.netns);
        world.restart();
        assert!(ask((LOOPBACK, 3000)).is_ok(), "still published");
        assert!(world.neighbour.inside(|| ask((HOST, 3000))).is_ok());
        let error = world.attach(request("next", &["3000:80"])).err().unwrap();
        assert!(
            error.message().contains("already allocated"),
            "the port is still held"
        );
        let next = world.run("next", &[]);
        assert_ne!(next.address(), web.address());
        next.serve(80);
        assert!(
            web.netns.inside(|| ask((next.address(), 80))).is_ok(),
            "one bridge"
        );

        let live = |name: &str| sync_request::Live {
            container_id: container_id(name),
            netns: String::new(),
        };
        let sync = SyncRequest {
            live: vec![live("web")],
        };
        let done = world.call(async |mut netd| netd.sync(sync).await).unwrap();
        assert!(done.released.contains(&next.endpoint.id));
        let sync = SyncRequest { live: vec![] };
        let done = world.call(async |mut netd| netd.sync(sync).await).unwrap();
        assert_eq!(done.released, std::slice::from_ref(&web.endpoint.id));
        assert!(ask_briefly((LOOPBACK, 3000)).is_err());
        let web_link = format!("sw{}", &web.endpoint.id[..10]);
        eventually("the link is deleted", || !world.links().contains(&web_link));
    });
}

#[test]
fn a_udp_client_that_goes_on_sending_reaches_the_next_container() {
    on_a_host(|world| {
        world.run("old", &["3001:81/udp"]).serve_udp(81);
        let socket = world
            .neighbour
            .inside(|| std::net::UdpSocket::bind((NEIGHBOUR, 4444)))
            .unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(50)))
            .unwrap();
        let answers = || {
            // Refused while nobody listens.
            let _ = socket.send_to(b"?", (HOST, 3001));
            socket.recv(&mut [0; 64]).is_ok()
        };
        eventually("the first container answers", answers);
        world.release("old");
        eventually("nobody answers", || !answers());
        world.run("new", &["3001:81/udp"]).serve_udp(81);
        eventually("the second container answers", answers);
    });
}

#[test]
fn teardown_leaves_nothing() {
    on_a_host(|world| {
        let _web = world.run("web", &["3000:80"]);
        let forwarding = || netd::sysctl::read("ipv4/ip_forward").unwrap();
        assert_eq!(forwarding(), "1");
        world
            .call(async |mut netd| netd.teardown(TeardownRequest {}).await)
            .unwrap();
        assert_eq!(forwarding(), "0");
        eventually("only the LAN is left", || {
            let mut links = world.links();
            links.sort();
            links == ["lan0", "lo"]
        });
        // And it comes back by itself.
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        eventually("the page comes again", || {
            ask_briefly((LOOPBACK, 3000)).is_ok()
        });
    });
}
