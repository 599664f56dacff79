//! This host's end of a network that spans hosts: what a start, a command and the guard do about it.

use std::net::IpAddr;

use netd::netlink::neigh::{self, Known};
use netd::netlink::vxlan::{self, Vxlan};
use netd::netlink::wire::number;
use netd::netlink::{Family, Link, Mac, Netns, Route, Socket, link};
use netd::{firewall, nft};
use slipway_fault::Action;
use slipway_proto::netd::v1::*;

use crate::overlay::*;
use crate::reconcile::{GUARD, hold_the_guard, put_right, reconcile};
use crate::world::*;

const PORT: u16 = 80;

fn find(name: &str) -> Option<Link> {
    Route::open().unwrap().link(name).unwrap()
}

fn apply(message: netd::netlink::wire::Message) {
    Route::open().unwrap().apply(&[message]).unwrap();
}

/// The network, the other host's end of it, and a container here that serves.
fn spanned(world: &World) -> (NetworkDetails, Container) {
    let made = world.network(asked(&[("peers", PEERS)])).unwrap();
    join(&world.neighbour, &their_end());
    let web = container(world, "web");
    web.serve(PORT);
    (made, web)
}

fn is_reached(neighbour: &Netns, web: &Container) -> bool {
    let web = (web.address(), PORT);
    neighbour.inside(|| ask_briefly(web)).is_ok()
}

fn reached_soon(world: &World, web: &Container) {
    eventually("the container is reached", || {
        is_reached(&world.neighbour, web)
    });
}

fn try_to_remove(world: &World) -> Result<RemoveNetworkResponse, tonic::Status> {
    let name = RemoveNetworkRequest {
        network: "wide".to_owned(),
        force: false,
    };
    world.call(async |mut netd| netd.remove_network(name).await)
}

fn remove(world: &World) {
    try_to_remove(world).unwrap();
}

#[test]
fn tunnels_outlive_netd_and_whoever_takes_them_away() {
    on_a_host(|world| {
        world.network(asked(&[("peers", PEERS)])).unwrap();
        let tunnel = their_end();
        join(&world.neighbour, &tunnel);
        let web = container(world, "web");
        web.serve(80);
        let reached = |world: &World| {
            let web = (web.address(), 80);
            world.neighbour.inside(|| ask_briefly(web)).is_ok()
        };
        eventually("the container is reached", || reached(world));
        world.kill();
        eventually("the kernel goes on without netd", || reached(world));
        world.restart_dead();
        eventually("the container is reached", || reached(world));
        let mut route = Route::open().unwrap();
        for harm in [link::delete, link::set_down] {
            let index = route.link(&tunnel.name).unwrap().unwrap().index;
            route.apply(&[harm(index)]).unwrap();
            eventually("it is put back", || reached(world));
        }
        // Deleted while nobody looks.
        world.kill();
        let index = route.link(&tunnel.name).unwrap().unwrap().index;
        route.apply(&[link::delete(index)]).unwrap();
        world.restart_dead();
        eventually("the container is reached", || reached(world));

        world.release("web");
        remove(world);
        assert!(!world.links().contains(&tunnel.name));
    });
}

/// Before, whoever says that he is one of its hosts could send into it.
#[test]
fn a_tunnel_is_off_until_the_table_says_who_may_send_into_it() {
    on_a_host(|world| {
        let (_, web) = spanned(world);
        let tunnel = their_end().name;
        world.kill();
        apply(link::delete(find(&tunnel).unwrap().index));
        let before = "netd.recover.orphans";
        world.arm(before, Action::Wait);
        world.begin();
        eventually("it has no table yet", || world.fired(before));
        assert!(!find(&tunnel).unwrap().up);
        world.let_go(before);
        world.wait_until_ready();
        assert!(find(&tunnel).unwrap().up);
        reached_soon(world, &web);
        // Nor when it is made.
        world.release("web");
        remove(world);
        let before = "netd.network.up";
        world.arm(before, Action::Wait);
        let world = &*world;
        std::thread::scope(|scope| {
            let made = scope.spawn(|| world.network(asked(&[("peers", PEERS)])));
            eventually("it has no rules yet", || world.fired(before));
            let is_off = !find(&tunnel).unwrap().up;
            world.let_go(before);
            made.join().unwrap().unwrap();
            assert!(is_off);
        });
        assert!(find(&tunnel).unwrap().up);
    });
}

