//! Networks on the wire of the host's link to its LAN: containers are hosts there, beside this one and its neighbour.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::{Child, Command};

use ipnet::IpNet;
use netd::netlink::macvlan::{Macvlan, Share, Sharing};
use netd::netlink::{Link, Mac, Netns, Route, link};
use slipway_proto::netd::v1::*;

use crate::limits::stream_as;
use crate::reconcile::put_right;
use crate::world::*;

/// Somewhere behind the neighbour, which is the router of that LAN.
const BEYOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn asked(driver: &str, options: &[(&str, &str)]) -> CreateNetworkRequest {
    let pool = create_network_request::Pool {
        subnet: "192.0.2.0/24".to_owned(),
        gateway: NEIGHBOUR.to_string(),
        ip_range: "192.0.2.64/26".to_owned(),
        ..create_network_request::Pool::default()
    };
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    CreateNetworkRequest {
        name: "lan".to_owned(),
        driver: driver.to_owned(),
        pools: vec![pool],
        options: options.iter().map(text).collect(),
        ..CreateNetworkRequest::default()
    }
}

fn macvlan(mode: &str) -> CreateNetworkRequest {
    asked("macvlan", &[("parent", "lan0"), ("macvlan_mode", mode)])
}

fn on_lan(name: &str) -> CreateEndpointRequest {
    CreateEndpointRequest {
        network: "lan".to_owned(),
        ..request(name, &[])
    }
}

/// The link inside.
fn inside(netns: &Netns, name: &str) -> Option<Link> {
    netns.inside(|| Route::open()?.link(name)).unwrap()
}

fn reaches(netns: &Netns, server: Ipv4Addr) -> bool {
    netns.inside(|| ask((server, 80))).is_ok()
}

fn reaches_not(netns: &Netns, server: Ipv4Addr) -> bool {
    netns.inside(|| ask_briefly((server, 80))).is_err()
}

/// A process of a container: by it its namespace is found again.
struct Process(Child);

impl Process {
    fn of(container: &Container) -> Self {
        Self(container.netns.inside(sleep).unwrap())
    }
}

