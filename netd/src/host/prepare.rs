//! Making the links of one endpoint: a veth pair between a bridge and a network namespace.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::antispoof::Station;
use crate::error::{Doing, Error};
use crate::id::{EndpointId, NetworkId};
use crate::ipam::DualStack;
use crate::netlink::{Mac, Netns, Route, link};
use crate::network::{Driver, Network};
use crate::nft::IpVersion;
use crate::sysctl;

use super::repair::whole;
use super::{Host, gateway};

/// An endpoint's links, addressed and up, not yet given to anybody.
#[derive(Debug)]
pub(super) struct Prepared {
    pub id: EndpointId,
    pub network: NetworkId,
    /// That its link was put into.
    pub bridge: u32,
    pub address: DualStack,
    pub mac: Mac,
    pub interface: String,
    pub netns: Netns,
}

/// Where and as what.
pub(super) struct Wanted<'a> {
    pub network: &'a Network,
    pub bridge: u32,
    pub address: DualStack,
    pub mac: Mac,
    pub netns: Option<&'a Path>,
    pub interface: &'a str,
}

impl Host {
    /// Makes the links. On failure nothing is left; the address stays the caller's.
    pub(super) fn build(&self, wanted: &Wanted<'_>) -> Result<Prepared, Error> {
        let id = EndpointId::random();
        let making = || match wanted.netns {
            None => "make a network namespace".to_owned(),
            Some(path) => format!("use network namespace {}", path.display()),
        };
        let netns = match wanted.netns {
            None => Netns::create().doing(making)?,
            Some(path) => {
                let netns = Netns::open(path).doing(making)?;
                if netns.same_as(&self.own_netns).doing(making)? {
                    return Err(gateway::host_s_own(path));
                }
                netns
            }
        };
        if let Driver::Direct(direct) = &wanted.network.driver {
            let (interface, mac) = self.direct_up(&id, wanted, &netns, direct)?;
            return Ok(Prepared {
                id,
                network: wanted.network.id.clone(),
                bridge: wanted.bridge,
                address: wanted.address,
                mac,
                interface,
                netns,
            });
        }
        let station = Station {
            link: id.host_link(),
            mac: wanted.mac,
            address: wanted.address,
        };
        // Before it can send anything.
        self.admit(station)?;
        slipway_fault::point("netd.attach.admitted");
        let made = self.link_up(&id, &whole(&id), wanted, &netns);
        if made.is_err() {
            self.delete_link(&id.host_link());
        }
        let interface = made
            .doing(making)
            .map_err(|error| or_full(error, wanted.network))?;
        Ok(Prepared {
            id,
            network: wanted.network.id.clone(),
            bridge: wanted.bridge,
            address: wanted.address,
            mac: wanted.mac,
            interface,
            netns,
        })
    }

    /// Pairs the host with the namespace; returns the name of the link there. `alias` is written on the host's end.
    pub(super) fn link_up(
        &self,
        id: &EndpointId,
        alias: &str,
        wanted: &Wanted<'_>,
        netns: &Netns,
    ) -> io::Result<String> {
        use std::os::fd::AsFd as _;
        let name = match wanted.interface {
            "" if wanted.netns.is_none() => "eth0".to_owned(),
            "" => netns.inside(|| next_name(&mut Route::open()?))?,
            name => name.to_owned(),
        };
        let host = id.host_link();
        let pair = link::Veth {
            host: &host,
            bridge: Some(wanted.bridge),
            peer: &name,
            peer_mac: wanted.mac,
            netns: netns.as_fd(),
            mtu: wanted.network.mtu,
        };
        self.kernel()
            .route
            .apply(&[pair.create(), link::mark(pair.host, alias)])?;
        slipway_fault::point("netd.attach.paired");
        // A port of a bridge needs no address. The kernel would give it one as soon as the other end is up,
        // with two routes that it looks for among those of all other ports, here and when the link goes.
        sysctl::ignore_missing(sysctl::write(
            &format!("ipv6/conf/{host}/disable_ipv6"),
            "1",
        ))?;
        netns.inside(|| inside_up(&name, wanted))?;
        self.wait_for_frames(&host)?;
        // What the host sends to the first container of a bridge waits for the bridge's own carrier.
        self.wait_for_frames(&wanted.network.device)?;
        Ok(name)
    }