/// Nor after: it is off before they go.
#[test]
fn a_tunnel_is_off_before_its_rules_go() {
    on_a_host(|world| {
        let (_, _web) = spanned(world);
        let tunnel = their_end().name;
        world.release("web");
        world.arm("netd.unnetwork.begun", Action::Fail(nix::libc::ENOSPC));
        try_to_remove(world).unwrap_err();
        let web = container(world, "again");
        web.serve(PORT);
        reached_soon(world, &web);
        world.release("again");

        let after = "netd.unnetwork.unruled";
        world.arm(after, Action::Wait);
        let world = &*world;
        std::thread::scope(|scope| {
            let removed = scope.spawn(|| remove(world));
            eventually("its rules are gone", || world.fired(after));
            let is_up = find(&tunnel).unwrap().up;
            world.let_go(after);
            removed.join().unwrap();
            assert!(!is_up);
        });
    });
}

#[test]
fn a_start_touches_no_tunnel_that_is_right() {
    on_a_host(|world| {
        let (_, web) = spanned(world);
        let index = find(&their_end().name).unwrap().index;
        let mut events = Socket::open_with_groups(Family::Route, 1).unwrap();
        world.restart();
        // A witness that what was said before has been heard.
        let witness = find("lan0").unwrap().index;
        apply(link::set_alias(witness, "witness"));
        let (mut heard, mut touched) = (false, 0);
        while !heard {
            let read = events.notifications(|event| {
                let of = event.payload.get(4..8).and_then(number);
                heard |= of == Some(witness);
                touched += u32::from(of == Some(index));
            });
            read.unwrap();
        }
        assert_eq!(touched, 0);
        reached_soon(world, &web);
    });
}

#[test]
fn a_host_whose_table_cannot_be_written_at_a_start_is_closed() {
    on_a_host_with("own_table = false\n", |world| {
        let (_, web) = spanned(world);
        let links = ["slipway0", &their_end().name].map(str::to_owned);
        let are_up = || links.each_ref().map(|name| find(name).unwrap().up);
        world.kill();
        assert_eq!(are_up(), [true; 2]);
        let Some(mut other) = somebody_has_the_table() else {
            return;
        };
        world.begin();
        assert!(!world.ends().success());
        assert_eq!(are_up(), [false; 2]);
        let given_up = firewall::remove(firewall::Ownership::Owned);
        other.apply(given_up).unwrap();
        world.restart_dead();
        assert_eq!(are_up(), [true; 2]);
        reached_soon(world, &web);
    });
}

#[test]
fn a_network_whose_record_is_damaged_can_be_made_again() {
    on_a_host(|world| {
        let (made, _web) = spanned(world);
        let tunnel = their_end().name;
        assert!(find(&tunnel).unwrap().alias.contains(&made.id));
        world.kill();
        std::fs::write(world.network_record(&made.id), "{").unwrap();
        world.restart_dead();
        assert_eq!(find(&tunnel), None, "it is nobody's");
        let again = world.network(asked(&[("peers", PEERS)])).unwrap();
        assert_eq!(again.id, made.id);
        let web = container(world, "again");
        web.serve(PORT);
        reached_soon(world, &web);
    });
}

