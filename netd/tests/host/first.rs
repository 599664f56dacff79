//! The first packets of a container, sent as soon as it is there, on a host whose links come and go.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netd::netlink::{Mac, Netns, Route, link};
use slipway_proto::netd::v1::{CreateEndpointRequest, CreateNetworkRequest};

use crate::world::*;

/// Ends what is done beside, also when a test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Keeps the kernel busy with links until it is over.
fn churn(name: &str, over: &AtomicBool) {
    let far = Netns::create().unwrap();
    let mut route = Route::open().unwrap();
    while !over.load(Ordering::SeqCst) {
        let pair = link::Veth {
            host: name,
            bridge: None,
            peer: "far",
            peer_mac: Mac([2; 6]),
            netns: far.as_fd(),
            mtu: 1500,
        };
        route.apply(&[pair.create()]).unwrap();
        let index = route.link(name).unwrap().unwrap().index;
        route.apply(&[link::delete(index)]).unwrap();
    }
}

#[test]
fn a_container_hears_the_answer_to_its_first_question_over_ipv6() {
    on_a_host(|world| {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _end = End(&over);
            for name in ["churn0", "churn1", "churn2"] {
                let over = &over;
                scope.spawn(move || churn(name, over));
            }
            for number in 0..15 {
                let made = CreateNetworkRequest {
                    name: format!("net{number}"),
                    ipv6: true,
                    ..CreateNetworkRequest::default()
                };
                let made = world.network(made).unwrap();
                for name in ["first", "second"] {
                    let asked = CreateEndpointRequest {
                        network: made.id.clone(),
                        ..request(&format!("{name}{number}"), &[])
                    };
                    let container = world.attach(asked).unwrap();
                    // What is not its own yet it does not take, and what its bridge does not send yet is lost.
                    let own = IpAddr::from(container.address6());
                    let is_own = || Route::open()?.is_local(own);
                    assert!(container.netns.inside(is_own).unwrap(), "{name}{number}");
                    let gateway: Ipv6Addr = container.endpoint.ipv6_gateway.parse().unwrap();
                    let route = &mut Route::open().unwrap();
                    assert!(route.is_local(gateway.into()).unwrap(), "{name}{number}");
                    let bridge = format!("slip-{}", &made.id[..10]);
                    assert!(route.link(&bridge).unwrap().unwrap().running);
                }
            }
        });
    });
}
