//! What a container with NET_RAW tries against its neighbours, and what becomes of it: each attack works where
//! `anti_spoofing` is off, so that the tests know that they are attacks.

use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use netd::netlink::Mac;
use slipway_proto::netd::v1::TeardownRequest;

use crate::ipv6::{network, on};
use crate::wire::*;
use crate::world::*;

const FREE: &str = "anti_spoofing = false\n";
/// Says nothing in a network of ours.
const LOCAL_EXPERIMENT: u16 = 0x88b5;
const DOT1Q: u16 = 0x8100;

fn mac(container: &Container) -> Mac {
    container.endpoint.mac_address.parse().unwrap()
}

fn gateway(container: &Container) -> Ipv4Addr {
    container.endpoint.ipv4_gateway.parse().unwrap()
}

/// As on a host without br_netfilter: nothing but the table of the bridges looks at what neighbours send each other.
fn without_br_netfilter() {
    for setting in ["iptables", "ip6tables", "arptables"] {
        // It may not be there at all.
        let _ = fs::write(
            format!("/proc/sys/net/bridge/bridge-nf-call-{setting}"),
            "0",
        );
    }
}

/// A frame with something in it to know it by.
type Marked = (&'static str, Box<dyn Fn(&[u8]) -> Vec<u8>>);

fn marked(what: &'static str, frame: impl Fn(&[u8]) -> Vec<u8> + 'static) -> Marked {
    (what, Box::new(frame))
}

/// Sends them all, and then something honest until that has come; returns which of them the victim heard.
fn heard(attacker: &Container, victim: &Container, frames: &[Marked]) -> Vec<&'static str> {
    let (here, there) = (Wire::of(&attacker.netns), Wire::of(&victim.netns));
    let mark = |number: usize| format!("<frame {number:04}>").into_bytes();
    let (from, to) = (mac(attacker), mac(victim));
    for (number, (_, frame)) in frames.iter().enumerate() {
        here.send(&frame(&mark(number)));
    }
    let packet = udp(9, 9, &mark(9999));
    let last = ether(
        to,
        from,
        IP,
        &ipv4(attacker.address(), victim.address(), UDP, &packet),
    );
    let has = |frame: &[u8], number| frame.windows(12).any(|part| part == mark(number));
    let mut all = Vec::new();
    eventually("an honest frame comes through", || {
        here.send(&last);
        all.extend(there.heard());
        all.iter().any(|frame| has(frame, 9999))
    });
    let came = |number| all.iter().any(|frame| has(frame, number));
    let came = |(number, (what, _)): (usize, &Marked)| came(number).then_some(*what);
    frames.iter().enumerate().filter_map(came).collect()
}

fn names(frames: &[Marked]) -> Vec<&'static str> {
    frames.iter().map(|(what, _)| *what).collect()
}

#[test]
fn nobody_sends_in_anothers_name() {
    for settings in ["", FREE] {
        on_a_host_with(settings, |world| {
            without_br_netfilter();
            let [attacker, victim, other] =
                ["attacker", "victim", "other"].map(|n| world.run(n, &[]));
            let (own, to, neighbour) = (mac(&attacker), mac(&victim), mac(&other));
            let (ip, ip_to, ip_other) = (attacker.address(), victim.address(), other.address());
            let router = gateway(&attacker);
            let packet = move |from, more: &[u8]| ipv4(from, ip_to, UDP, &udp(9, 9, more));
            let link_local = own.link_local();
            let forged = [
                marked("ARP for the gateway", move |m| {
                    ether(to, own, ARP, &arp(own, router, m))
                }),
                marked("ARP for a neighbour", move |m| {
                    ether(to, own, ARP, &arp(own, ip_other, m))
                }),
                marked("ARP that gives its address to another's MAC", move |m| {
                    ether(to, own, ARP, &arp(neighbour, ip, m))
                }),
                marked("ARP in another's frame", move |m| {
                    ether(to, neighbour, ARP, &arp(own, ip, m))
                }),
                marked("the gateway's MAC", move |m| {
                    ether(to, Mac::of(router.into()), IP, &packet(ip, m))
                }),
                marked("a neighbour's MAC", move |m| {
                    ether(to, neighbour, IP, &packet(ip, m))
                }),
                marked("a neighbour's address", move |m| {
                    ether(to, own, IP, &packet(ip_other, m))
                }),
                marked("the gateway's address", move |m| {
                    ether(to, own, IP, &packet(router, m))
                }),
                marked("an address of nobody", move |m| {
                    ether(to, own, IP, &packet(Ipv4Addr::UNSPECIFIED, m))
                }),
                marked("an answer of DHCP", move |m| {
                    ether(to, own, IP, &ipv4(ip, ip_to, UDP, &udp(67, 68, m)))
                }),
                marked("a redirect", move |m| {
                    ether(to, own, IP, &ipv4(ip, ip_to, ICMP, &icmp(5, m)))
                }),
                marked("IPv6 where there is none", move |m| {
                    let all = "ff02::1".parse().unwrap();
                    ether(to, own, IPV6, &ipv6(link_local, all, UDP, &udp(9, 9, m)))
                }),
                marked("a tag of 802.1Q", move |m| {
                    let tagged = [[0, 1].as_slice(), &IP.to_be_bytes(), &packet(ip, m)].concat();
                    ether(to, own, DOT1Q, &tagged)
                }),
                marked("neither IP nor ARP", move |m| {
                    ether(to, own, LOCAL_EXPERIMENT, m)
                }),
            ];
            let came = heard(&attacker, &victim, &forged);
            match settings {
                FREE => assert_eq!(came, names(&forged), "these are no attacks"),
                _ => assert_eq!(came, [""; 0]),
            }
            let honest = [
                marked("its own packet", move |m| {
                    ether(to, own, IP, &packet(ip, m))
                }),
                marked("its own address by ARP", move |m| {
                    ether(EVERYBODY, own, ARP, &arp(own, ip, m))
                }),
                marked("a probe by ARP", move |m| {
                    ether(EVERYBODY, own, ARP, &arp(own, Ipv4Addr::UNSPECIFIED, m))
                }),
            ];
            assert_eq!(heard(&attacker, &victim, &honest), names(&honest));
        });
    }
}

