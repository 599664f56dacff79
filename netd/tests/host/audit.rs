//! What an audit says is what is found: every pair that there is, tried.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use netd::netlink::Netns;
use slipway_proto::netd::v1::*;

use crate::ipv6::{network, on};
use crate::limits::{OTHER, OTHER6, from, front, stream_as};
use crate::world::*;

fn audit(world: &World) -> AuditResponse {
    world
        .call(async |mut netd| netd.audit(AuditRequest {}).await)
        .unwrap()
}

/// Somebody who tries.
enum Client<'a> {
    Host,
    Lan(IpAddr),
    Container(&'a Container),
}

impl Client<'_> {
    /// Whether what the audit says of somebody is said of this one.
    fn is(&self, who: &str) -> bool {
        match self {
            Self::Host => who == "this host",
            Self::Container(one) => who == format!("network {}", one.endpoint.network_name),
            Self::Lan(IpAddr::V4(_)) if who == "others over IPv4" => true,
            Self::Lan(IpAddr::V6(_)) if who == "others over IPv6" => true,
            Self::Lan(address) => who
                .parse::<IpNet>()
                .is_ok_and(|range| range.contains(address)),
        }
    }

    fn reaches(&self, world: &World, server: SocketAddr, patience: Duration) -> bool {
        let soon = || TcpStream::connect_timeout(&server, patience);
        match self {
            Self::Host => soon(),
            Self::Lan(own) => world.neighbour.inside(|| stream_as(*own, server, patience)),
            Self::Container(one) => one.netns.inside(soon),
        }
        .and_then(|stream| {
            // A relay takes whoever comes, and then nobody.
            stream.set_read_timeout(Some(patience))?;
            io::Read::read_exact(&mut &stream, &mut [0])
        })
        .is_ok()
    }

    fn name(&self) -> String {
        match self {
            Self::Host => "the host".to_owned(),
            Self::Lan(address) => address.to_string(),
            Self::Container(one) => one.endpoint.dns_names[0].clone(),
        }
    }

    fn speaks(&self, server: IpAddr) -> bool {
        match self {
            Self::Lan(own) => own.is_ipv4() == server.is_ipv4(),
            Self::Container(one) => server.is_ipv4() || !one.endpoint.ipv6_address.is_empty(),
            Self::Host => true,
        }
    }
}

/// Which of the host's addresses somebody who says so stands for.
fn stands_for(by: &str, server: SocketAddr) -> bool {
    by.parse::<SocketAddr>().is_ok_and(|by| {
        let all = by.ip().is_unspecified() && by.is_ipv4() == server.is_ipv4();
        by.port() == server.port() && (all || by.ip() == server.ip())
    })
}