fn sleep() -> std::io::Result<Child> {
    Command::new("sleep").arg("1000").spawn()
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn containers_are_hosts_of_the_lan() {
    on_a_host(|world| {
        let made = world.network(macvlan("bridge")).unwrap();
        let shown = (made.driver.as_str(), made.scope.as_str());
        assert_eq!(shown, ("macvlan", "local"));
        assert_eq!(made.options["parent"], "lan0");
        let [web, other] = ["web", "other"].map(|name| world.attach(on_lan(name)).unwrap());
        web.serve(80);
        other.serve(80);
        let range: IpNet = "192.0.2.64/26".parse().unwrap();
        assert!(range.contains(&std::net::IpAddr::from(web.address())));
        let eth0 = inside(&web.netns, "eth0").unwrap();
        assert_eq!(eth0.mac.unwrap().to_string(), web.endpoint.mac_address);
        assert!(
            world.neighbour.inside(|| ask((web.address(), 80))).unwrap() == NEIGHBOUR.to_string()
        );
        let seen = other.netns.inside(|| ask((web.address(), 80)));
        assert_eq!(seen.unwrap(), other.address().to_string());
        // Its router is the LAN's, and sees it as who it is.
        let beyond = || {
            Route::open()?.apply(&[link::add_address(
                1,
                BEYOND.into(),
                IpNet::from(std::net::IpAddr::from(BEYOND)),
            )])?;
            std::net::TcpListener::bind((BEYOND, 80))
        };
        let beyond = world.neighbour.inside(beyond).unwrap();
        let to = SocketAddr::from((BEYOND, 80));
        let _stream = web
            .netns
            .inside(|| stream_as(web.address(), to, PATIENCE))
            .unwrap();
        assert_eq!(beyond.accept().unwrap().1.ip(), web.address());
        // The host is on the other side of its own link (Documentation of macvlan: the parent is no member).
        assert!(ask_briefly((web.address(), 80)).is_err());

        let ports = CreateEndpointRequest {
            ports: vec![binding("8080:80")],
            ..on_lan("shown")
        };
        let said = world.attach(ports).err().unwrap();
        assert!(said.message().contains("publish no ports"), "{said}");
        let add = AddPortsRequest {
            endpoint_id: web.endpoint.id.clone(),
            ports: vec![binding("8080:80")],
        };
        let said = world
            .call(async |mut netd| netd.add_ports(add).await)
            .unwrap_err();
        assert!(said.message().contains("publish no ports"), "{said}");
        let reaches = world
            .call(async |mut netd| netd.audit(AuditRequest {}).await)
            .unwrap()
            .reaches;
        let told = |who: &str| reaches.iter().any(|row| row.who == who && row.to == "web");
        assert!(told("others over IPv4") && told("network lan") && !told("this host"));
    });
}

#[test]
fn modes_are_the_kernel_s() {
    on_a_host(|world| {
        world.network(macvlan("private")).unwrap();
        let [web, other] = ["web", "other"].map(|name| world.attach(on_lan(name)).unwrap());
        web.serve(80);
        assert!(reaches(&world.neighbour, web.address()));
        assert!(reaches_not(&other.netns, web.address()));
        world.release("web");
        world.release("other");
        let remove = RemoveNetworkRequest {
            network: "lan".to_owned(),
            force: false,
        };
        let removed = world.call(async |mut netd| netd.remove_network(remove).await);
        removed.unwrap();

        world.network(macvlan("passthru")).unwrap();
        let web = world.attach(on_lan("web")).unwrap();
        let own = Route::open().unwrap().link("lan0").unwrap().unwrap();
        assert_eq!(web.endpoint.mac_address, own.mac.unwrap().to_string());
        web.serve(80);
        assert!(reaches(&world.neighbour, web.address()));
        let said = world.attach(on_lan("other")).err().unwrap();
        assert!(
            said.message().contains("one container has the wire"),
            "{said}"
        );
        let mac = CreateEndpointRequest {
            mac_address: "02:00:00:00:00:07".to_owned(),
            ..on_lan("other")
        };
        let said = world.attach(mac).err().unwrap();
        assert!(said.message().contains("leave --mac-address out"), "{said}");
        // Its MAC is that of the host's link, whatever the host makes of that.
        let changed = Mac([2, 0, 0, 0, 0, 8]);
        let change = link::set_mac(own.index, changed);
        Route::open().unwrap().apply(&[change]).unwrap();
        assert_eq!(put_right(world), [""; 0]);
        let own = Route::open().unwrap().link("lan0").unwrap().unwrap();
        assert_eq!(own.mac, Some(changed));
        // At once: what it had is nobody's.
        world.release("web");
        world.attach(on_lan("other")).unwrap();
    });
}

#[test]
fn what_cannot_be_on_a_wire_is_refused() {
    on_a_host(|world| {
        let said = |request| world.network(request).unwrap_err().message().to_owned();
        assert!(said(asked("macvlan", &[])).contains("--opt parent=eth0"));
        let on = |parent: &str| asked("macvlan", &[("parent", parent)]);
        assert!(said(on("eth9")).contains("no link eth9"));
        assert!(said(on("lo")).contains("link lo cannot carry a macvlan network"));
        assert!(said(on("slipway0")).contains("netd's own"));
        let internal = CreateNetworkRequest {
            internal: true,
            ..macvlan("bridge")
        };
        assert!(said(internal).contains("leave --internal out"));
        let large = asked(
            "macvlan",
            &[
                ("parent", "lan0"),
                ("com.docker.network.driver.mtu", "1501"),
            ],
        );
        assert!(said(large).contains("carries 1500 bytes"));
        // Where the kernel has it, this is no other network than one of macvlan.
        let ipvlan = asked("ipvlan", &[("parent", "lan0")]);
        match world.network(ipvlan.clone()) {
            Ok(made) => assert_eq!(made.driver, "ipvlan"),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unimplemented);
                assert!(
                    status
                        .message()
                        .contains("kernel has no ipvlan (CONFIG_IPVLAN)")
                );
                world.network(macvlan("bridge")).unwrap();
            }
        }
        let mut second = on("lan0");
        second.name = "second".to_owned();
        assert!(said(second).contains("overlaps"));
    });
}

