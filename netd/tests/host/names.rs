//! DNS on every network, and networks of the user's own.

use std::net::{Ipv4Addr, UdpSocket};

use crate::world::*;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use slipway_proto::netd::v1::*;

pub fn resolve(from: &Container, name: &str, kind: RecordType) -> Message {
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
        assert!(a.netns.inside(|| ask_briefly((c.address(), 80))).is_err());
        assert!(c.netns.inside(|| ask_briefly((a.address(), 80))).is_err());
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
        assert_eq!(names, ["back", "bridge", "host", "none"]);
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

/// A resolver of somebody's: what it is asked it counts, and answers as it is told.
fn serve_dns(
    socket: UdpSocket,
    answer: impl Fn(&Message, &mut Message) -> bool + Send + 'static,
) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    let count = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let counted = std::sync::Arc::clone(&count);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((read, client)) = socket.recv_from(&mut buffer) {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let query = Message::from_vec(&buffer[..read]).unwrap();
            let mut response = Message::response(query.metadata.id, query.metadata.op_code);
            response.add_queries(query.queries.iter().cloned());
            if answer(&query, &mut response) {
                let _ = socket.send_to(&response.to_vec().unwrap(), client);
            }
        }
    });
    count
}

fn refuse(_: &Message, response: &mut Message) -> bool {
    response.metadata.response_code = ResponseCode::Refused;
    true
}

fn tell(query: &Message, response: &mut Message) -> bool {
    let address = RData::A(hickory_proto::rr::rdata::A([198, 51, 100, 7].into()));
    let name = query.queries[0].name.clone();
    if name.to_ascii().starts_with("slow") {
        return false;
    }
    response.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, address));
    true
}

#[test]
fn a_container_with_resolvers_of_its_own_finds_its_neighbours_too() {
    on_a_host(|world| {
        let bind = || UdpSocket::bind((NEIGHBOUR, 53));
        let own = serve_dns(world.neighbour.inside(bind).unwrap(), refuse);
        let hosts = serve_dns(UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap(), tell);
        let count =
            |of: &std::sync::atomic::AtomicUsize| of.load(std::sync::atomic::Ordering::SeqCst);
        let web = world.run("web", &[]);
        let mut wanted = request("client", &[]);
        wanted.dns = vec![NEIGHBOUR.to_string()];
        let client = world.attach(wanted).unwrap();
        assert_eq!(client.endpoint.nameservers, ["172.17.0.1"]);
        assert_eq!(resolve(&client, "web.", RecordType::A).answers.len(), 1);
        let answer = resolve(&client, "x.example.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        assert_eq!((count(&own), count(&hosts)), (1, 0));
        // Others ask the host's, and what it said is remembered.
        for _ in 0..3 {
            let answer = resolve(&web, "x.example.", RecordType::A);
            assert_eq!(answer.answers.len(), 1);
            assert!(answer.answers[0].ttl <= 60);
        }
        assert_eq!((count(&own), count(&hosts)), (1, 1));
        // One inside of the container is asked by the container.
        let mut wanted = request("inside", &[]);
        wanted.dns = vec!["127.0.0.1".into()];
        let inside = world.attach(wanted).unwrap();
        assert_eq!(inside.endpoint.nameservers, ["127.0.0.1"]);
    });
}

#[test]
fn the_first_question_of_a_container_is_heard() {
    on_a_host(|world| {
        // Namespaces that come and go keep the kernel's work on links waiting.
        let done = std::sync::atomic::AtomicBool::new(false);
        let rest = |done: &std::sync::atomic::AtomicBool| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| rest(&done));
            }
            let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for number in 1..=20 {
                    let mut wanted = request(&format!("c{number}"), &[]);
                    wanted.ipv4_address = format!("172.17.77.{number}");
                    let container = world.attach(wanted).unwrap();
                    let name = format!("c{number}.");
                    assert_eq!(resolve(&container, &name, RecordType::A).answers.len(), 1);
                }
            }));
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            asked.unwrap();
        });
    });
}

#[test]
fn a_flood_of_questions_is_nobody_elses() {
    on_a_host(|world| {
        serve_dns(UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap(), tell);
        let (hostile, other) = (world.run("hostile", &[]), world.run("other", &[]));
        let gateway: Ipv4Addr = other.endpoint.nameservers[0].parse().unwrap();
        // Names that nobody answers, and connections that say nothing.
        let flood = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for number in 0..2000 {
                let mut query = Message::query();
                let name = Name::from_ascii(format!("slow{number}.example.")).unwrap();
                query.add_query(Query::query(name, RecordType::A));
                socket.send_to(&query.to_vec().unwrap(), (gateway, 53))?;
            }
            let silent: Vec<_> = (0..300)
                .filter_map(|_| std::net::TcpStream::connect((gateway, 53)).ok())
                .collect();
            std::io::Result::Ok(silent)
        };
        let held = hostile.netns.inside(flood).unwrap();
        let answer = resolve(&other, "x.example.", RecordType::A);
        assert_eq!(answer.answers.len(), 1, "{answer:?}");
        assert_eq!(resolve(&other, "hostile.", RecordType::A).answers.len(), 1);
        // Over tcp as well.
        let over_tcp = || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect((gateway, 53))?;
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            let mut query = Message::query();
            query.add_query(Query::query(
                Name::from_ascii("y.example.").unwrap(),
                RecordType::A,
            ));
            let bytes = query.to_vec().unwrap();
            stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes())?;
            stream.write_all(&bytes)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            std::io::Result::Ok(u16::from_be_bytes(length))
        };
        let answered = other.netns.inside(over_tcp);
        assert!(answered.is_ok(), "{answered:?}");
        drop(held);
    });
}

#[test]
fn an_answer_that_is_too_long_for_udp_says_so() {
    on_a_host(|world| {
        let mut first = None;
        for number in 0..40 {
            let mut wanted = request(&format!("many{number}"), &[]);
            wanted.aliases = vec!["many".into()];
            let container = world.attach(wanted).unwrap();
            first.get_or_insert(container);
        }
        let client = first.unwrap();
        let answer = resolve(&client, "many.", RecordType::A);
        assert!(answer.metadata.truncation && answer.answers.is_empty());
    });
}

#[test]
fn a_program_on_port_53_of_all_addresses_takes_no_names_away() {
    on_a_host(|world| {
        world.kill();
        let _udp = serve_dns(
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap(),
            refuse,
        );
        let _tcp = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        world.restart_dead();
        let (web, client) = (world.run("web", &[]), world.run("client", &[]));
        assert_eq!(client.endpoint.nameservers, ["172.17.0.1"]);
        let answer = resolve(&client, "web.", RecordType::A);
        let data = RData::A(hickory_proto::rr::rdata::A(web.address()));
        assert_eq!(answer.answers[0].data, data);
        // It is the host's own resolver, in this case.
        let answer = resolve(&client, "x.example.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        // A repaired table leads there as well.
        world.restart();
        assert_eq!(resolve(&client, "web.", RecordType::A).answers.len(), 1);
    });
}
