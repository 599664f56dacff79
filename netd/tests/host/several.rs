//! A container on several networks: its way out, its published ports, its names.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use netd::netlink::{Mac, Netns, Route, link};
use slipway_proto::netd::v1::*;
use slipway_service::error::reason;

use crate::{names::resolve, world::*};

fn network(world: &World, name: &str, internal: bool) {
    let request = CreateNetworkRequest {
        name: name.into(),
        internal,
        ..CreateNetworkRequest::default()
    };
    world
        .call(async |mut netd| netd.create_network(request.clone()).await)
        .unwrap();
}

/// Connects a container that is there already.
fn connect(
    world: &World,
    container: &Container,
    network: &str,
    gateway_priority: i32,
) -> Result<Container, tonic::Status> {
    world.attach(CreateEndpointRequest {
        network: network.into(),
        gateway_priority,
        netns: container.netns.proc_path(),
        ..request("web", &[])
    })
}

fn disconnect(world: &World, one: &Container) {
    let request = ReleaseEndpointRequest {
        endpoint_id: one.endpoint.id.clone(),
        container_id: one.endpoint.container_id.clone(),
        netns: one.netns.proc_path(),
    };
    let done = world.call(async |mut netd| netd.release_endpoint(request).await);
    assert_eq!(done.unwrap().released, 1);
}

/// Names of the links in a container, and of the one that its default route leads by.
fn ways(container: &Container) -> (Vec<String>, Option<String>) {
    let look = || {
        let mut route = Route::open()?;
        Ok((
            route.links()?,
            route.default_routes("0.0.0.0/0".parse().unwrap())?,
        ))
    };
    let (links, out) = container.netns.inside(look).unwrap();
    let by = out.first().map(|by| {
        let link = links.iter().find(|link| link.index == *by);
        link.unwrap().name.clone()
    });
    let mut names: Vec<String> = links.into_iter().map(|link| link.name).collect();
    names.retain(|name| name.starts_with("eth"));
    names.sort();
    (names, by)
}

fn endpoints(world: &World) -> Vec<Endpoint> {
    let request = ListEndpointsRequest::default();
    let mut all = world
        .call(async |mut netd| netd.list_endpoints(request).await)
        .unwrap()
        .endpoints;
    all.sort_by(|a, b| a.network_name.cmp(&b.network_name));
    all
}

fn ports(world: &World) -> Vec<(String, usize, bool)> {
    let of = |e: Endpoint| (e.network_name, e.ports.len(), e.default_route);
    endpoints(world).into_iter().map(of).collect()
}

/// What the port on the host tells a client of the LAN.
fn from_the_lan(world: &World) -> String {
    world.neighbour.inside(|| ask((HOST, 8080))).unwrap()
}

#[test]
fn the_way_out_and_the_ports_go_with_the_network_of_the_highest_priority() {
    on_a_host(|world| {
        network(world, "front", false);
        network(world, "back", true);
        let web = world.run("web", &["8080:80"]);
        web.serve(80);
        assert_eq!(ways(&web), (vec!["eth0".into()], Some("eth0".into())));
        let back = connect(world, &web, "back", 9).unwrap();
        assert_eq!(back.endpoint.interface_name, "eth1");
        // Nothing leads out of an internal network.
        assert_eq!(ways(&web).1.unwrap(), "eth0");
        let front = connect(world, &web, "front", 1).unwrap();
        assert!(front.endpoint.default_route);
        assert_eq!(front.endpoint.ports.len(), 1);
        assert_eq!(ways(&web).1.unwrap(), "eth2");
        let told = |bridge: (usize, bool), front: (usize, bool)| {
            [("back", (0, false)), ("bridge", bridge), ("front", front)]
                .map(|(name, (ports, out))| (name.to_owned(), ports, out))
        };
        assert_eq!(ports(world), told((0, false), (1, true)));
        assert_eq!(from_the_lan(world), NEIGHBOUR.to_string());
        disconnect(world, &front);
        assert_eq!(
            ways(&web),
            (vec!["eth0".into(), "eth1".into()], Some("eth0".into()))
        );
        assert_eq!(ports(world)[1], ("bridge".into(), 1, true));
        assert_eq!(from_the_lan(world), NEIGHBOUR.to_string());
        // The number of the one that went is free again; of equal ones the first name leads out.
        let front = connect(world, &web, "front", 0).unwrap();
        assert_eq!(front.endpoint.interface_name, "eth2");
        assert_eq!(ways(&web).1.unwrap(), "eth0");
        // A netd that knows no namespace any more is told it again.
        world.restart();
        assert_eq!(ports(world), told((1, true), (0, false)));
        disconnect(world, &web);
        assert_eq!(
            ways(&web),
            (vec!["eth1".into(), "eth2".into()], Some("eth2".into()))
        );
        assert_eq!(from_the_lan(world), NEIGHBOUR.to_string());
    });
}

