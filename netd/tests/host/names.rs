//! DNS on every network, and networks of the user's own.

use std::net::{Ipv4Addr, UdpSocket};

use crate::world::*;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use slipway_proto::netd::v1::*;

fn resolve(from: &Container, name: &str, kind: RecordType) -> Message {
    let server: Ipv4Addr = from.endpoint.nameservers[0].parse().unwrap();
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let bytes = query.to_vec().unwrap();
    let answer = from.netns.inside(|| ask_udp((server, 53), &bytes)).unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    answer
}

#[test]
fn containers_find_each_other_by_name_on_the_default_network() {
    on_a_host(|world| {
        let mut wanted = request("web", &[]);
        wanted.aliases = vec!["www".into()];
        wanted.hostname = "box".into();
        let web = world.attach(wanted).unwrap();
        let client = world.run("client", &[]);
        // A published port 53 does not take the containers' own resolver away.
        world.run("dnsd", &["53:53/udp"]);
        assert_eq!(client.endpoint.nameservers, ["172.17.0.1"]);
        assert_eq!(client.endpoint.search, ["site.example"]);
        for name in [
            "web.",
            "www.",
            "box.",
            &format!("{}.", &container_id("web")[..12]),
        ] {
            let answer = resolve(&client, name, RecordType::A);
            assert_eq!(
                answer.answers[0].data,
                RData::A(hickory_proto::rr::rdata::A(web.address()))
            );
        }
        let answer = resolve(&client, "web.", RecordType::AAAA);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());

        let rename = RenameEndpointRequest {
            container_id: container_id("web"),
            container_name: "shop".into(),
        };
        world
            .call(async |mut netd| netd.rename_endpoint(rename).await)
            .unwrap();
        assert_eq!(resolve(&client, "shop.", RecordType::A).answers.len(), 1);

        // The rest goes to the host's resolver, and comes back as it was.
        world.release("dnsd");
        let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((read, client)) = upstream.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                buffer[3] = (buffer[3] & 0xf0) | 5;
                let _ = upstream.send_to(&buffer[..read], client);
            }
        });
        let answer = resolve(&client, "web.", RecordType::A);
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::Refused,
            "renamed away"
        );
    });
}

#[test]
fn networks_are_isolated_from_each_other() {
    on_a_host(|world| {
        let make = |name: &str, internal| CreateNetworkRequest {
            name: name.into(),
            internal,
            ..CreateNetworkRequest::default()
        };
        let front = world
            .call(async |mut n| n.create_network(make("front", false)).await)
            .unwrap();
        assert_eq!(front.pools[0].subnet, "172.18.0.0/16");
        world
            .call(async |mut n| n.create_network(make("back", true)).await)
            .unwrap();
        let again = world.call(async |mut n| n.create_network(make("front", false)).await);
        assert_eq!(
            slipway_service::error::reason(&again.unwrap_err()),
            "NETWORK_EXISTS"
        );

        let on = |name: &str, network: &str| {
            let mut wanted = request(name, &[]);
            wanted.network = network.into();
            world.attach(wanted).unwrap()
        };
        let (a, b, c) = (on("a", "front"), on("b", "front"), on("c", "back"));
        for container in [&a, &b, &c] {
            container.serve(80);
        }
        assert!(a.netns.inside(|| ask((b.address(), 80))).is_ok());
        assert!(a.netns.inside(|| ask((c.address(), 80))).is_err());
        assert!(c.netns.inside(|| ask((a.address(), 80))).is_err());
        assert_eq!(resolve(&a, "b.front.", RecordType::A).answers.len(), 1);
        let foreign = resolve(&c, "b.", RecordType::A);
        assert_eq!(
            foreign.metadata.response_code,
            ResponseCode::NXDomain,
            "internal: no leak"
        );

        let remove = |network: &str| RemoveNetworkRequest {
            network: network.into(),
            force: false,
        };
        let error = world
            .call(async |mut n| n.remove_network(remove("front")).await)
            .unwrap_err();
        assert_eq!(slipway_service::error::reason(&error), "NETWORK_IN_USE");
        world.release("a");
        world.release("b");
        world
            .call(async |mut n| n.remove_network(remove("front")).await)
            .unwrap();
        assert!(
            world
                .call(async |mut n| n.remove_network(remove("bridge")).await)
                .is_err()
        );

        world.restart();
        let list = world
            .call(async |mut n| n.list_networks(ListNetworksRequest::default()).await)
            .unwrap();
        let names: Vec<_> = list
            .networks
            .iter()
            .map(|network| network.name.as_str())
            .collect();
        assert_eq!(names, ["back", "bridge"]);
    });
}

#[test]
fn a_certain_address_is_given_once() {
    on_a_host(|world| {
        let at = |name: &str, address: &str| {
            let mut wanted = request(name, &[]);
            wanted.ipv4_address = address.into();
            world.attach(wanted)
        };
        let one = at("one", "172.17.9.9").unwrap();
        assert_eq!(one.endpoint.mac_address, "02:42:ac:11:09:09");
        let error = at("two", "172.17.9.9").err().unwrap();
        assert_eq!(slipway_service::error::reason(&error), "ADDRESS_IN_USE");
        assert!(
            at("three", "10.0.0.1")
                .err()
                .unwrap()
                .message()
                .contains("subnet")
        );
        world.release("one");
        assert!(at("two", "172.17.9.9").is_ok());
    });
}

#[test]
fn many_at_once_get_an_address_each() {
    on_a_host(|world| {
        let endpoints = world.at_once((0..40).map(|n| request(&format!("c{n}"), &["0:80"])));
        let mut addresses: Vec<_> = endpoints.iter().map(|e| &e.ipv4_address).collect();
        let mut ports: Vec<_> = endpoints.iter().map(|e| e.ports[0].host_port).collect();
        for unique in [
            {
                addresses.sort();
                addresses.dedup();
                addresses.len()
            },
            {
                ports.sort();
                ports.dedup();
                ports.len()
            },
        ] {
            assert_eq!(unique, 40);
        }
        for n in 0..40 {
            world.release(&format!("c{n}"));
        }
        let left = || {
            world
                .links()
                .iter()
                .filter(|name| name.starts_with("sw"))
                .count()
        };
        eventually("only the pool is left", || left() == 2);
    });
}
