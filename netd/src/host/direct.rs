//! Links of containers that are on the wire of one of the host's links: made in their namespaces, and taken out of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::endpoint::{self, Endpoint};
use crate::error::{Doing as _, Error};
use crate::id::{EndpointId, HOST_LINK_PREFIX, TUNNEL_PREFIX};
use crate::ipam::{pools, ula};
use crate::netlink::macvlan::{self, Macvlan, Share, Sharing};
use crate::netlink::{Link, Mac, Netns, Route, link, neigh};
use crate::network::{Direct, Driver, Network, Request};
use crate::sysctl;

use super::networks::{chosen, must_have_ipv6};
use super::prepare::{Prepared, Wanted, inside_up, ipv6_of, next_name};
use super::{Host, State};

impl Host {
    /// Makes such a network of what was asked for, if this kernel and the link can do that.
    pub(super) fn plan_direct(
        &self,
        state: &State,
        mut request: Request,
        direct: impl FnOnce(&mut BTreeMap<String, String>) -> Result<Direct, Error>,
    ) -> Result<Network, Error> {
        let asked = request.options.clone();
        let direct = direct(&mut request.options)?;
        let kind = direct.share.kind();
        if request.internal {
            return Err(Error::Invalid(format!(
                "containers of a {kind} network are on the wire of {}, and reach whoever is there: leave --internal out",
                direct.parent
            )));
        }
        let parent = self.parent(state, &direct)?;
        self.try_out(&direct, &parent)?;
        // The host has addresses and routes there, too; a subnet that is chosen for it has to be free all the same.
        let ours = state.networks.values();
        let ours: Vec<_> = ours.flat_map(|live| live.network.subnets()).collect();
        let v4 = chosen(&request.v4, &ours, || {
            Ok(pools::first_free(&self.subnets_in_use(state)?))
        })?;
        let v6 = match &request.v6 {
            Some(pool) => Some(chosen(pool, &ours, || {
                let in_use = self.subnets_in_use(state)?;
                Ok(ula::first_free(self.store.ula_prefix()?, &in_use))
            })?),
            None => None,
        };
        must_have_ipv6(v6)?;
        let mut network = request.plan(v4, v6, parent.mtu)?;
        if network.mtu > parent.mtu {
            return Err(Error::Invalid(format!(
                "MTU {}: link {} carries {} bytes",
                network.mtu, direct.parent, parent.mtu
            )));
        }
        network.options = asked;
        network.driver = Driver::Direct(direct);
        Ok(network)
    }

    fn parent(&self, state: &State, direct: &Direct) -> Result<Link, Error> {
        let name = &direct.parent;
        let mut bridges = state.networks.values().map(|l| &l.network.device);
        let prefixes = [HOST_LINK_PREFIX, TUNNEL_PREFIX];
        if bridges.any(|bridge| bridge == name) || prefixes.iter().any(|p| name.starts_with(p)) {
            return Err(Error::Invalid(format!(
                "link {name} is netd's own: the parent of a {} network is one that leads out of this host",
                direct.share.kind()
            )));
        }
        let found = self.kernel().route.link(name);
        found.doing(|| format!("look for link {name}"))?.ok_or_else(|| {
            Error::Invalid(format!(
                "this host has no link {name}: --opt parent= names one that is there (that of a VLAN is made by \
                 `ip link add link eth0 name eth0.10 type vlan id 10`)"
            ))
        })
    }

    /// Asks the kernel for one such link, in a namespace that nobody uses.
    fn try_out(&self, direct: &Direct, parent: &Link) -> Result<(), Error> {
        let netns = Netns::create().doing(|| "make a network namespace".to_owned())?;
        let name = "sw-try";
        let sharing = Sharing {
            name,
            parent: parent.index,
            share: direct.share,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: parent.mtu,
            netns: netns.as_fd(),
        };
        let made = self.kernel().route.apply(&[sharing.create()]);
        made.map_err(|error| refusal(direct, error))?;
        // Not with the namespace: the kernel takes that back when it finds the time, and there may be but one.
        take_out(&netns, |link| link.name == name)
            .doing(|| "take a link out of a namespace".to_owned())
    }