#[test]
fn an_address_that_somebody_has_is_nobody_else_s() {
    on_a_host(|world| {
        // A host of the LAN's, and a container of another host's: that has the MAC that goes with its address.
        let first = Ipv4Addr::new(192, 0, 2, 64);
        let theirs = Ipv4Addr::new(192, 0, 2, 70);
        let container = Netns::create().unwrap();
        let has = |name: &str, address: Ipv4Addr| {
            let mut route = Route::open()?;
            let index = route.link(name)?.unwrap().index;
            let net = IpNet::new_assert(address.into(), 24);
            let address = link::add_address(index, address.into(), net);
            route.apply(&[link::set_up(index), address])?;
            std::io::Result::Ok(index)
        };
        let parent = world.neighbour.inside(|| has("lan0", first)).unwrap();
        let sharing = Sharing {
            name: "eth0",
            parent,
            share: Share::Macvlan(Macvlan::Bridge),
            mac: Mac::of(theirs.into()),
            mtu: 1500,
            netns: container.as_fd(),
        };
        let make = || Route::open()?.apply(&[sharing.create()]);
        world.neighbour.inside(make).unwrap();
        container.inside(|| has("eth0", theirs)).unwrap();
        world.network(macvlan("bridge")).unwrap();
        for address in [theirs, HOST] {
            let at = CreateEndpointRequest {
                ipv4_address: address.to_string(),
                ..on_lan("web")
            };
            let said = world.attach(at).err().unwrap();
            assert!(said.message().contains("already in use"), "{said}");
        }
        let web = world.attach(on_lan("web")).unwrap();
        assert_eq!(web.address(), Ipv4Addr::new(192, 0, 2, 65), "the next one");
    });
}

#[test]
fn they_outlive_netd_and_leave_nothing_in_containers_that_go_on() {
    on_a_host(|world| {
        world.network(macvlan("bridge")).unwrap();
        let web = world.run("web", &["8080:80"]);
        let process = Process::of(&web);
        let path = format!("/proc/{}/ns/net", process.0.id());
        let connect = CreateEndpointRequest {
            netns: path.clone(),
            ..on_lan("web")
        };
        let lan = world.attach(connect).unwrap();
        assert_eq!(lan.endpoint.interface_name, "eth1");
        web.serve(80);
        assert!(reaches(&world.neighbour, lan.address()));
        assert!(ask((Ipv4Addr::LOCALHOST, 8080)).is_ok(), "by its bridge");
        // As if it had ended between making a link and saying whose it is.
        world.kill();
        assert!(reaches(&world.neighbour, lan.address()));
        let bare = Netns::create().unwrap();
        let alone = Process(bare.inside(sleep).unwrap());
        let stray = |netns: &Netns, name: &str, last: u8| {
            let parent = Route::open().unwrap().link("lan0").unwrap().unwrap().index;
            let sharing = Sharing {
                name,
                parent,
                share: Share::Macvlan(Macvlan::Bridge),
                mac: Mac([2, 0, 0, 0, 0, last]),
                mtu: 1500,
                netns: netns.as_fd(),
            };
            Route::open().unwrap().apply(&[sharing.create()]).unwrap();
        };
        stray(&web.netns, "sw0123456789", 1);
        stray(&bare, "sw0123456789", 3);
        // Not ours, whatever it is like.
        stray(&web.netns, "own0", 2);
        world.restart_dead();
        assert!(inside(&web.netns, "sw0123456789").is_none());
        let live = |name: &str, netns: String| sync_request::Live {
            container_id: container_id(name),
            netns,
        };
        let bare_path = format!("/proc/{}/ns/net", alone.0.id());
        let sync = SyncRequest {
            live: vec![live("web", path), live("bare", bare_path)],
        };
        let synced = world.call(async |mut netd| netd.sync(sync).await).unwrap();
        assert!(synced.lost.is_empty());
        assert!(inside(&bare, "sw0123456789").is_none());
        assert!(inside(&web.netns, "own0").is_some());
        assert!(reaches(&world.neighbour, lan.address()));
        let again = CreateEndpointRequest {
            ipv4_address: lan.endpoint.ipv4_address.clone(),
            ..on_lan("thief")
        };
        assert!(world.attach(again).is_err(), "it is known whose it is");
        // Somebody inside takes it away.
        let delete = || {
            let mut route = Route::open()?;
            let index = route.link("eth1")?.unwrap().index;
            route.apply(&[link::delete(index)])
        };
        web.netns.inside(delete).unwrap();
        let reconciled = world.call(async |mut netd| netd.reconcile(ReconcileRequest {}).await);
        let [finding] = &reconciled.unwrap().findings[..] else {
            panic!("one thing was wrong")
        };
        assert_eq!(finding.what, "interface eth1 of container web is gone");
        assert_eq!(finding.trouble, "");
        assert!(reaches(&world.neighbour, lan.address()));

        let leave = ReleaseEndpointRequest {
            endpoint_id: lan.endpoint.id.clone(),
            container_id: container_id("web"),
            netns: String::new(),
        };
        world
            .call(async |mut netd| netd.release_endpoint(leave).await)
            .unwrap();
        assert!(inside(&web.netns, "eth1").is_none());
        assert!(inside(&web.netns, "eth0").is_some());
    });
}
