//! Addresses and what hangs on them: nobody gets what somebody else still has, and nothing is left of what is cut off.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use slipway_proto::netd::v1::*;

use crate::world::*;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn with_address(name: &str, address: &str, ports: &[&str]) -> CreateEndpointRequest {
    CreateEndpointRequest {
        ipv4_address: address.to_owned(),
        ..request(name, ports)
    }
}

fn link_of(endpoint: &Endpoint) -> String {
    format!("sw{}", &endpoint.id[..10])
}

#[test]
fn an_address_that_was_only_prepared_can_be_asked_for() {
    on_a_host(|world| {
        eventually("the pool is full", || {
            let info = world.call(async |mut netd| netd.info(InfoRequest {}).await);
            info.unwrap().facts["prepared namespaces"] == "2"
        });
        for (name, address) in [("one", "172.17.0.3"), ("two", "172.17.0.2")] {
            let got = world.attach(with_address(name, address, &[])).unwrap();
            assert_eq!(got.address().to_string(), address);
        }
        let taken = world.attach(with_address("three", "172.17.0.3", &[]));
        let error = taken.err().unwrap();
        assert!(error.message().contains("already in use"), "{error:?}");
    });
}

#[test]
fn who_gets_an_address_shares_it_with_nothing_that_is_left() {
    on_a_host(|world| {
        for round in 0..10 {
            let name = format!("round{round}");
            let wanted = with_address(&name, "172.17.9.9", &["3000:80"]);
            let container = world.attach(wanted).unwrap();
            let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80));
            let listener = container.netns.inside(bind).unwrap();
            // Begun at once, and still there when whatever was to be cleared away is.
            let mut client = TcpStream::connect((LOOPBACK, 3000)).unwrap();
            let (mut served, _) = listener.accept().unwrap();
            world.release(&name);
            let next = format!("next{round}");
            let other = world.attach(with_address(&next, "172.17.9.9", &["3001:80"]));
            let other = other.unwrap();
            assert!(!world.links().contains(&link_of(&container.endpoint)));
            // The one before is out: nothing of it is led to its successor.
            let _ = served.write_all(b"x");
            drop(container);
            client
                .set_read_timeout(Some(std::time::Duration::from_millis(50)))
                .unwrap();
            assert!(client.read(&mut [0]).is_err());
            other.serve(80);
            assert!(ask((LOOPBACK, 3001)).is_ok());
            world.release(&next);
        }
    });
}

#[test]
fn a_network_that_goes_while_somebody_comes_leaves_nothing() {
    on_a_host(|world| {
        let before = world.links().len();
        for round in 0..20 {
            let network = CreateNetworkRequest {
                name: "short".into(),
                ..CreateNetworkRequest::default()
            };
            world
                .call(async |mut netd| netd.create_network(network).await)
                .unwrap();
            let name = format!("guest{round}");
            let comes = CreateEndpointRequest {
                network: "short".into(),
                ..request(&name, &["3000:80"])
            };
            let goes = RemoveNetworkRequest {
                network: "short".into(),
                force: round % 2 == 0,
            };
            let (came, gone) = world.beside(
                async |mut netd| netd.create_endpoint(comes).await,
                async |mut netd| netd.remove_network(goes).await,
            );
            if let Ok(endpoint) = came {
                // It came first, and the network stayed, or was taken away with it.
                if gone.is_ok() {
                    assert_eq!(round % 2, 0, "{endpoint:?}");
                } else {
                    world.release(&name);
                }
            }
            let force = RemoveNetworkRequest {
                network: "short".into(),
                force: true,
            };
            // Gone already is fine.
            let _ = world.call(async |mut netd| netd.remove_network(force).await);
            let listed = world
                .call(async |mut netd| netd.list_endpoints(ListEndpointsRequest::default()).await)
                .unwrap();
            assert!(listed.endpoints.is_empty(), "{listed:?}");
            eventually("nothing is left of it", || {
                let prepared = world.links().iter().filter(|l| l.starts_with("sw")).count();
                prepared <= 2
            });
            // And its port is free.
            drop(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 3000)).unwrap());
        }
        world.restart();
        assert!(world.links().len() <= before + 3, "{:?}", world.links());
    });
}

#[test]
fn a_port_stays_a_containers_whoever_sits_on_it_while_netd_is_dead() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        world.kill();
        let sits = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 3000)).unwrap();
        world.restart_dead();
        let from_lan = || world.neighbour.inside(|| ask((HOST, 3000)));
        assert_eq!(from_lan().unwrap(), NEIGHBOUR.to_string());
        drop(sits);
        world.restart();
        assert_eq!(
            world.neighbour.inside(|| ask((HOST, 3000))).unwrap(),
            NEIGHBOUR.to_string()
        );
        let other = world.attach(request("other", &["3000:80"]));
        assert!(other.err().unwrap().message().contains("already allocated"));
    });
}

#[test]
fn nobody_has_anothers_mac() {
    on_a_host(|world| {
        let with = |name: &str, mac: &str| CreateEndpointRequest {
            mac_address: mac.to_owned(),
            ..request(name, &[])
        };
        let one = world.attach(with("one", "02:42:ac:11:00:99")).unwrap();
        assert_eq!(one.endpoint.mac_address, "02:42:ac:11:00:99");
        let two = world.attach(with("two", "02:42:ac:11:00:99"));
        assert!(two.err().unwrap().message().contains("MAC address"));
    });
}
