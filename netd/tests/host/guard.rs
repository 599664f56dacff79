//! What others do to our table, our bridges and the host's settings, and what becomes of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use ipnet::IpNet;
use netd::netlink::wire::Message;
use netd::netlink::{Mac, Netns, Route, link};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};
use std::os::fd::{AsFd as _, AsRawFd as _};

use crate::world::*;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn nft(arguments: &[&str]) -> Option<Output> {
    let output = Command::new("nft").args(arguments).output();
    if output.is_err() {
        eprintln!("skipped: nft is not installed");
    }
    output.ok()
}

/// Whether the kernel keeps tables for their owners.
fn is_owned(world: &World) -> bool {
    let info = world
        .call(async |mut netd| netd.info(slipway_proto::netd::v1::InfoRequest {}).await)
        .unwrap();
    match info.facts["nftables table"].as_str() {
        "owned" => true,
        other => {
            eprintln!("skipped: this kernel's table is {other}");
            false
        }
    }
}

#[test]
fn a_flushed_table_is_put_back_and_reads_as_meant() {
    on_a_host_with("own_table = false\n", |world| {
        let web = world.run("web", &["3000:80", "127.0.0.1:3001:81"]);
        web.serve(80);
        let nft = |arguments: &[&str]| Command::new("nft").args(arguments).output();
        let Ok(listed) = nft(&["list", "table", "inet", "slipway"]) else {
            eprintln!("skipped: nft is not installed");
            return;
        };
        let text = String::from_utf8(listed.stdout).unwrap();
        for line in [
            "elements = { \"slipway0\" }",
            "elements = { tcp . 3000 : 172.17.0.2 . 80 }",
            "elements = { tcp . 127.0.0.1 . 3001 : 172.17.0.2 . 81 }",
            "dnat ip to meta l4proto . th dport map @published",
            "elements = { \"lo\" : accept,",
            "\"slipway0\" : jump by_slipway0 }",
            "iifname vmap @doors",
            "ip daddr @hidden drop",
            "oifname @bridges ip saddr 127.0.0.0/8 masquerade",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
        nft(&["add", "table", "ip", "foreign"]).unwrap();
        nft(&["delete", "table", "inet", "slipway"]).unwrap();
        eventually("the port is back", || ask_briefly((LOOPBACK, 3000)).is_ok());
        let again = nft(&["list", "table", "inet", "slipway"]).unwrap().stdout;
        assert_eq!(String::from_utf8(again).unwrap(), text);
        let all = String::from_utf8(nft(&["list", "tables"]).unwrap().stdout).unwrap();
        assert!(
            all.contains("table ip foreign"),
            "others' tables are left alone"
        );
    });
}

#[test]
fn nobody_flushes_a_table_of_ours_and_it_stays_when_netd_dies() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        if nft(&["list", "tables"]).is_none() || !is_owned(world) {
            return;
        }
        let text = || nft(&["list", "table", "inet", "slipway"]).unwrap().stdout;
        let before = text();
        // Whoever has a way to the LAN tries it all the time.
        let (over, reached) = (AtomicBool::new(false), AtomicBool::new(false));
        let address = web.address();
        let neighbour = Netns::open(world.neighbour.proc_path().as_ref()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let hammer = || {
                    while !over.load(Ordering::SeqCst) {
                        let to: SocketAddr = (address, 80).into();
                        let patience = Duration::from_millis(5);
                        let got = std::net::TcpStream::connect_timeout(&to, patience);
                        reached.fetch_or(got.is_ok(), Ordering::SeqCst);
                    }
                    io::Result::Ok(())
                };
                neighbour.inside(hammer).unwrap();
            });
            // Whatever comes of the rest, that one must end.
            struct End<'a>(&'a AtomicBool);
            impl Drop for End<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::SeqCst);
                }
            }
            let _end = End(&over);
            for _ in 0..20 {
                assert!(nft(&["flush", "ruleset"]).unwrap().status.success());
                let deleted = nft(&["delete", "table", "inet", "slipway"]).unwrap();
                assert!(!deleted.status.success());
            }
            assert_eq!(text(), before);
            world.kill();
            assert!(!text().is_empty());
            assert!(ask((LOOPBACK, 3000)).is_ok());
            world.restart_dead();
        });
        assert!(
            !reached.load(Ordering::SeqCst),
            "a container's address was open"
        );
        assert!(ask((LOOPBACK, 3000)).is_ok());
        // The new one has it as well, and can change it.
        assert!(
            !nft(&["delete", "table", "inet", "slipway"])
                .unwrap()
                .status
                .success()
        );
        world.run("other", &["3001:80"]).serve(80);
        assert!(ask((LOOPBACK, 3001)).is_ok());
    });
}