#[test]
fn nobody_sends_in_anothers_name_over_ipv6() {
    for settings in ["", FREE] {
        on_a_host_with(settings, |world| {
            without_br_netfilter();
            world
                .network(network("front", &["10.7.0.0/24", "fd00:7::/64"]))
                .unwrap();
            let [attacker, victim, other] =
                ["attacker", "victim", "other"].map(|n| world.attach(on("front", n, &[])).unwrap());
            let (own, to) = (mac(&attacker), mac(&victim));
            let (ip, ip_to, ip_other) = (attacker.address6(), victim.address6(), other.address6());
            let router: Ipv6Addr = attacker.endpoint.ipv6_gateway.parse().unwrap();
            let (link_local, neighbour) = (own.link_local(), mac(&other).link_local());
            let says = move |from: Ipv6Addr, kind: u8, content: &[u8]| {
                ether(
                    to,
                    own,
                    IPV6,
                    &ipv6(from, ip_to, ICMPV6, &icmp(kind, content)),
                )
            };
            // RFC 4861, 4.4: flags, target, and whatever.
            let has = |address: Ipv6Addr, more: &[u8]| {
                [[0x20, 0, 0, 0].as_slice(), &address.octets(), more].concat()
            };
            let forged = [
                marked("a neighbour's address", move |m| {
                    ether(to, own, IPV6, &ipv6(ip_other, ip_to, UDP, &udp(9, 9, m)))
                }),
                marked("a neighbour's link-local address", move |m| {
                    ether(to, own, IPV6, &ipv6(neighbour, ip_to, UDP, &udp(9, 9, m)))
                }),
                marked("a router's advertisement", move |m| {
                    says(link_local, 134, m)
                }),
                marked("one behind an empty extension header", move |m| {
                    let behind = [[ICMPV6, 0, 1, 4, 0, 0, 0, 0].as_slice(), &icmp(134, m)].concat();
                    ether(to, own, IPV6, &ipv6(link_local, ip_to, 0, &behind))
                }),
                marked("a redirect", move |m| says(link_local, 137, m)),
                marked("an advertisement for the gateway", move |m| {
                    says(ip, 136, &has(router, m))
                }),
                marked("an advertisement for a neighbour", move |m| {
                    says(link_local, 136, &has(ip_other, m))
                }),
                marked("an answer of DHCPv6", move |m| {
                    ether(
                        to,
                        own,
                        IPV6,
                        &ipv6(link_local, ip_to, UDP, &udp(547, 546, m)),
                    )
                }),
            ];
            let came = heard(&attacker, &victim, &forged);
            match settings {
                FREE => assert_eq!(came, names(&forged), "these are no attacks"),
                _ => assert_eq!(came, [""; 0]),
            }
            let honest = [
                marked("its own packet", move |m| {
                    ether(to, own, IPV6, &ipv6(ip, ip_to, UDP, &udp(9, 9, m)))
                }),
                marked("its own advertisement", move |m| says(ip, 136, &has(ip, m))),
                marked("its link-local advertisement", move |m| {
                    says(link_local, 136, &has(link_local, m))
                }),
                marked("whether somebody has an address", move |m| {
                    says(Ipv6Addr::UNSPECIFIED, 135, &has(ip, m))
                }),
            ];
            assert_eq!(heard(&attacker, &victim, &honest), names(&honest));
            victim.serve(80);
            let asked = attacker.netns.inside(|| ask((ip_to, 80))).unwrap();
            assert_eq!(asked, ip.to_string());
        });
    }
}

