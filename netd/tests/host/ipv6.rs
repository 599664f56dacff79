//! Networks with IPv6: addresses, ways out, and who reaches whom.

use std::net::{Ipv6Addr, TcpListener, TcpStream};

use hickory_proto::rr::RecordType;
use netd::netlink::{Netns, Route, link};
use netd::sysctl;
use slipway_proto::netd::v1::create_network_request::Pool;
use slipway_proto::netd::v1::*;

use crate::names::resolve;
use crate::world::*;

pub fn network(name: &str, subnets: &[&str]) -> CreateNetworkRequest {
    let pool = |subnet: &&str| Pool {
        subnet: subnet.to_string(),
        ..Pool::default()
    };
    CreateNetworkRequest {
        name: name.to_owned(),
        ipv6: true,
        pools: subnets.iter().map(pool).collect(),
        ..CreateNetworkRequest::default()
    }
}

pub fn on(network: &str, name: &str, ports: &[&str]) -> CreateEndpointRequest {
    CreateEndpointRequest {
        network: network.to_owned(),
        ..request(name, ports)
    }
}

#[test]
fn a_network_has_both_versions_of_ip() {
    on_a_host(|world| {
        world.with_ipv6();
        let front = world.network(network("front", &[])).unwrap();
        let back = world
            .network(network("back", &["10.7.0.0/24", "fd00:7::/64"]))
            .unwrap();
        let subnets = |n: &NetworkDetails| -> Vec<String> {
            n.pools.iter().map(|pool| pool.subnet.clone()).collect()
        };
        assert!(
            front.ipv6 && subnets(&front)[1].starts_with("fd"),
            "{front:?}"
        );
        assert_eq!(subnets(&back), ["10.7.0.0/24", "fd00:7::/64"]);
        assert_eq!(back.pools[1].gateway, "fd00:7::1");

        let one = world.attach(on("back", "one", &[])).unwrap();
        let two = CreateEndpointRequest {
            ipv6_address: "fd00:7::99".to_owned(),
            ..on("back", "two", &[])
        };
        let two = world.attach(two).unwrap();
        assert_eq!(one.endpoint.ipv6_address, "fd00:7::2");
        assert_eq!(
            (
                one.endpoint.ipv6_prefix_len,
                one.endpoint.ipv6_gateway.as_str()
            ),
            (64, "fd00:7::1")
        );
        assert_eq!(two.endpoint.ipv6_address, "fd00:7::99");
        two.serve(80);
        let seen = one.netns.inside(|| ask((two.address6(), 80))).unwrap();
        assert_eq!(seen, "fd00:7::2", "a neighbour on the bridge");

        let found = resolve(&one, "two.", RecordType::AAAA);
        assert_eq!(found.answers[0].data.to_string(), "fd00:7::99");

        let lan = Container {
            endpoint: Endpoint::default(),
            netns: world.neighbour.inside(Netns::current).unwrap(),
        };
        lan.serve(8000);
        let seen = one.netns.inside(|| ask((NEIGHBOUR6, 8000))).unwrap();
        assert_eq!(seen, HOST6.to_string(), "the way out");

        let wanted = |network: &str, address: &str| {
            let wanted = CreateEndpointRequest {
                ipv6_address: address.to_owned(),
                ..on(network, "late", &[])
            };
            world.attach(wanted).err().unwrap().message().to_owned()
        };
        assert!(wanted("back", "fd00:7::99").contains("already in use"));
        assert!(wanted("back", "fd00:8::2").contains("not a host address of subnet fd00:7::/64"));
        assert!(wanted("bridge", "fd00:7::5").contains("network bridge has no IPv6"));

        // The next one gets another subnet of the same prefix, also of another netd.
        world.restart();
        let third = world.network(network("third", &[])).unwrap();
        let [a, b] = [&front, &third].map(|n| subnets(n)[1].parse::<ipnet::Ipv6Net>().unwrap());
        assert_eq!(a.addr().octets()[..6], b.addr().octets()[..6]);
        assert_ne!(a, b);
        assert!(
            one.netns.inside(|| ask((two.address6(), 80))).is_ok(),
            "as before"
        );
        let late = world.attach(on("back", "late", &[])).unwrap();
        assert!(!["fd00:7::2", "fd00:7::99"].contains(&late.endpoint.ipv6_address.as_str()));
    });
}

