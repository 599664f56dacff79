//! A `netd.toml` that says something else than before, and what others left in the place of what is netd's.

use std::net::Ipv4Addr;
use std::process::{Child, Command};

use netd::netlink::{Link, Mac, Route, link};
use slipway_fault::Action;
use slipway_proto::netd::v1::{CreateEndpointRequest, CreateNetworkRequest, InfoRequest};

use crate::world::*;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn find(name: &str) -> Option<Link> {
    Route::open().unwrap().link(name).unwrap()
}

fn network(name: &str) -> CreateNetworkRequest {
    CreateNetworkRequest {
        name: name.to_owned(),
        ..CreateNetworkRequest::default()
    }
}

fn addresses_of(bridge: &str) -> Vec<String> {
    let addresses = Route::open().unwrap().addresses().unwrap();
    let index = find(bridge).unwrap().index;
    let on_it = addresses.iter().filter(|(link, _)| *link == index);
    on_it.map(|(_, net)| net.to_string()).collect()
}

/// A process of a container's: by it netd finds the container again.
struct Lives(Child);

impl Drop for Lives {
    fn drop(&mut self) {
        // It does nothing but wait for this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lives(container: &Container) -> Lives {
    let sleep = || Command::new("sleep").arg("1000").spawn();
    Lives(container.netns.inside(sleep).unwrap())
}

#[test]
fn settings_that_changed_are_followed_or_it_is_said_why_not() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        let lives = lives(&web);
        let end = format!("sw{}", &web.endpoint.id[..10]);
        let mine = world.network(network("mine")).unwrap();
        let own = CreateNetworkRequest {
            options: [("com.docker.network.driver.mtu", "1300")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..network("own")
        };
        let own = world.network(own).unwrap();
        let device = |id: &str| format!("slip-{}", &id[..10]);
        let works = || {
            assert_eq!(ask((LOOPBACK, 3000)).unwrap(), "172.17.0.1");
            let out = web.netns.inside(|| ask((HOST, 3000)));
            assert_eq!(out.unwrap(), "172.17.0.1");
        };

        world.configure("bridge = \"other0\"\nmtu = 1400\n");
        world.restart();
        assert_eq!(find("slipway0"), None);
        let bridge = find("other0").unwrap();
        assert_eq!((bridge.mtu, bridge.kind.as_str()), (1400, "bridge"));
        assert_eq!(find(&end).unwrap().master, Some(bridge.index));
        let inside = web.netns.inside(|| Route::open()?.link("eth0")).unwrap();
        let mtus = [find(&end), inside, find(&device(&mine.id))].map(|link| link.unwrap().mtu);
        assert_eq!(mtus, [1400; 3]);
        assert_eq!(
            find(&device(&own.id)).unwrap().mtu,
            1300,
            "as was asked for"
        );
        works();

        world.configure("bridge = \"other0\"\nsubnet = \"10.99.0.0/16\"\n");
        world.restart();
        let told = world.warnings().join("\n");
        let why = "than 172.17.0.0/16, which it keeps: containers are on it (web)";
        assert!(told.contains(why), "{told}");
        works();
        drop(lives);
        world.release("web");
        world.restart();
        assert_eq!(world.warnings(), [""; 0]);
        let next = world.run("next", &[]);
        assert!(next.endpoint.ipv4_address.starts_with("10.99.0."));
        assert_eq!(addresses_of("other0"), ["10.99.0.1/16"]);
    });
}

#[test]
fn an_address_of_before_goes_though_netd_was_killed_when_it_had_a_new_one() {
    on_a_host(|world| {
        world.configure("subnet = \"10.99.0.0/16\"\n");
        world.kill();
        world.arm("netd.settings.recorded", Action::Kill);
        world.begin();
        assert!(!world.ends().success());
        world.restart_dead();
        assert_eq!(addresses_of("slipway0"), ["10.99.0.1/16"]);
    });
}