/// The MAC that the calling thread's namespace has for an address (`/proc/net/arp`, proc(5)).
fn neighbour(address: Ipv4Addr) -> io::Result<Option<String>> {
    let table = fs::read_to_string("/proc/thread-self/net/arp")?;
    let mut lines = table.lines().map(|line| line.split_whitespace());
    Ok(lines.find_map(|mut words| {
        (words.next() == Some(&address.to_string())).then(|| words.nth(2).map(str::to_owned))?
    }))
}

#[test]
fn nobody_takes_the_gateways_place() {
    for settings in ["", FREE] {
        on_a_host_with(settings, |world| {
            let [attacker, victim] = ["attacker", "victim"].map(|name| world.run(name, &[]));
            let lan = Container {
                endpoint: Default::default(),
                netns: netd::netlink::Netns::open(world.neighbour.proc_path().as_ref()).unwrap(),
            };
            lan.serve(80);
            let out = || victim.netns.inside(|| ask((NEIGHBOUR, 80)));
            out().unwrap();
            let router = gateway(&victim);
            let known = || victim.netns.inside(|| neighbour(router)).unwrap().unwrap();
            let before = known();
            assert_eq!(before, Mac::of(router.into()).to_string());
            let own = mac(&attacker);
            let claim = marked("", move |m| {
                ether(EVERYBODY, own, ARP, &arp(own, router, m))
            });
            if settings == FREE {
                // The kernel keeps one that it has just confirmed for a second (`locktime`).
                eventually("the victim believes it", || {
                    heard(&attacker, &victim, std::slice::from_ref(&claim));
                    known() == own.to_string()
                });
                return;
            }
            let until = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < until {
                heard(&attacker, &victim, std::slice::from_ref(&claim));
                assert_eq!(known(), before);
            }
            out().unwrap();
        });
    }
}

#[test]
fn nobody_hears_what_another_is_sent() {
    for settings in ["", FREE] {
        on_a_host_with(settings, |world| {
            let [attacker, victim] = ["attacker", "victim"].map(|name| world.run(name, &[]));
            let (own, to) = (mac(&attacker), mac(&victim));
            let ear = Wire::of(&attacker.netns);
            let host = UdpSocket::bind((gateway(&victim), 0)).unwrap();
            // The host has to know where the victim is before its frames are led astray.
            victim.serve_udp(53);
            ask_udp((victim.address(), 53), b"who").unwrap();
            // Another's MAC as the source: the bridge learns where it "is" (IEEE 802.1Q, 8.7).
            let packet = ipv4(attacker.address(), victim.address(), UDP, &udp(9, 9, b""));
            let steal = ether(own, to, IP, &packet);
            ear.heard();
            ear.send(&steal);
            host.send_to(b"<for the victim>", (victim.address(), 9))
                .unwrap();
            let for_victim =
                |frame: &Vec<u8>| frame.windows(16).any(|part| part == b"<for the victim>");
            let stolen = ear.heard().iter().any(for_victim);
            assert_eq!(stolen, settings == FREE);
            if settings != FREE {
                ask_udp((victim.address(), 53), b"who").unwrap();
            }
        });
    }
}

fn table() -> String {
    let listed = Command::new("nft")
        .args(["list", "table", "bridge", "slipway"])
        .output();
    String::from_utf8(listed.unwrap().stdout).unwrap()
}

#[test]
fn who_may_send_as_whom_is_known_as_long_as_they_are_there() {
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: nft is not installed");
        return;
    }
    on_a_host_with("own_table = false\nprepared_namespaces = 0\n", |world| {
        let web = world.run("web", &[]);
        let before = table();
        let host_link = format!("sw{}", &web.endpoint.id[..10]);
        for line in [
            format!("elements = {{ \"{host_link}\" }}"),
            format!("elements = {{ \"{host_link}\" . 02:42:ac:11:00:02 . 172.17.0.2 }}"),
            "type filter hook prerouting priority dstnat; policy accept;".to_owned(),
            "iifname != @ports accept".to_owned(),
            "iifname . ether saddr . ip saddr @own4 jump from4".to_owned(),
            "iifname . ether saddr . ip6 saddr @own6 jump from6".to_owned(),
        ] {
            assert!(before.contains(&line), "{line}\nis not in\n{before}");
        }
        let other = world.run("other", &[]);
        assert_ne!(table(), before);
        world.release("other");
        drop(other);
        eventually("it is forgotten", || table() == before);
        let nft = |arguments: &[&str]| Command::new("nft").args(arguments).status().unwrap();
        assert!(nft(&["delete", "table", "bridge", "slipway"]).success());
        eventually("the table is back", || table() == before);
        world.restart();
        assert_eq!(table(), before);
        world
            .call(async |mut netd| netd.teardown(TeardownRequest {}).await)
            .unwrap();
        assert_eq!(table(), "");
    });
}

