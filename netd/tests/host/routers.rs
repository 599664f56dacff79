//! Router advertisements: nobody believes a container, and the host goes on believing its own router.

use std::net::{Ipv6Addr, SocketAddrV6};

use netd::netlink::{Netns, Route};
use netd::sysctl;
use socket2::{Domain, Protocol, Socket, Type};

use crate::ipv6::{network, on};
use crate::world::*;

/// Global addresses of IPv6 and gateways of default routes in the calling thread's namespace.
fn learned() -> (Vec<String>, Vec<String>) {
    let all = Route::open().unwrap().addresses().unwrap();
    let addresses = all.iter().map(|(_, net)| net.to_string());
    let addresses = addresses.filter(|net| net.contains(':') && !net.starts_with("fe80"));
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
    let gateways = routes.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_default = words[0] == "0".repeat(32) && words[1] == "00";
        (is_default && words[4] != "0".repeat(32)).then(|| words[4].to_owned())
    });
    (addresses.collect(), gateways.collect())
}

/// Sends what a router says (RFC 4861, 4.2) from the calling thread's namespace: a default route, and a prefix to make
/// addresses of.
fn advertise(device: &str, prefix: Ipv6Addr) -> std::io::Result<()> {
    let index = Route::open()?.link(device)?.unwrap().index;
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(index)?;
    let mut said = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    said.extend([3, 4, 64, 0xc0]);
    said.extend([0xff; 8]);
    said.extend([0; 4]);
    said.extend(prefix.octets());
    let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    socket.send_to(&said, &everybody.into())?;
    Ok(())
}

#[test]
fn nobody_believes_a_container_that_says_it_is_a_router() {
    // Otherwise it is not even heard.
    on_a_host_with("anti_spoofing = false\n", |world| {
        let evil: Ipv6Addr = "2001:db8:666::".parse().unwrap();
        world
            .network(network("front", &["10.7.0.0/24", "fd00:7::/64"]))
            .unwrap();
        let rogue = world.attach(on("front", "rogue", &[])).unwrap();
        let victim = world.attach(on("front", "victim", &[])).unwrap();
        let trusting = world.attach(on("front", "trusting", &[])).unwrap();
        let trust = || sysctl::write("ipv6/conf/eth0/accept_ra", "1");
        trusting.netns.inside(trust).unwrap();
        let read = |netns: &Netns| netns.inside(|| Ok(learned())).unwrap();
        let (host, inside) = (learned(), read(&victim.netns));
        assert_eq!(
            inside.1.len(),
            1,
            "the way out that netd gave it: {inside:?}"
        );

        rogue.netns.inside(|| advertise("eth0", evil)).unwrap();
        eventually("who listens has heard it", || {
            read(&trusting.netns)
                .0
                .iter()
                .any(|net| net.starts_with("2001:db8:666:"))
        });
        // What was sent after it has come through: so has it.
        for listening in [&victim, &trusting] {
            listening.serve(80);
            rogue
                .netns
                .inside(|| ask((listening.address6(), 80)))
                .unwrap();
        }
        assert_eq!(read(&victim.netns), inside);
        assert_eq!(learned(), host);
    });
}

#[test]
fn the_host_goes_on_learning_from_its_own_router() {
    on_a_host(|world| {
        let prefix: Ipv6Addr = "2001:db8:5::".parse().unwrap();
        world.with_ipv6();
        world.network(network("front", &[])).unwrap();
        assert!(learned().1.is_empty());
        eventually("the host has a default route and an address", || {
            // Refused while the neighbour's own address is being checked for duplicates.
            let _ = world.neighbour.inside(|| advertise("lan0", prefix));
            let (addresses, gateways) = learned();
            gateways.len() == 1 && addresses.iter().any(|net| net.starts_with("2001:db8:5:"))
        });
    });
}