    /// Makes the link of an endpoint in its namespace. Returns its name and its MAC.
    pub(super) fn direct_up(
        &self,
        id: &EndpointId,
        wanted: &Wanted<'_>,
        netns: &Netns,
        direct: &Direct,
    ) -> Result<(String, Mac), Error> {
        let what = || format!("make a link on the wire of {}", direct.parent);
        let own = self.own_addresses();
        if let Some(address) = wanted.address.all().find(|address| own.contains(address)) {
            return Err(Error::AddressInUse(address));
        }
        let parent = self.link_index(&direct.parent)?;
        let Some(parent) = parent else {
            return Err(Error::Invalid(format!(
                "network {} is on the wire of {}, which this host does not have now",
                wanted.network.name, direct.parent
            )));
        };
        let first = id.host_link();
        let sharing = Sharing {
            name: &first,
            parent,
            share: direct.share,
            mac: asking(id),
            mtu: wanted.network.mtu,
            netns: netns.as_fd(),
        };
        let made = self.kernel().route.apply(&[sharing.create()]);
        made.map_err(|error| refusal(direct, error))?;
        slipway_fault::point("netd.direct.linked");
        let up = || {
            let mut inside = Route::open()?;
            let link = inside.link(&first)?.ok_or(io::ErrorKind::NotFound)?;
            let name = match wanted.interface {
                "" if wanted.netns.is_none() => "eth0".to_owned(),
                "" => next_name(&mut inside)?,
                name => name.to_owned(),
            };
            inside.apply(&[macvlan::name(link.index, &name, id.as_str())])?;
            slipway_fault::point("netd.direct.named");
            // Before it is up: nobody's router advertisement gives it addresses.
            sysctl::write_apart(&ipv6_of(&name, wanted.address.v6.is_some()))?;
            let address = wanted.address.v4;
            if is_taken(&mut inside, link.index, address)? {
                return Ok(Err(Error::AddressInUse(address)));
            }
            let mac = match direct.share.has_own_mac() {
                true => {
                    let change = link::set_mac(link.index, wanted.mac);
                    inside.apply(&[link::set_down(link.index), change])?;
                    wanted.mac
                }
                false => link.mac.unwrap_or(wanted.mac),
            };
            inside_up(&name, wanted)?;
            Ok(Ok((name, mac)))
        };
        let done = netns.inside(up).doing(what).flatten();
        if done.is_err()
            && let Err(error) = take_out(netns, |link| is_of(link, id))
        {
            tracing::warn!(%error, "a link stays in a container's namespace");
        }
        done
    }

    /// Makes it anew; of another one nothing stays.
    pub(super) fn direct_again(
        &self,
        id: &EndpointId,
        wanted: &Wanted<'_>,
        netns: &Netns,
        direct: &Direct,
    ) -> Result<(), Error> {
        take_out(netns, |link| is_of(link, id))
            .doing(|| "take a link out of a container".to_owned())?;
        self.direct_up(id, wanted, netns, direct).map(drop)
    }

    /// Takes the link of an endpoint out of its container, if it is one without an end here.
    pub(super) fn direct_down(&self, state: &State, endpoint: &Endpoint) {
        let network = state.networks.get(&endpoint.network);
        let is_direct = network.is_some_and(|live| !live.network.is_bridged());
        if let Some(netns) = state.namespaces.get(&endpoint.id).filter(|_| is_direct)
            && let Err(error) = take_out(netns, |link| is_of(link, &endpoint.id))
        {
            tracing::warn!(container = endpoint.container_name, %error,
                "a link stays in the container's namespace");
        }
    }

    /// The same for one that nobody got.
    pub(super) fn undo_direct(&self, prepared: &Prepared) {
        if prepared.bridge == 0
            && let Err(error) = take_out(&prepared.netns, |link| is_of(link, &prepared.id))
        {
            tracing::warn!(%error, "a link stays in a namespace");
        }
    }

    /// Takes links out of containers that are nobody's: they were made, and then netd ended. Of containers whose
    /// namespaces are known; those of others are told by the first sync.
    pub(super) fn sweep_known(&self, state: &State) {
        let containers = state.endpoints.values().map(|e| e.container.as_str());
        for container in containers.collect::<BTreeSet<_>>() {
            if let Some(netns) = state.namespace_of(container) {
                sweep(state, container, netns);
            }
        }
    }

    /// The same for one whose namespace is there.
    pub(super) fn sweep_told(&self, state: &State, container: &str, path: &Path) {
        // One that has just ended has taken them along.
        if let Ok(netns) = Netns::open(path)
            && matches!(netns.same_as(&self.own_netns), Ok(false))
        {
            sweep(state, container, &netns);
        }
    }
}