    /// The host's end learns of its carrier by a work queue (linkwatch), which the kernel's other work on links
    /// holds up: until then its bridge drops what the container sends, and a first DNS query that is lost costs
    /// glibc five seconds. Asking for a link does that work at once (rtnl_getlink since Linux 6.8); before, it is
    /// waited for. A link that does not come up in time is no reason to fail: it will.
    fn wait_for_frames(&self, host: &str) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(1);
        const PAUSE: Duration = Duration::from_millis(1);
        let since = Instant::now();
        loop {
            let link = self.kernel().route.link(host)?;
            if link.ok_or(io::ErrorKind::NotFound)?.running {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                tracing::warn!(link = host, "has no carrier yet");
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Deletes a link of ours; that it is gone already is the usual case.
    pub(super) fn delete_link(&self, name: &str) {
        let mut kernel = self.kernel();
        let gone = match kernel.route.link(name) {
            Ok(Some(found)) => kernel.route.apply_idempotent(&[link::delete(found.index)]),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        drop(kernel);
        match gone {
            Ok(()) => self.dismiss(std::iter::once(name)),
            Err(error) => {
                tracing::warn!(link = name, %error, "cannot delete a link; the next start tries again");
            }
        }
    }
}

/// Runs on a thread inside the namespace.
pub(super) fn inside_up(name: &str, wanted: &Wanted<'_>) -> io::Result<()> {
    sysctl::write_apart(&ipv6_of(name, wanted.address.v6.is_some()))?;
    let mut inside = Route::open()?;
    let index = inside.link(name)?.ok_or(io::ErrorKind::NotFound)?.index;
    let addresses = wanted.address.all().zip(wanted.network.pools());
    let mut requests = vec![link::set_up(1), link::set_up(index)];
    requests
        .extend(addresses.map(|(address, pool)| link::add_address(index, address, pool.subnet)));
    if let Driver::Overlay(overlay) = &wanted.network.driver {
        // Also where the way out is another one, or none.
        let (gateway, whole) = (wanted.network.v4.gateway, overlay.subnet);
        requests.push(link::add_route(whole, gateway, index));
    }
    inside.apply(&requests)?;
    wait_until_local(&mut inside, wanted.address.v6)?;
    // In one that was there before, the way out depends on what else is in it.
    if wanted.network.internal || wanted.netns.is_some() {
        return Ok(());
    }
    let ways_out = wanted.network.pools().map(|pool| {
        let everywhere = IpVersion::of(pool.gateway).everywhere();
        link::add_route(everywhere, pool.gateway, index)
    });
    inside.apply(&ways_out.collect::<Vec<_>>())
}

/// The kernel adds the route by which an address of IPv6 is a namespace's own in a work queue (addrconf_dad_work), which
/// its other work on links holds up: until then answers to it are dropped, and a question for a neighbour that is lost is
/// asked again after a second (RFC 4861, 10).
pub(super) fn wait_until_local(route: &mut Route, address: Option<IpAddr>) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(1);
    let Some(address) = address else {
        return Ok(());
    };
    let since = Instant::now();
    while !route.is_local(address)? {
        if since.elapsed() > PATIENCE {
            tracing::warn!(%address, "the kernel does not take it for its own yet");
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Settings of a container's link, before it is up.
pub(super) fn ipv6_of(name: &str, has_ipv6: bool) -> Vec<(String, &'static str)> {
    let of = |setting: &str| format!("ipv6/conf/{name}/{setting}");
    match has_ipv6 {
        // Addresses and routes are what netd says, whatever a neighbour advertises; and they are nobody else's.
        true => vec![
            (of("accept_ra"), "0"),
            (of("accept_dad"), "0"),
            // The address that it sends its neighbours' questions from is known so.
            (of("addr_gen_mode"), "0"),
            (of("disable_ipv6"), "0"),
        ],
        // IPv6 would give the container a link-local address and a way to its neighbours that no rule of ours looks at.
        false => vec![(of("disable_ipv6"), "1")],
    }
}

/// The kernel's word for a bridge without a free port is EXFULL (find_portno in net/bridge/br_if.c).
fn or_full(error: Error, network: &Network) -> Error {
    match error {
        Error::System { source, .. } if source.raw_os_error() == Some(Errno::EXFULL as i32) => {
            Error::NetworkFull(network.name.clone())
        }
        error => error,
    }
}

pub(super) fn next_name(route: &mut Route) -> io::Result<String> {
    let links = route.links()?;
    let free = |name: &String| !links.iter().any(|link| link.name == *name);
    (0..)
        .map(|number: u32| format!("eth{number}"))
        .find(free)
        .ok_or(io::ErrorKind::Other.into())
}