#[test]
fn what_is_said_is_found() {
    on_a_host(|world| {
        front(world);
        let back = CreateNetworkRequest {
            internal: true,
            ..network("back", &["10.8.0.0/24", "fd00:8::/64"])
        };
        world.network(back).unwrap();
        let host6 = format!("{HOST6}:3008:80");
        let web = CreateEndpointRequest {
            ports: vec![
                binding("3000:80"),
                from("3001:80", &["192.0.2.2"]),
                from("3002:80", &["172.17.0.0/16", "fd00:7::/64"]),
                binding("127.0.0.1:3003:80"),
                binding(&format!("{HOST}:3004:80")),
                from(&host6, &["2001:db8::2"]),
            ],
            ..on("front", "web", &[])
        };
        let web = world.attach(web).unwrap();
        let shut = world.attach(on("back", "shut", &["3005:80"])).unwrap();
        let four = CreateEndpointRequest {
            ports: vec![binding("3006:80"), from(":::3007:80", &["2001:db8::3"])],
            ..request("four", &[])
        };
        let four = world.attach(four).unwrap();
        let all = [&web, &shut, &four];
        for one in all {
            one.serve(80);
        }
        let said = audit(world).reaches;

        let clients = [
            Client::Host,
            Client::Lan(NEIGHBOUR.into()),
            Client::Lan(OTHER.into()),
            Client::Lan(NEIGHBOUR6.into()),
            Client::Lan(OTHER6.into()),
            Client::Container(&web),
            Client::Container(&shut),
            Client::Container(&four),
        ];
        let hosts: [IpAddr; 4] = [
            HOST.into(),
            HOST6.into(),
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        let mut wrong = Vec::new();
        let mut tried = 0;
        for client in &clients {
            let mut check = |server: SocketAddr, told: bool| {
                if client.speaks(server.ip()) {
                    tried += 1;
                    let patience = if told { PATIENCE } else { MOMENT };
                    if client.reaches(world, server, patience) != told {
                        let name = client.name();
                        wrong.push(format!("{name} to {server}: said {told}"));
                    }
                }
            };
            for one in all {
                let name = &one.endpoint.dns_names[0];
                let own = [&one.endpoint.ipv4_address, &one.endpoint.ipv6_address];
                for address in own.into_iter().filter(|address| !address.is_empty()) {
                    let fits = |row: &&Reach| row.to == *name && row.by == *address;
                    let told = said.iter().filter(fits).any(|row| client.is(&row.who));
                    check(SocketAddr::new(address.parse().unwrap(), 80), told);
                }
                let to = format!("{name}:80/tcp");
                for port in &one.endpoint.ports {
                    for host in hosts {
                        if host.is_loopback() && !matches!(client, Client::Host) {
                            continue;
                        }
                        let server = SocketAddr::new(host, port.host_port.try_into().unwrap());
                        let fits = |row: &&Reach| row.to == to && stands_for(&row.by, server);
                        let told = said.iter().filter(fits).any(|row| client.is(&row.who));
                        // The relay serves the host's own ::1 for ports of IPv4, too.
                        if host == IpAddr::V6(Ipv6Addr::LOCALHOST) && !told {
                            continue;
                        }
                        check(server, told);
                    }
                }
            }
        }
        assert!(tried > 100, "{tried}");
        assert!(wrong.is_empty(), "{wrong:#?}\nof {said:#?}");

        let lan = Container {
            endpoint: Endpoint::default(),
            netns: world.neighbour.inside(Netns::current).unwrap(),
        };
        lan.serve(8000);
        for one in all {
            let who = format!("network {}", one.endpoint.network_name);
            let is_out = |row: &Reach| row.who == who && row.to == "others over IPv4";
            let told = said.iter().any(is_out);
            let patience = if told { PATIENCE } else { MOMENT };
            let found = one.netns.inside(|| ask_within(patience, (NEIGHBOUR, 8000)));
            assert_eq!(found.is_ok(), told, "{who}");
        }
    });
}

/// Whether a client on the LAN gets there.
fn by(world: &World, port: u16, host: IpAddr) -> bool {
    world.neighbour.inside(|| ask((host, port))).is_ok()
}

/// Whether it does not, at least for a moment.
fn is_shut(world: &World, port: u16, host: IpAddr) -> bool {
    let asked = world.neighbour.inside(|| ask_briefly((host, port)));
    asked.is_err()
}

/// Another firewall on the host.
fn firewall(text: &str) -> bool {
    let Ok(output) = Command::new("nft").arg(text).output() else {
        eprintln!("skipped: nft is not installed");
        return false;
    };
    assert!(output.status.success(), "{output:?}");
    true
}

#[test]
fn a_host_that_drops_input_closes_its_ports_when_it_is_asked_to() {
    on_a_host_with("host_policy = \"input\"\n", |world| {
        front(world);
        let web = CreateEndpointRequest {
            ports: vec![binding("3000:80"), from("3001:80", &["192.0.2.2"])],
            ..on("front", "web", &[])
        };
        let web = world.attach(web).unwrap();
        web.serve(80);
        let other = world.run("other", &[]);
        let (v4, v6) = (IpAddr::from(HOST), IpAddr::from(HOST6));
        assert!(by(world, 3000, v4) && by(world, 3000, v6) && by(world, 3001, v4));

        if !firewall(
            "table ip site { chain entry { type filter hook input priority 0; policy drop; }; }",
        ) {
            return;
        }
        eventually("it is closed", || is_shut(world, 3000, v4));
        assert!(by(world, 3000, v6), "over IPv6 nothing is dropped");
        assert!(by(world, 3001, v4), "published for clients by name");
        assert!(
            other.netns.inside(|| ask((HOST, 3000))).is_ok(),
            "containers"
        );
        let told = audit(world);
        let is_open = |row: &Reach| row.by == "0.0.0.0:3000" && row.who.starts_with("others");
        assert!(!told.reaches.iter().any(is_open), "{told:?}");
        world.restart();
        assert!(is_shut(world, 3000, v4) && by(world, 3001, v4));

        assert!(firewall("delete table ip site"));
        eventually("it is open again", || !is_shut(world, 3000, v4));
    });
}

#[test]
fn another_programs_forward_chain_that_drops_is_told() {
    on_a_host(|world| {
        assert_eq!(audit(world).warnings, [] as [&str; 0]);
        let text = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; \
                    chain INPUT { type filter hook input priority 0; policy drop; }; }";
        if !firewall(text) {
            return;
        }
        let said = audit(world).warnings;
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("chain FORWARD of table ip filter drops"));
        assert!(said[0].contains("iptables -I FORWARD -i slipway0 -j ACCEPT"));
        assert!(said[1].contains("host_policy = \"input\""));
        let info = world.call(async |mut netd| netd.info(InfoRequest {}).await);
        assert_eq!(info.unwrap().warnings, said);
    });
}
