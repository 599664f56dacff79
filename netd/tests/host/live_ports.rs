//! What becomes of connections when published ports change under them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use slipway_proto::netd::v1::*;

use crate::ipv6::on;
use crate::limits::{OTHER, from, front, stream_as};
use crate::world::*;

/// Says again what it hears, to everybody at once.
fn echo(container: &Container, port: u16) {
    let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    let listener = container.netns.inside(bind).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut byte = [0];
                // A client that hangs up is its own business.
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

fn stream(server: impl Into<SocketAddr>) -> TcpStream {
    TcpStream::connect_timeout(&server.into(), PATIENCE).unwrap()
}

fn lives(stream: &TcpStream) -> bool {
    hears(stream, PATIENCE)
}

/// Whether what is said comes back so soon.
fn hears(mut stream: &TcpStream, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut byte = [0];
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut byte).is_ok()
}

/// The other end says that it is over.
fn is_ended(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let said = stream.write_all(b"?").and_then(|()| stream.read(&mut [0]));
    match said {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn remove(world: &World, of: &Container, ports: &[&str]) -> Endpoint {
    let request = RemovePortsRequest {
        endpoint_id: of.endpoint.id.clone(),
        ports: ports.iter().map(|port| binding(port)).collect(),
    };
    world
        .call(async |mut netd| netd.remove_ports(request).await)
        .unwrap()
}

fn add(world: &World, of: &Container, ports: Vec<PortBinding>) -> Endpoint {
    let request = AddPortsRequest {
        endpoint_id: of.endpoint.id.clone(),
        ports,
    };
    world
        .call(async |mut netd| netd.add_ports(request).await)
        .unwrap()
}

#[test]
fn connections_by_a_removed_port_end_and_others_go_on() {
    on_a_host(|world| {
        front(world);
        let web = world
            .attach(on("front", "web", &["3000:80", "3001:80"]))
            .unwrap();
        echo(&web, 80);
        let far = |server: SocketAddr| world.neighbour.inside(|| Ok(stream(server))).unwrap();
        let hosts: [SocketAddr; 2] = [(HOST, 3000).into(), (HOST6, 3000).into()];
        let mut doomed: Vec<TcpStream> = hosts.into_iter().map(far).collect();
        doomed.push(stream((Ipv4Addr::LOCALHOST, 3000)));
        doomed.push(stream((Ipv6Addr::LOCALHOST, 3000)));
        let others: Vec<TcpStream> = [(HOST, 3001).into(), (HOST6, 3001).into()]
            .into_iter()
            .map(far)
            .collect();
        assert!(doomed.iter().chain(&others).all(lives));

        remove(world, &web, &["3000:80"]);
        for (number, stream) in doomed.iter().enumerate() {
            assert!(is_ended(stream), "stream {number} goes on");
        }
        assert!(others.iter().all(lives), "another port's streams end");
    });
}

#[test]
fn a_port_that_is_limited_ends_the_connections_of_others() {
    on_a_host(|world| {
        front(world);
        let web = world.attach(on("front", "web", &["3000:80"])).unwrap();
        echo(&web, 80);
        let far = |client: Ipv4Addr| {
            world
                .neighbour
                .inside(|| stream_as(client, (HOST, 3000), PATIENCE))
                .unwrap()
        };
        let (may, other, host) = (far(NEIGHBOUR), far(OTHER), stream((HOST, 3000)));
        assert!(lives(&may) && lives(&other) && lives(&host));

        let after = add(world, &web, vec![from("3000:80", &["192.0.2.2"])]);
        assert_eq!(after.ports.len(), 1);
        assert_eq!(after.ports[0].allow_from, ["192.0.2.2/32"]);
        assert!(!hears(&other, MOMENT), "of a client that may not");
        assert!(lives(&may) && lives(&host));
        let connects = |client, patience| {
            let connect = || stream_as(client, (HOST, 3000), patience);
            world.neighbour.inside(connect).is_ok()
        };
        assert!(!connects(OTHER, MOMENT) && connects(NEIGHBOUR, PATIENCE));

        let after = add(world, &web, vec![binding("3000:80")]);
        assert!(after.ports[0].allow_from.is_empty());
        assert!(connects(OTHER, PATIENCE), "open again");
        remove(world, &web, &["0:80"]);
        assert!(!connects(OTHER, MOMENT));
    });
}

#[test]
fn connections_survive_a_restart_but_those_by_a_port_that_went_meanwhile() {
    on_a_host(|world| {
        front(world);
        let web = world
            .attach(on("front", "web", &["3000:80", "3001:80"]))
            .unwrap();
        echo(&web, 80);
        let far = |port: u16| world.neighbour.inside(|| Ok(stream((HOST, port)))).unwrap();
        let (gone, stays) = (far(3000), far(3001));
        assert!(lives(&gone) && lives(&stays));
        world.kill();
        assert!(lives(&stays), "nobody has to be there for it");
        // As somebody leaves it who is killed between the record and the kernel.
        let record = world.record(&web.endpoint.id);
        let text = std::fs::read_to_string(&record).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let ports = value["ports"].as_array_mut().unwrap();
        ports.retain(|port| port["host_port"] != 3000);
        std::fs::write(&record, value.to_string()).unwrap();
        world.restart_dead();
        assert!(is_ended(&gone) && lives(&stays));
    });
}

#[test]
fn services_of_the_host_are_found_at_ones_own_gateway_only() {
    on_a_host(|world| {
        front(world);
        let web = world.attach(on("front", "web", &["3000:80"])).unwrap();
        web.serve(80);
        let other = world.run("other", &[]);
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 9000)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that hangs up first is its own business.
                let _ = stream.unwrap().write_all(b"host");
            }
        });
        let front: Ipv4Addr = web.endpoint.ipv4_gateway.parse().unwrap();
        let front6: Ipv6Addr = web.endpoint.ipv6_gateway.parse().unwrap();
        let bridge: Ipv4Addr = other.endpoint.ipv4_gateway.parse().unwrap();
        let from = |one: &Container, host: IpAddr| one.netns.inside(|| ask((host, 9000))).is_ok();
        let shut = |one: &Container, host: IpAddr| {
            let asked = one.netns.inside(|| ask_briefly((host, 9000)));
            asked.is_err()
        };
        assert!(from(&web, front.into()) && from(&web, front6.into()));
        assert!(from(&web, HOST.into()), "by the host's address on its LAN");
        assert!(shut(&web, bridge.into()) && shut(&other, front.into()));
        let published = other.netns.inside(|| ask((front, 3000)));
        assert!(published.is_ok(), "but what is published is published");
    });
}

#[test]
fn what_cannot_be_published_changes_nothing() {
    on_a_host(|world| {
        let _other = world.run("other", &["3001:80"]);
        let web = world.run("web", &["3000:80"]);
        let request = AddPortsRequest {
            endpoint_id: web.endpoint.id.clone(),
            ports: vec![binding("3002:80"), binding("3001:80")],
        };
        let refused = world.call(async |mut netd| netd.add_ports(request).await);
        assert_eq!(refused.unwrap_err().code(), tonic::Code::AlreadyExists);
        let again = add(world, &web, vec![binding("3000:80"), binding("3002:80")]);
        assert_eq!(
            again.ports.len(),
            2,
            "3002 is free again, 3000 is there once"
        );
    });
}