fn sweep(state: &State, container: &str, netns: &Netns) {
    if state.networks.values().all(|l| l.network.is_bridged()) {
        return;
    }
    let of_nobody =
        |link: &Link| is_ours(link) && !state.endpoints.keys().any(|id| is_of(link, id));
    if let Err(error) = take_out(netns, of_nobody) {
        tracing::warn!(container, %error, "links of networks that it is not on may be left in it");
    }
}

/// The MAC that an endpoint asks with whether somebody has its address: a container of another host that has the
/// address has the MAC that goes with it, too, and would not hear itself.
fn asking(id: &EndpointId) -> Mac {
    let mut mac = [2; 6];
    if let Some(digits) = id.as_str().get(..10) {
        // Ids are random digits; any other text would do with what is there.
        let _ = hex::decode_to_slice(digits, &mut mac[1..]);
    }
    Mac(mac)
}

/// How long whoever has an address may take to say so.
const ANSWER: Duration = Duration::from_millis(200);

/// Whether somebody on the wire has an address: others than netd give them out there (RFC 5227).
fn is_taken(inside: &mut Route, index: u32, address: IpAddr) -> io::Result<bool> {
    // With lo comes the table of own addresses, without which all are broadcast ones (__inet_dev_addr_type).
    let lo = link::set_up(1);
    inside.apply(&[lo, link::set_up(index), neigh::probe(index, address)])?;
    let begun = Instant::now();
    while !inside.has_answered(index, address)? {
        if begun.elapsed() > ANSWER {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

/// Whether a container can have on such a network what it asks for.
pub(super) fn can_have(asked: &endpoint::Request, network: &Network) -> Result<(), Error> {
    let Driver::Direct(direct) = &network.driver else {
        return Ok(());
    };
    if !asked.ports.is_empty() {
        return Err(no_ports(network));
    }
    match asked.mac {
        Some(_) if !direct.share.has_own_mac() => Err(Error::Invalid(format!(
            "containers of network {} have the MAC address of link {}: leave --mac-address out",
            network.name, direct.parent
        ))),
        _ => Ok(()),
    }
}

/// Why a port cannot be published there.
pub(super) fn no_ports(network: &Network) -> Error {
    Error::Invalid(format!(
        "network {} is a {} network: its containers are reached by their own addresses, and publish no ports; leave -p out, or connect the container to a bridge network as well",
        network.name,
        network.driver.name()
    ))
}

/// Whether netd made it in that namespace: a container's own end of a veth pair says nothing of us.
fn is_ours(link: &Link) -> bool {
    let kinds = [
        Share::Macvlan(Macvlan::Bridge).kind(),
        Share::Ipvlan(macvlan::Ipvlan::Bridge).kind(),
    ];
    kinds.contains(&link.kind.as_str())
        && (link.alias.starts_with(link::OURS) || link.name.starts_with(HOST_LINK_PREFIX))
}

fn is_of(link: &Link, id: &EndpointId) -> bool {
    link.alias == format!("{}{id}", link::OURS) || link.name == id.host_link()
}

fn take_out(netns: &Netns, goes: impl Fn(&Link) -> bool + Sync) -> io::Result<()> {
    netns.inside(|| {
        let mut inside = Route::open()?;
        let links = inside.links()?;
        let going = links.iter().filter(|link| goes(link));
        let going: Vec<_> = going.map(|found| link::delete(found.index)).collect();
        match going.is_empty() {
            true => Ok(()),
            false => inside.apply_idempotent(&going),
        }
    })
}

/// What the kernel's word for it means.
fn refusal(direct: &Direct, error: io::Error) -> Error {
    let (kind, parent) = (direct.share.kind(), &direct.parent);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EOPNOTSUPP) => Error::Unsupported(format!(
            "this host's kernel has no {kind} (CONFIG_{}): use a bridge network",
            kind.to_uppercase()
        )),
        Some(Errno::EINVAL) if direct.share == Share::Macvlan(Macvlan::Passthru) => {
            Error::Invalid(format!(
                "one container has the wire of {parent} for itself (macvlan_mode=passthru), and link {parent} cannot \
                 be another's now"
            ))
        }
        Some(Errno::EINVAL | Errno::EBUSY) => Error::Invalid(format!(
            "link {parent} cannot carry a {kind} network: it is no Ethernet link, or it belongs to a bridge, to a \
             container, or to links of another kind already"
        )),
        _ => Error::System {
            what: format!("make a {kind} link on the wire of {parent}"),
            source: error,
        },
    }
}