fn tracked() -> u32 {
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn one_container_cannot_have_all_connections() {
    const MOST: u32 = 500;
    for limit in [MOST, 0] {
        on_a_host_with(&format!("connections_per_container = {limit}\n"), |world| {
            let [attacker, victim] = ["attacker", "victim"].map(|name| world.run(name, &[]));
            let lan = Container {
                endpoint: Default::default(),
                netns: netd::netlink::Netns::open(world.neighbour.proc_path().as_ref()).unwrap(),
            };
            lan.serve(80);
            let wire = Wire::of(&attacker.netns);
            let (own, router) = (mac(&attacker), Mac::of(gateway(&attacker).into()));
            // Nobody is there who could answer.
            let nowhere = Ipv4Addr::new(192, 0, 2, 99);
            for port in 1..=5000 {
                let segment = syn((attacker.address(), port), (nowhere, port));
                wire.send(&ether(router, own, IP, &segment));
            }
            let connect = |from: &Container| from.netns.inside(|| ask((NEIGHBOUR, 80)));
            let refused = || attacker.netns.inside(|| ask_briefly((NEIGHBOUR, 80)));
            connect(&victim).unwrap();
            if limit == 0 {
                assert!(tracked() > 4000, "{} connections are no flood", tracked());
                connect(&attacker).unwrap();
                return;
            }
            let tracked = tracked();
            assert!(
                (MOST..MOST + 50).contains(&tracked),
                "{tracked} connections"
            );
            assert!(refused().is_err(), "it has as many as it may have");
        });
    }
}

#[test]
fn connections_that_ended_make_room_for_others() {
    on_a_host_with("connections_per_container = 8\n", |world| {
        let one = world.run("one", &[]);
        let lan = std::net::TcpListener::bind((HOST, 80)).unwrap();
        let open = |millis| {
            let patience = Duration::from_millis(millis);
            let connect = || TcpStream::connect_timeout(&(HOST, 80).into(), patience);
            one.netns.inside(connect)
        };
        for _ in 0..3 {
            eventually("there is room for all", || {
                let many: Vec<_> = (0..8).map_while(|_| open(1000).ok()).collect();
                let is_full = many.len() == 8 && open(300).is_err();
                // Closed on both sides.
                for _ in many {
                    lan.accept().unwrap();
                }
                is_full
            });
        }
    });
}

#[test]
fn a_flood_of_questions_is_its_senders_own_loss() {
    const MOST: u32 = 200;
    for limit in [MOST, 0] {
        on_a_host_with(&format!("dns_queries_per_second = {limit}\n"), |world| {
            let [attacker, victim] = ["attacker", "victim"].map(|name| world.run(name, &[]));
            let router = gateway(&victim);
            let mut query = Message::query();
            query.add_query(Query::query(
                Name::from_ascii("victim.").unwrap(),
                RecordType::A,
            ));
            let query = query.to_vec().unwrap();
            let begun = Instant::now();
            let answered = thread::scope(|scope| {
                let (inside, asked) = (&attacker.netns, query.clone());
                let flood = move || {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                    socket.connect((router, 53))?;
                    let patience = if limit == 0 { PATIENCE } else { MOMENT };
                    socket.set_read_timeout(Some(patience))?;
                    let (mut answered, mut buffer) = (0, [0; 512]);
                    for _ in 0..100 {
                        for _ in 0..20 {
                            socket.send(&asked)?;
                        }
                        for _ in 0..20 {
                            match socket.recv(&mut buffer) {
                                Ok(_) => answered += 1,
                                // The first that was not answered is none of the last either.
                                Err(_) => return Ok(answered),
                            }
                        }
                    }
                    io::Result::Ok(answered)
                };
                let flooding = scope.spawn(move || inside.inside(flood).unwrap());
                victim
                    .netns
                    .inside(|| ask_udp((router, 53), &query))
                    .unwrap();
                flooding.join().unwrap()
            });
            if limit == 0 {
                assert_eq!(answered, 2000);
                return;
            }
            let seconds = u32::try_from(begun.elapsed().as_secs() + 1).unwrap();
            assert!(
                (MOST..=MOST + MOST * seconds).contains(&answered),
                "{answered} answers"
            );
            victim
                .netns
                .inside(|| ask_udp((router, 53), &query))
                .unwrap();
        });
    }
}