#[test]
fn a_network_that_overlaps_or_contradicts_itself_is_refused() {
    on_a_host(|world| {
        world.with_ipv6();
        let refused = |request: CreateNetworkRequest| {
            world.network(request).unwrap_err().message().to_owned()
        };
        let overlaps = refused(network("a", &["2001:db8::/48"]));
        assert!(
            overlaps.contains("overlaps with another network or a route of this host"),
            "{overlaps}"
        );
        assert!(refused(network("a", &["fd00::/64", "fd01::/64"])).contains("one subnet of IPv6"));
        assert!(refused(network("a", &["fe80::/64"])).contains("not for hosts"));
        let without = CreateNetworkRequest {
            ipv6: false,
            ..network("a", &["fd00::/64"])
        };
        assert!(refused(without).contains("--ipv6"));
    });
}

#[test]
fn without_ipv6_a_container_has_none() {
    on_a_host(|world| {
        world.network(network("six", &[])).unwrap();
        let four = world.run("four", &[]);
        let own = |netns: &Netns| {
            let addresses = || Route::open()?.addresses();
            let all = netns.inside(addresses).unwrap();
            all.iter()
                .filter(|(index, net)| *index > 1 && net.addr().is_ipv6())
                .count()
        };
        assert_eq!(own(&four.netns), 0);
        let off = sysctl::read("ipv6/conf/slipway0/disable_ipv6").unwrap();
        assert_eq!(off, "1", "nor has its bridge");
        let six = world.attach(on("six", "both", &[])).unwrap();
        // The kernel gives it the link's when it has seen to its carrier.
        eventually("its own and the link's", || own(&six.netns) == 2);
    });
}

#[test]
fn the_host_forwards_for_its_containers_and_is_no_router() {
    on_a_host(|world| {
        world.with_ipv6();
        let read = |name: &str| sysctl::read(&format!("ipv6/conf/{name}")).unwrap();
        let forced = sysctl::read("ipv6/conf/all/force_forwarding").is_ok();
        if !forced {
            eprintln!("skipped: this kernel has no force_forwarding (Linux 6.17)");
            return;
        }
        assert_eq!(
            (read("all/forwarding"), read("lan0/force_forwarding")),
            ("0".into(), "0".into())
        );
        world.network(network("front", &[])).unwrap();
        assert_eq!(
            (read("all/forwarding"), read("lan0/force_forwarding")),
            ("0".into(), "1".into())
        );

        // Somebody switches it off; a link comes later.
        sysctl::write("ipv6/conf/lan0/force_forwarding", "0").unwrap();
        eventually("it is on again", || read("lan0/force_forwarding") == "1");
        let far = other_lan6();
        eventually("the new link forwards", || {
            read("lan1/force_forwarding") == "1"
        });
        let there = Container {
            endpoint: Endpoint::default(),
            netns: far,
        };
        there.serve(80);
        let far6: Ipv6Addr = "2001:db8:1::2".parse().unwrap();
        eventually("the host gets there", || ask_briefly((far6, 80)).is_ok());
        let inside = world.attach(on("front", "inside", &[])).unwrap();
        assert_eq!(
            inside.netns.inside(|| ask((far6, 80))).unwrap(),
            "2001:db8:1::1"
        );
        let across = world.neighbour.inside(|| ask((far6, 80)));
        assert!(across.is_err(), "from one LAN to the other");

        world
            .call(async |mut netd| netd.teardown(TeardownRequest {}).await)
            .unwrap();
        assert_eq!(
            (read("lan0/force_forwarding"), read("lan1/force_forwarding")),
            ("0".into(), "0".into())
        );
    });
}

/// A second LAN of the host's.
fn other_lan6() -> Netns {
    use std::os::fd::AsFd as _;
    let far = Netns::create().unwrap();
    let mut route = Route::open().unwrap();
    let [host, there] = ["2001:db8:1::1", "2001:db8:1::2"].map(|text| text.parse().unwrap());
    let net = "2001:db8:1::/64".parse().unwrap();
    let pair = link::Veth {
        host: "lan1",
        bridge: None,
        peer: "lan1",
        peer_mac: netd::netlink::Mac::of(there),
        netns: far.as_fd(),
        mtu: 1500,
    };
    route.apply(&[pair.create()]).unwrap();
    let up = || {
        let mut inside = Route::open()?;
        let index = inside.link("lan1")?.unwrap().index;
        inside.apply(&[
            link::set_up(index),
            link::add_address(index, there, net),
            link::add_route("::/0".parse().unwrap(), host, index),
        ])
    };
    far.inside(up).unwrap();
    let index = route.link("lan1").unwrap().unwrap().index;
    route.apply(&[link::add_address(index, host, net)]).unwrap();
    far
}

