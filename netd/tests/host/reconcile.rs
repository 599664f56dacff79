//! Reconciling on command: what is found, what is done about it, and that it is said.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;

use netd::netlink::{Mac, Route, link};
use slipway_fault::Action;
use slipway_proto::netd::v1::{CreateNetworkRequest, Finding, ReconcileRequest};

use crate::world::*;

pub const GUARD: &str = "netd.guard.heard";
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

pub fn reconcile(world: &World) -> Vec<Finding> {
    let asked = world.call(async |mut netd| netd.reconcile(ReconcileRequest {}).await);
    asked.unwrap().findings
}

/// What was found; all of it was put right.
pub fn put_right(world: &World) -> Vec<String> {
    let findings = reconcile(world).into_iter();
    findings
        .map(|finding| {
            assert_eq!(finding.trouble, "", "{finding:?}");
            finding.what
        })
        .collect()
}

/// The guard hears of most of what tests do, and would be first to put it right: it stands still from now on.
pub fn hold_the_guard(world: &World) {
    world.arm(GUARD, Action::Wait);
    let bridge = Route::open().unwrap().link("slipway0").unwrap().unwrap();
    let apply = |request| Route::open().unwrap().apply(&[request]).unwrap();
    apply(link::set_mtu(bridge.index, 1280));
    eventually("the guard stands still", || world.fired(GUARD));
    apply(link::set_mtu(bridge.index, bridge.mtu));
}

/// Runs a program of the host's; false where it is not installed.
pub fn run(program: &str, arguments: &str) -> bool {
    let Ok(output) = Command::new(program).args(arguments.split(' ')).output() else {
        eprintln!("skipped: {program} is not installed");
        return false;
    };
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    true
}

fn end_of(container: &Container) -> String {
    format!("sw{}", &container.endpoint.id[..10])
}

fn index(name: &str) -> u32 {
    Route::open().unwrap().link(name).unwrap().unwrap().index
}

#[test]
fn whatever_is_missing_is_made_and_whatever_is_nobodys_goes() {
    on_a_host_with("own_table = false\n", |world| {
        let mine = CreateNetworkRequest {
            name: "mine".to_owned(),
            options: [("com.docker.network.bridge.name", "mine0")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..CreateNetworkRequest::default()
        };
        world.network(mine).unwrap();
        let web = world.run("web", &["3000:80"]);
        let other = world.run("other", &["3001:80"]);
        web.serve(80);
        other.serve(80);
        assert_eq!(put_right(world), [""; 0], "all is as it should be");

        hold_the_guard(world);
        let route = &mut Route::open().unwrap();
        route.apply(&[link::delete(index(&end_of(&web)))]).unwrap();
        let mut wanted = vec![format!("link {} of container web is gone", end_of(&web))];
        let stranger = link::Veth {
            host: "sw0123456789",
            bridge: Some(index("slipway0")),
            peer: "stranger",
            peer_mac: Mac([2; 6]),
            netns: world.neighbour.as_fd(),
            mtu: 1500,
        };
        route.apply(&[stranger.create()]).unwrap();
        wanted.push("link sw0123456789 belongs to nobody".to_owned());
        std::fs::write("/proc/sys/net/ipv4/conf/mine0/route_localnet", "0").unwrap();
        wanted.push("net/ipv4/conf/mine0/route_localnet was 0 instead of 1".to_owned());
        std::fs::remove_file(world.record(&other.endpoint.id)).unwrap();
        wanted.push("the record of container other is gone".to_owned());
        if run("ip", "route del 172.18.0.0/16 dev mine0") {
            let what = "bridge mine0 of network mine is without its route to 172.18.0.0/16";
            wanted.push(what.to_owned());
        }
        if run("ip", "address del 172.17.0.1/16 dev slipway0") {
            let what = "bridge slipway0 of network bridge is without its address 172.17.0.1/16";
            wanted.push(what.to_owned());
        }
        let inside = |arguments: &'static str| {
            let done = other.netns.inside(|| Ok(run("ip", arguments)));
            done.unwrap()
        };
        if inside("address flush dev eth0") {
            let whose = "interface eth0 of container other";
            let address = &other.endpoint.ipv4_address;
            wanted.push(format!("{whose} is without its address {address}/16"));
            wanted.push("container other had no way out by IPv4".to_owned());
        }
        for (arguments, what) in [
            (
                "delete element inet slipway published { tcp . 3000 }",
                "inet slipway lacks of set published: 1 entry",
            ),
            (
                "add element inet slipway gateways { 10.1.2.3, 10.1.2.4 }",
                "inet slipway has what is not ours in set gateways: 2 entries",
            ),
            (
                "add chain inet slipway foreign",
                "inet slipway has a chain foreign that is not ours",
            ),
            (
                "flush chain bridge slipway frames",
                "bridge slipway has other rules in chain frames",
            ),
        ] {
            if run("nft", arguments) {
                wanted.push(format!("table {what}"));
            }
        }

        let mut found = put_right(world);
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
        assert_eq!(put_right(world), [""; 0], "nothing is left to do");
        for port in [3000, 3001] {
            assert_eq!(ask((LOOPBACK, port)).unwrap(), "172.17.0.1");
            let out = other.netns.inside(|| ask((HOST, port)));
            assert!(out.is_ok(), "{port}: {out:?}");
        }
        assert!(!world.links().contains(&"sw0123456789".to_owned()));
        assert!(world.record(&other.endpoint.id).exists());
        world.let_go(GUARD);
    });
}