#[test]
fn a_bridge_that_somebody_took_away_comes_back_with_its_containers() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        assert!(ask((LOOPBACK, 3000)).is_ok());
        let change = |what: fn(&mut Route, u32) -> io::Result<()>| {
            let mut route = Route::open().unwrap();
            let index = route.link("slipway0").unwrap().unwrap().index;
            what(&mut route, index).unwrap();
        };
        for what in [
            (|route, index| route.apply(&[link::delete(index)])) as fn(&mut Route, u32) -> _,
            |route, index| route.apply(&[link::set_down(index)]),
        ] {
            change(what);
            eventually("the port is back", || ask_briefly((LOOPBACK, 3000)).is_ok());
            let next = world.run("next", &["3001:80"]);
            next.serve(80);
            assert!(ask((LOOPBACK, 3001)).is_ok());
            let neighbour = web.netns.inside(|| ask((next.address(), 80))).unwrap();
            assert_eq!(neighbour, web.endpoint.ipv4_address);
            world.release("next");
        }
    });
}

/// The host's end of a container's link.
fn end_of(container: &Container) -> String {
    format!("sw{}", &container.endpoint.id[..10])
}

#[test]
fn a_containers_link_that_somebody_changed_is_as_it_was() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        let other = world.run("other", &[]);
        web.serve(80);
        let end = end_of(&web);
        let find = |name: &str| Route::open().unwrap().link(name).unwrap();
        let bridge = find("slipway0").unwrap();
        let change = |name: &str, what: &dyn Fn(u32) -> Message| {
            let index = find(name).unwrap().index;
            Route::open().unwrap().apply(&[what(index)]).unwrap();
        };
        let works = || {
            let near = other.netns.inside(|| ask_briefly((web.address(), 80)));
            // By its default route, which is the last that it gets.
            let far = web.netns.inside(|| ask_briefly((HOST, 3000)));
            near.is_ok() && far.is_ok() && ask_briefly((LOOPBACK, 3000)).is_ok()
        };
        eventually("it works", works);
        let changes: [&dyn Fn(u32) -> Message; 3] = [
            &|index| link::set_down(index),
            &|index| link::set_master(index, 0),
            &|index| link::delete(index),
        ];
        for what in changes {
            change(&end, what);
            eventually("it is in its bridge", || {
                find(&end).is_some_and(|l| l.up && l.master == Some(bridge.index) && l.hairpin)
            });
            eventually("it works", works);
            assert_eq!(
                web.netns.inside(|| ask((HOST, 3000))).unwrap(),
                "172.17.0.1"
            );
        }
        // The container has what it had.
        let inside = web.netns.inside(|| Route::open()?.link("eth0")).unwrap();
        let mac = inside.unwrap().mac.unwrap().to_string();
        assert_eq!(mac, web.endpoint.mac_address);

        change("slipway0", &|index| link::set_mtu(index, 1280));
        eventually("its bridge takes large packets", || {
            find("slipway0").unwrap().mtu == bridge.mtu
        });
        change("slipway0", &|index| link::set_mac(index, Mac([2; 6])));
        eventually("its bridge is who it was", || {
            find("slipway0").unwrap().mac == bridge.mac
        });
        eventually("it works", works);
    });
}

#[test]
fn a_link_that_went_while_netd_was_away_is_made_anew_for_who_lives() {
    on_a_host(|world| {
        let web = world.run("web", &["3000:80"]);
        web.serve(80);
        let sleep = || Command::new("sleep").arg("1000").spawn();
        let mut lives = web.netns.inside(sleep).unwrap();
        let dead = world.run("dead", &[]);
        let ends = [end_of(&web), end_of(&dead)];
        world.kill();
        for end in &ends {
            let mut route = Route::open().unwrap();
            let index = route.link(end).unwrap().unwrap().index;
            route.apply(&[link::delete(index)]).unwrap();
        }
        world.restart_dead();
        assert!(ask((LOOPBACK, 3000)).is_ok());
        // Its way out is the same, too.
        assert!(world.links().contains(&ends[0]) && !world.links().contains(&ends[1]));
        let out = web.netns.inside(|| ask((HOST, 3000)));
        assert_eq!(out.unwrap(), "172.17.0.1");
        // From now on its namespace is known, and its link comes back at any time.
        let mut route = Route::open().unwrap();
        let index = route.link(&ends[0]).unwrap().unwrap().index;
        route.apply(&[link::delete(index)]).unwrap();
        eventually("it works", || ask_briefly((LOOPBACK, 3000)).is_ok());
        lives.kill().unwrap();
        lives.wait().unwrap();
    });
}

