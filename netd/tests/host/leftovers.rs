//! What a network leaves behind: no rules and no routes, and rules no sooner than it is gone.

use std::net::UdpSocket;

use ipnet::IpNet;
use netd::netlink::{Route, fence, vxlan};
use slipway_fault::Action;
use slipway_proto::netd::v1::TeardownRequest;

use crate::overlay::*;
use crate::ranges::listed;
use crate::reconcile::{put_right, run};
use crate::world::*;

/// As long as there is a tunnel, they say who may send into it; as long as this host forwards, for whom.
#[test]
fn a_teardown_takes_the_rules_last() {
    on_a_host(|world| {
        world.network(asked(&[("peers", PEERS)])).unwrap();
        if listed("published").is_none() {
            return eprintln!("skipped: nft is not installed");
        }
        let after = "netd.unoverlay.unlinked";
        world.arm(after, Action::Wait);
        let world = &*world;
        std::thread::scope(|scope| {
            let gone = scope.spawn(|| {
                let gone = world.call(async |mut netd| netd.teardown(TeardownRequest {}).await);
                gone.unwrap()
            });
            eventually("its tunnel is gone", || world.fired(after));
            let is_ruled = listed("published").is_some();
            world.let_go(after);
            gone.join().unwrap();
            assert!(is_ruled && listed("published").is_none());
        });
    });
}

/// They would keep what is for whoever has its port from him.
#[test]
fn a_network_that_was_refused_leaves_no_rules() {
    on_a_host(|world| {
        let taken = UdpSocket::bind((HOST, vxlan::PORT)).unwrap();
        let without_the_neighbour = "a=192.0.2.1,c=192.0.2.3";
        let peers = [("peers", without_the_neighbour), ("vni", "77")];
        let refused = world.network(asked(&peers)).unwrap_err();
        let why = "udp port 4789 of this host is taken";
        assert!(refused.message().contains(why), "{refused}");
        assert_eq!(put_right(world), [""; 0]);
        let sending = world.neighbour.inside(|| UdpSocket::bind((NEIGHBOUR, 0)));
        let frame = frame(77, THEIRS, OURS, 9);
        let to = (HOST, vxlan::PORT);
        sending.unwrap().send_to(&frame, to).unwrap();
        taken.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(taken.recv(&mut [0; 128]).unwrap(), frame.len());
    });
}

/// Only one of an encrypted network's is ours, and only as long as that is there.
#[test]
fn a_route_to_nowhere_that_is_nobodys_goes_and_an_administrators_stays() {
    on_a_host(|world| {
        let raise = || {
            let subnet = "10.20.0.0/16".parse().unwrap();
            Route::open()
                .unwrap()
                .apply(&[fence::raise(subnet)])
                .unwrap();
        };
        let theirs: IpNet = "10.30.0.0/16".parse().unwrap();
        let has_theirs = run("ip", &format!("route add unreachable {theirs}"));
        raise();
        let wide = |world: &World| world.network(asked(&[("peers", PEERS)]));
        let refused = wide(world).unwrap_err();
        assert!(refused.message().contains("overlaps"), "{refused}");
        let what = "the route of 10.20.0.0/16 to nowhere belongs to nobody";
        assert_eq!(put_right(world), [what]);
        assert_eq!(put_right(world), [""; 0]);
        wide(world).unwrap();
        // One of its subnet is none of its own either: it travels in the clear.
        raise();
        world.restart();
        assert_eq!(Route::open().unwrap().fences().unwrap(), []);
        let routes = Route::open().unwrap().routes().unwrap();
        assert_eq!(routes.contains(&(0, theirs)), has_theirs);
    });
}