#[test]
fn where_a_tunnel_leads_is_compared_and_put_right() {
    on_a_host(|world| {
        let (made, web) = spanned(world);
        assert_eq!(put_right(world), [""; 0]);
        let tunnel = their_end();
        let name = &tunnel.name;
        let (mac, elsewhere) = (tunnel.mac(), IpAddr::from([192, 0, 2, 9]));
        let known = |address: IpAddr| Known { mac, address };
        let index = || find(name).unwrap().index;
        let slice = "10.20.1.0/24".parse().unwrap();
        let stranger = "10.20.9.0/24".parse().unwrap();
        let foreign = Mac([2, 0, 0, 0, 0, 9]);
        let (there, here) = (IpAddr::from(THEIRS), IpAddr::from(OURS));
        hold_the_guard(world);
        for (harm, said) in [
            (
                known(NEIGHBOUR.into()).forget_tunnel_entry(index()),
                "does not lead to host 192.0.2.2",
            ),
            (
                neigh::tunnel_entry(index(), mac, elsewhere),
                "does not lead to host 192.0.2.2",
            ),
            (
                neigh::tunnel_entry(index(), foreign, elsewhere),
                "leads to 192.0.2.9, which is none of its hosts",
            ),
            (
                known(there).forget_neighbour(index()),
                "does not know the MAC of 10.20.1.1",
            ),
            (
                neigh::neighbour(index(), there, foreign),
                "does not know the MAC of 10.20.1.1",
            ),
            (
                link::remove_route(slice, index()),
                "is without its route to 10.20.1.0/24",
            ),
            (
                vxlan::replace_route(stranger, there, here, index()),
                "has a route to 10.20.9.0/24 that is not its own",
            ),
        ] {
            apply(harm);
            let what = format!("tunnel {name} of network wide {said}");
            assert_eq!(put_right(world), [what]);
            assert_eq!(put_right(world), [""; 0]);
            reached_soon(world, &web);
        }
        // Another one in its place.
        apply(link::delete(index()));
        let other = Vxlan {
            name,
            vni: 9,
            mac: Mac::of(here),
            local: HOST.into(),
            mtu: 1450,
        };
        apply(other.create());
        let found = put_right(world).join("\n");
        assert!(found.contains("is gone"), "{found}");
        let vni = find(name).unwrap().vxlan.unwrap().vni;
        assert_ne!(vni, 9);
        reached_soon(world, &web);
        world.let_go(GUARD);

        // Its record, too.
        std::fs::remove_file(world.network_record(&made.id)).unwrap();
        assert_eq!(put_right(world), ["the record of network wide is gone"]);
        assert!(world.network_record(&made.id).exists());
    });
}

#[test]
fn a_list_that_cannot_be_followed_is_the_one_of_before() {
    on_a_host(|world| {
        let two = "a=192.0.2.1,b=192.0.2.2";
        let made = world.network(asked(&[("peers", two)])).unwrap();
        join(&world.neighbour, &their_end());
        let web = container(world, "web");
        web.serve(PORT);
        let record = || std::fs::read_to_string(world.network_record(&made.id)).unwrap();
        let before = record();
        world.arm("netd.peers.allowed", Action::Fail(nix::libc::ENOSPC));
        let longer = || asked(&[("peers", PEERS)]);
        let refused = world.network(longer()).unwrap_err();
        assert!(refused.message().contains("No space left"), "{refused}");
        assert_eq!(record(), before);
        assert_eq!(put_right(world), [""; 0], "kernel and record agree");
        reached_soon(world, &web);
        assert_eq!(world.network(longer()).unwrap().peers.len(), 3);
        assert_eq!(put_right(world), [""; 0]);
    });
}

/// Another program takes our table, where the kernel lets one do that.
fn somebody_has_the_table() -> Option<nft::Client> {
    let mut other = nft::Client::open().unwrap();
    let mut taken = firewall::remove(firewall::Ownership::Shared);
    taken.own_table();
    match other.apply(taken) {
        Err(refused) if refused.is_unsupported() => {
            eprintln!("skipped: this kernel keeps no tables for their owners");
            None
        }
        done => {
            done.unwrap();
            Some(other)
        }
    }
}

/// While another program has the table, netd cannot write it: nothing of a network may be reached by then.
#[test]
fn a_network_is_off_while_its_table_cannot_be_written() {
    on_a_host_with("own_table = false\n", |world| {
        let made = world.network(asked(&[("peers", PEERS)])).unwrap();
        let tunnel = format!("svx{}", &made.id[..10]);
        let web = container(world, "web");
        web.serve(80);
        join(&world.neighbour, &their_end());
        let is_up = |name: &str| Route::open().unwrap().link(name).unwrap().unwrap().up;
        assert!(is_up(&tunnel));
        let Some(mut other) = somebody_has_the_table() else {
            return;
        };
        eventually("the tunnel is off", || !is_up(&tunnel));
        // Nor does a command switch it on.
        let found = reconcile(world);
        let why = "another program keeps a table slipway for itself";
        assert!(
            found.iter().any(|finding| finding.trouble.contains(why)),
            "{found:?}"
        );
        assert!(!is_up(&tunnel));
        let given_up = firewall::remove(firewall::Ownership::Owned);
        other.apply(given_up).unwrap();
        eventually("it is on again", || is_up(&tunnel));
        eventually("the other host reaches containers", || {
            let asked = world.neighbour.inside(|| ask_briefly((web.address(), 80)));
            asked.is_ok()
        });
    });
}