#[test]
fn a_container_has_one_namespace_and_only_that() {
    on_a_host(|world| {
        network(world, "front", false);
        let web = world.run("web", &[]);
        let elsewhere = Container {
            endpoint: Endpoint::default(),
            netns: Netns::open(world.neighbour.proc_path().as_ref()).unwrap(),
        };
        let refused = connect(world, &elsewhere, "front", 0).err().unwrap();
        assert_eq!(reason(&refused), "INVALID_ARGUMENT");
        assert!(
            refused.message().contains("is not the network namespace"),
            "{refused}"
        );
        let again = connect(world, &web, "bridge", 0).err().unwrap();
        assert_eq!(reason(&again), "ALREADY_ATTACHED");
        eventually("nothing is left of it", || ways(&elsewhere).0.is_empty());
        connect(world, &web, "front", 0).unwrap();
        assert_eq!(ways(&web).0, ["eth0", "eth1"]);
    });
}

#[test]
fn names_of_all_its_networks_are_known_whichever_resolver_it_asks() {
    on_a_host(|world| {
        network(world, "front", false);
        network(world, "back", true);
        let other = CreateEndpointRequest {
            network: "front".into(),
            ..request("other", &[])
        };
        let other = world.attach(other).unwrap();
        let web = world.run("web", &[]);
        let knows = |from: &Container, name: &str| {
            let answer = resolve(from, name, RecordType::A);
            answer.metadata.response_code == ResponseCode::NoError && !answer.answers.is_empty()
        };
        assert!(!knows(&web, "other."));
        let front = connect(world, &web, "front", 0).unwrap();
        let back = connect(world, &web, "back", 0).unwrap();
        for asked in [&web, &front, &back] {
            assert!(knows(asked, "other."), "{:?}", asked.endpoint);
        }
        // Nobody else learns of it.
        assert!(knows(&other, "web."));
        let stranger = world.run("stranger", &[]);
        assert!(!knows(&stranger, "other."));
        world.restart();
        assert!(knows(&web, "other."));
        let request = RenameEndpointRequest {
            container_id: web.endpoint.container_id.clone(),
            container_name: "shop".into(),
        };
        let renamed = world.call(async |mut netd| netd.rename_endpoint(request).await);
        renamed.unwrap();
        assert!(knows(&web, "other."));
        disconnect(world, &front);
        assert!(!knows(&web, "other."));
    });
}

#[test]
fn a_way_of_the_container_s_own_stays() {
    on_a_host(|world| {
        network(world, "front", false);
        let web = world.run("web", &[]);
        let tunnel = || {
            let mut route = Route::open()?;
            route.apply(&[link::create_bridge("tunnel", Mac([2; 6]), 1500)])?;
            let index = route.link("tunnel")?.unwrap().index;
            let (own, net) = (
                "10.77.0.1".parse().unwrap(),
                "10.77.0.0/24".parse().unwrap(),
            );
            route.apply(&[
                link::add_address(index, own, net),
                link::replace_route(
                    "0.0.0.0/0".parse().unwrap(),
                    "10.77.0.2".parse().unwrap(),
                    index,
                ),
            ])
        };
        web.netns.inside(tunnel).unwrap();
        connect(world, &web, "front", 5).unwrap();
        assert_eq!(ways(&web).1.unwrap(), "tunnel");
    });
}