#[test]
fn a_link_of_somebody_elses_is_left_alone_and_keeps_no_other_network() {
    on_a_host(|world| {
        let mine = world.network(network("mine")).unwrap();
        world.kill();
        let route = &mut Route::open().unwrap();
        let index = find("slipway0").unwrap().index;
        let foreign = Mac([2, 0, 0, 0, 0, 9]);
        let make = link::create_bridge("slipway0", foreign, 1500);
        route.apply(&[link::delete(index), make]).unwrap();
        world.restart_dead();
        let on_mine = CreateEndpointRequest {
            network: mine.id.clone(),
            ..request("other", &["3001:80"])
        };
        let other = world.attach(on_mine).unwrap();
        other.serve(80);
        assert!(ask((LOOPBACK, 3001)).is_ok());
        let refused = world.attach(request("web", &[])).err().unwrap();
        assert!(
            refused
                .message()
                .contains("somebody else's link has this name"),
            "{refused:?}"
        );
        let left = find("slipway0").unwrap();
        let addresses = route.addresses().unwrap();
        assert_eq!(left.mac, Some(foreign));
        // What it has of IPv6 the kernel gave it.
        let is_ours =
            |(index, net): &(u32, ipnet::IpNet)| *index == left.index && net.addr().is_ipv4();
        assert!(!addresses.iter().any(is_ours));

        route.apply(&[link::delete(left.index)]).unwrap();
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        assert!(ask((LOOPBACK, 3000)).is_ok());
        assert_eq!(
            web.endpoint.nameservers,
            ["172.17.0.1"],
            "names are answered"
        );
    });
}

#[test]
fn a_damaged_record_is_one_network_less_and_is_told() {
    on_a_host(|world| {
        let [mine, other] = ["mine", "other"].map(|name| world.network(network(name)).unwrap());
        world.kill();
        std::fs::write(world.network_record(&mine.id), "{\"id\":").unwrap();
        world.restart_dead();
        let told = world.warnings().join("\n");
        assert!(
            told.contains(&format!("{}.json.damaged", mine.id)),
            "{told}"
        );
        assert!(!world.links().contains(&format!("slip-{}", &mine.id[..10])));
        let on_other = CreateEndpointRequest {
            network: other.id,
            ..request("web", &["3000:80"])
        };
        world.attach(on_other).unwrap().serve(80);
        assert!(ask((LOOPBACK, 3000)).is_ok());
        // Whoever makes it again has it.
        world.network(network("mine")).unwrap();
    });
}

/// Its subnet never changes, so none is of one before.
#[test]
fn an_address_that_somebody_gave_to_a_bridge_stays() {
    on_a_host(|world| {
        let mine = world.network(network("mine")).unwrap();
        let bridge = format!("slip-{}", &mine.id[..10]);
        let index = || find(&bridge).unwrap().index;
        let theirs = "10.99.0.1/24";
        let address = link::add_address(index(), [10, 99, 0, 1].into(), theirs.parse().unwrap());
        Route::open().unwrap().apply(&[address]).unwrap();
        let before = addresses_of(&bridge);
        assert!(before.contains(&theirs.to_owned()), "{before:?}");
        world.restart();
        assert_eq!(addresses_of(&bridge), before);
    });
}

#[test]
fn networks_take_no_larger_packets_than_the_way_out() {
    on_a_host(|world| {
        let route = &mut Route::open().unwrap();
        let lan = find("lan0").unwrap().index;
        let everywhere = "0.0.0.0/0".parse().unwrap();
        let out = link::add_route(everywhere, NEIGHBOUR.into(), lan);
        route.apply(&[out, link::set_mtu(lan, 1450)]).unwrap();
        let mine = world.network(network("mine")).unwrap();
        assert_eq!(find(&format!("slip-{}", &mine.id[..10])).unwrap().mtu, 1450);
        route.apply(&[link::set_mtu(lan, 9000)]).unwrap();
        let more = world.network(network("more")).unwrap();
        assert_eq!(find(&format!("slip-{}", &more.id[..10])).unwrap().mtu, 1500);
    });
}

#[test]
fn a_table_that_was_kept_for_a_netd_that_is_gone_is_taken_over_by_one_that_keeps_none() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        let _lives = lives(&web);
        let kept = |world: &World| {
            let info = world.call(async |mut netd| netd.info(InfoRequest {}).await);
            info.unwrap().facts["nftables table"] == "owned"
        };
        let could_keep = kept(world);
        for (settings, keeps) in [("own_table = false\n", false), ("", could_keep)] {
            world.configure(settings);
            world.restart();
            assert_eq!(kept(world), keeps);
            assert!(ask((LOOPBACK, 3000)).is_ok());
        }
    });
}