#[test]
fn what_a_container_changed_inside_is_as_it_was() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        let whose = "interface eth0 of container web";
        let way_out = "container web had no way out by IPv4".to_owned();
        let address = &web.endpoint.ipv4_address;
        let gone = format!("{whose} is gone");
        for (arguments, mut wanted) in [
            ("route del default", vec![way_out.clone()]),
            (
                "link set eth0 down",
                vec![format!("{whose} is switched off"), way_out.clone()],
            ),
            (
                "address flush dev eth0",
                vec![
                    format!("{whose} is without its address {address}/16"),
                    way_out.clone(),
                ],
            ),
            (
                "link set eth0 mtu 1300",
                vec![format!("{whose} has MTU 1300 instead of 1500")],
            ),
            (
                "link set eth0 address 02:00:00:00:00:09",
                vec![format!(
                    "{whose} has another MAC than {}",
                    web.endpoint.mac_address
                )],
            ),
        ] {
            if !web.netns.inside(|| Ok(run("ip", arguments))).unwrap() {
                return;
            }
            assert_eq!(put_right(world), wanted, "{arguments}");
            wanted.clear();
            assert_eq!(put_right(world), wanted);
            assert_eq!(ask((LOOPBACK, 3000)).unwrap(), "172.17.0.1");
            assert!(web.netns.inside(|| ask((HOST, 3000))).is_ok());
        }
        let rename = "ip link set eth0 down; ip link set eth0 name lost";
        let renamed = || Command::new("sh").args(["-c", rename]).status();
        assert!(web.netns.inside(renamed).unwrap().success());
        assert_eq!(put_right(world), [gone]);
        assert!(web.netns.inside(|| ask((HOST, 3000))).is_ok());
    });
}

#[test]
fn a_route_of_somebody_elses_is_not_taken_for_ours() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        hold_the_guard(world);
        let (bridge, lan) = (index("slipway0"), index("lan0"));
        let subnet = "172.17.0.0/16".parse().unwrap();
        let apply = |request| Route::open().unwrap().apply(&[request]).unwrap();
        apply(link::remove_route(subnet, bridge));
        apply(link::add_route(subnet, NEIGHBOUR.into(), lan));
        let found = reconcile(world);
        let [finding] = &found[..] else {
            panic!("{found:?}");
        };
        let what = "bridge slipway0 of network bridge is without its route to 172.17.0.0/16";
        assert_eq!(finding.what, what);
        let why = "is somebody else's, by lan0: remove that one";
        assert!(finding.trouble.contains(why), "{finding:?}");
        apply(link::remove_route(subnet, lan));
        assert_eq!(put_right(world), [what]);
        assert_eq!(ask((LOOPBACK, 3000)).unwrap(), "172.17.0.1");
    });
}