#[test]
fn the_lan_reaches_no_address_of_a_container() {
    on_a_host(|world| {
        world.with_ipv6();
        world
            .network(network("hidden", &["10.7.0.0/24", "fd00:7::/64"]))
            .unwrap();
        world
            .network(network("known", &["10.8.0.0/24", "2001:db8:8::/64"]))
            .unwrap();
        let hidden = world.attach(on("hidden", "hidden", &[])).unwrap();
        let known = world.attach(on("known", "known", &[])).unwrap();
        // Everybody who is on the host's LAN sends what he has no route for to the host.
        for container in [&hidden, &known] {
            container.serve(80);
            assert!(ask((container.address6(), 80)).is_ok(), "the host itself");
            let from_lan = world
                .neighbour
                .inside(|| ask_briefly((container.address6(), 80)));
            assert!(from_lan.is_err(), "{}", container.address6());
        }
        let _listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8001)).unwrap();
        let connects = |to: Ipv6Addr, patience| {
            let connect = || TcpStream::connect_timeout(&(to, 8001).into(), patience);
            world.neighbour.inside(connect).is_ok()
        };
        assert!(connects(HOST6, PATIENCE));
        for gateway in ["fd00:7::1", "2001:db8:8::1"] {
            let reached = connects(gateway.parse().unwrap(), MOMENT);
            assert!(!reached, "the host by the address {gateway}");
        }
        let across = known.netns.inside(|| ask_briefly((hidden.address6(), 80)));
        assert!(across.is_err(), "from one network to another");

        // An address that others have a way to is seen as it is.
        let lan = Container {
            endpoint: Endpoint::default(),
            netns: world.neighbour.inside(Netns::current).unwrap(),
        };
        lan.serve(8000);
        let seen = known.netns.inside(|| ask((NEIGHBOUR6, 8000))).unwrap();
        assert_eq!(seen, known.endpoint.ipv6_address);
        let seen = hidden.netns.inside(|| ask((NEIGHBOUR6, 8000))).unwrap();
        assert_eq!(seen, HOST6.to_string());
    });
}

#[test]
fn an_internal_network_has_no_way_out_by_ipv6_either() {
    on_a_host(|world| {
        world.with_ipv6();
        let internal = CreateNetworkRequest {
            internal: true,
            ..network("closed", &["10.7.0.0/24", "fd00:7::/64"])
        };
        world.network(internal).unwrap();
        let inside = world.attach(on("closed", "inside", &[])).unwrap();
        assert_eq!(inside.endpoint.ipv6_gateway, "");
        let lan = Container {
            endpoint: Endpoint::default(),
            netns: world.neighbour.inside(Netns::current).unwrap(),
        };
        lan.serve(8000);
        // Also if it makes itself a route.
        let by_hand = || {
            let mut route = Route::open()?;
            let index = route.link("eth0")?.unwrap().index;
            route.apply(&[link::add_route(
                "::/0".parse().unwrap(),
                "fd00:7::1".parse().unwrap(),
                index,
            )])
        };
        inside.netns.inside(by_hand).unwrap();
        assert!(
            inside
                .netns
                .inside(|| ask_briefly((NEIGHBOUR6, 8000)))
                .is_err()
        );
    });
}

#[test]
fn the_default_network_has_ipv6_where_the_settings_say_so() {
    let settings = "ipv6 = true\nsubnet6 = \"fd00:9::/64\"\n";
    on_a_host_with(settings, |world| {
        world.with_ipv6();
        let [one, two] = ["one", "two"].map(|name| world.run(name, &[]));
        assert_eq!(
            one.endpoint.ipv6_address, "fd00:9::2",
            "also what was prepared"
        );
        two.serve(80);
        let seen = one.netns.inside(|| ask((two.address6(), 80))).unwrap();
        assert_eq!(seen, "fd00:9::2");
        let wanted = CreateEndpointRequest {
            ipv6_address: "fd00:9::4".to_owned(),
            ..request("three", &[])
        };
        eventually("the pool is full", || {
            let info = world.call(async |mut netd| netd.info(InfoRequest {}).await);
            info.unwrap().facts["prepared namespaces"] == "2"
        });
        // It was only prepared.
        let three = world.attach(wanted).unwrap();
        assert_eq!(three.endpoint.ipv6_address, "fd00:9::4");
        world.kill();
        world.restart_dead();
        assert!(one.netns.inside(|| ask((two.address6(), 80))).is_ok());
    });
}