#[test]
fn forwarding_that_was_switched_off_is_on_again() {
    on_a_host(|_| {
        let file = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(file, "0").unwrap();
        eventually("it is on again", || {
            std::fs::read_to_string(file).unwrap() == "1\n"
        });
    });
}

/// A second LAN of the host's, with somebody on it who answers on port 80.
fn other_lan() -> Netns {
    let mut route = Route::open().unwrap();
    let net: IpNet = "198.51.100.0/24".parse().unwrap();
    let [host, there] = [1, 2].map(|last| IpAddr::from([198, 51, 100, last]));
    let far = Netns::create().unwrap();
    let pair = link::Veth {
        host: "lan1",
        bridge: None,
        peer: "lan1",
        peer_mac: Mac::of(there),
        netns: far.as_fd(),
        mtu: 1500,
    };
    route.apply(&[pair.create()]).unwrap();
    let index = route.link("lan1").unwrap().unwrap().index;
    route.apply(&[link::add_address(index, host, net)]).unwrap();
    let up = || {
        let mut inside = Route::open()?;
        let index = inside.link("lan1")?.unwrap().index;
        inside.apply(&[
            link::set_up(index),
            link::add_address(index, there, net),
            link::add_route("0.0.0.0/0".parse().unwrap(), host, index),
        ])
    };
    far.inside(up).unwrap();
    far
}

#[test]
fn the_host_is_no_router_but_for_its_containers() {
    for (settings, is_router) in [("", false), ("ip_forward_no_drop = true\n", true)] {
        on_a_host_with(settings, |world| {
            let there = Container {
                endpoint: Default::default(),
                netns: other_lan(),
            };
            there.serve(80);
            let far = (Ipv4Addr::new(198, 51, 100, 2), 80);
            let web = world.run("web", &["3000:80"]);
            web.serve(80);
            assert!(
                web.netns.inside(|| ask(far)).is_ok(),
                "containers have a way out"
            );
            assert!(
                there.netns.inside(|| ask((HOST, 3000))).is_ok(),
                "and their ports a way in"
            );
            let patience = if is_router { PATIENCE } else { MOMENT };
            let through = world.neighbour.inside(|| ask_within(patience, far));
            assert_eq!(through.is_ok(), is_router, "{through:?}");
        });
    }
}

/// A tcp segment without options or content (RFC 9293, 3.1).
fn segment(from: Ipv4Addr, port: u16, flags: u8) -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&1234_u16.to_be_bytes());
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header[4..8].copy_from_slice(&7_u32.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = flags;
    let pseudo = [from.octets(), NEIGHBOUR.octets(), [0, 6, 0, 20]].concat();
    let words = pseudo.chunks(2).chain(header.chunks(2));
    let sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn raw_tcp() -> std::os::fd::OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Tcp).unwrap()
}

#[test]
fn nothing_leaves_with_a_containers_address() {
    on_a_host(|world| {
        let web = world.run("web", &[]);
        let heard = world
            .neighbour
            .inside(|| io::Result::Ok(raw_tcp()))
            .unwrap();
        let send = || {
            let raw = raw_tcp();
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(NEIGHBOUR, 0));
            // RST and SYN-ACK belong to no connection; a SYN begins one.
            for (flags, port) in [(0x04, 9001), (0x12, 9002), (0x02, 9003)] {
                let header = segment(web.address(), port, flags);
                sendto(raw.as_raw_fd(), &header, &to, MsgFlags::empty())?;
            }
            io::Result::Ok(())
        };
        let begun = Instant::now();
        loop {
            web.netns.inside(send).unwrap();
            let mut packet = [0; 128];
            let mut last = 0;
            while let Ok(length) = recv(heard.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                assert!(length >= 40);
                let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
                last = u16::from_be_bytes([packet[22], packet[23]]);
                assert_eq!(source, HOST, "to port {last}");
            }
            if last == 9003 {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "nothing was heard"
            );
            thread::yield_now();
        }
    });
}
