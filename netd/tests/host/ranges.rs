//! Ten thousand published ports of one container cost what one costs where packets are looked at, and change in one
//! step.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use netd::netlink::Netns;
use nix::sys::resource::{Resource, getrlimit};
use slipway_proto::netd::v1::*;

use crate::world::*;

const FIRST: u16 = 20000;
/// The range over tcp, a relay of each for `::1`.
const TCP: u16 = 1000;

/// Ports of the host that netd keeps others off: it has a file for each.
fn many() -> u16 {
    match getrlimit(Resource::RLIMIT_NOFILE).unwrap() {
        (_, hard) if hard < 15_000 => {
            eprintln!("1,000 ports instead of 10,000: only {hard} files may be open here");
            1000
        }
        _ => 10_000,
    }
}

fn range(protocol: Protocol, count: u16) -> impl Iterator<Item = PortBinding> {
    (FIRST..FIRST + count).map(move |port| PortBinding {
        protocol: protocol.into(),
        container_port: port.into(),
        host_port: port.into(),
        ..PortBinding::default()
    })
}

fn wanted(name: &str) -> CreateEndpointRequest {
    let ports = range(Protocol::Udp, many()).chain(range(Protocol::Tcp, TCP));
    CreateEndpointRequest {
        ports: ports.collect(),
        ..request(name, &[])
    }
}

/// What the table says of published ports.
pub fn listed(map: &str) -> Option<String> {
    let output = Command::new("nft")
        .args(["list", "map", "inet", "slipway", map])
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn netd_may_open_as_many_files_as_any_process_may() {
    on_a_host(|world| {
        let most = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", world.pid())).unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let (soft, hard) = {
            let mut limits = files.unwrap().split_whitespace().skip(3);
            (limits.next().unwrap(), limits.next().unwrap())
        };
        assert_eq!(soft, hard);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let held = own.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let held = u64::from_str_radix(held.unwrap().trim(), 16).unwrap();
        // CAP_SYS_RESOURCE
        if held & 1 << 24 != 0 {
            assert_eq!(soft, most.trim());
        }
    });
}

#[test]
fn a_range_of_ten_thousand_ports_is_one_element() {
    on_a_host(|world| {
        let web = world.attach(wanted("web")).unwrap();
        let last = FIRST + many() - 1;
        let (middle, tcp) = (FIRST + many() / 2, FIRST + TCP - 1);
        for port in [FIRST, middle - 1, middle, middle + 1, last] {
            web.serve_udp(port);
        }
        web.serve(FIRST).serve(tcp);
        let neighbour = Netns::open(world.neighbour.proc_path().as_ref()).unwrap();
        let far_udp = |port| neighbour.inside(|| ask_udp((HOST, port), b"?"));
        let far = |port| neighbour.inside(|| ask((HOST, port)));
        let seen = NEIGHBOUR.to_string();
        let all_answer = |but: Option<u16>| {
            let ports = [FIRST, middle - 1, middle, middle + 1, last];
            for port in ports.into_iter().filter(|port| Some(*port) != but) {
                assert_eq!(far_udp(port).unwrap(), seen.as_bytes(), "{port}/udp");
            }
            for port in [FIRST, tcp] {
                assert_eq!(far(port).unwrap(), seen, "{port}/tcp");
                ask((Ipv4Addr::LOCALHOST, port)).unwrap();
                ask((Ipv6Addr::LOCALHOST, port)).unwrap();
            }
        };
        all_answer(None);
        let ranges = listed("ranges");
        if let Some(text) = &ranges {
            for element in [
                format!("udp . {FIRST}-{last} : 172.17.0.2"),
                format!("tcp . {FIRST}-{tcp} : 172.17.0.2"),
            ] {
                assert!(text.contains(&element), "{element} is not in {text}");
            }
            assert!(!listed("published").unwrap().contains("elements"));
        }

        // A hole in it, and the rest is as it was.
        let request = RemovePortsRequest {
            endpoint_id: web.endpoint.id.clone(),
            ports: vec![binding(&format!("{middle}:{middle}/udp"))],
        };
        world
            .call(async |mut netd| netd.remove_ports(request).await)
            .unwrap();
        all_answer(Some(middle));
        let refused = neighbour.inside(|| ask_udp((HOST, middle), b"?"));
        assert!(refused.is_err(), "a port that was withdrawn answers");
        world.restart();
        all_answer(Some(middle));

        // They are there for the next one as soon as they are given back.
        world.release("web");
        let next = world.attach(wanted("next")).unwrap();
        next.serve_udp(last);
        assert_eq!(far_udp(last).unwrap(), seen.as_bytes());
        world.release("next");
        if ranges.is_some() {
            let left = listed("ranges").unwrap();
            assert!(!left.contains("elements"), "{left}");
        }
    });
}

#[test]
fn a_range_is_for_the_clients_that_are_named() {
    on_a_host(|world| {
        let limited = range(Protocol::Tcp, 100).map(|port| PortBinding {
            allow_from: vec!["10.0.0.0/8".to_owned()],
            ..port
        });
        let web = world
            .attach(CreateEndpointRequest {
                ports: limited.collect(),
                ..request("web", &["3000:3000"])
            })
            .unwrap();
        let last = FIRST + 99;
        web.serve(FIRST).serve(last);
        let far = |port| world.neighbour.inside(|| ask_briefly((HOST, port)));
        for port in [FIRST, last] {
            assert!(far(port).is_err(), "{port} is open");
            ask((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        // One of them for all: the others stay as they are.
        let request = AddPortsRequest {
            endpoint_id: web.endpoint.id.clone(),
            ports: vec![PortBinding {
                allow_from: vec!["0.0.0.0/0".to_owned()],
                ..binding(&format!("{last}:{last}"))
            }],
        };
        world
            .call(async |mut netd| netd.add_ports(request).await)
            .unwrap();
        let opened = world.neighbour.inside(|| ask((HOST, last)));
        assert_eq!(opened.unwrap(), NEIGHBOUR.to_string());
        assert!(far(FIRST).is_err());
        if let Some(text) = listed("ranges") {
            assert!(text.contains(&format!("tcp . {FIRST}-{last} : 172.17.0.2")));
        }
    });
}
