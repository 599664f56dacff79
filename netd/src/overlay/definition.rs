//! From what was asked for to the network as this host has it: the same list makes the same slices everywhere.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::id::NetworkId;
use crate::network::{Driver, Network, PoolRequest, Request, is_name};

use super::carrier::{carrier, check_keys, overhead, sign};
use super::{Overlay, Peer, PublicKey};

/// The option that only these networks have, beside those of [`super::carrier`].
const PEERS: &str = "peers";

/// A host's part of the subnet.
const SLICE_PREFIX: u8 = 24;

/// The place of a host that is no more: those behind it keep their slices.
const HOLE: &str = "-";

/// An address of this host's, and the MTU of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// The address.
    pub address: IpAddr,
    /// Bytes.
    pub mtu: u32,
}

pub(super) fn invalid<T>(sentence: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid(sentence.into()))
}

/// The network asked for, on the host that has those addresses.
pub fn plan(mut request: Request, here: &[Here]) -> Result<Network, Error> {
    let asked = request.options.clone();
    let subnet = subnet(&request)?;
    let all = peers(request.options.remove(PEERS).as_deref(), subnet)?;
    let carrier = carrier(&mut request, subnet)?;
    check_keys(&all, carrier)?;
    let (here, own) = this_host(&all, here)?;
    let others = all.into_iter().filter(|peer| *peer != here);
    let overlay = Overlay {
        subnet,
        carrier,
        others: others.collect(),
        here,
    };
    let limit = own.mtu.saturating_sub(overhead(own.address, carrier));
    let id = NetworkId::named(hex::encode(hash(&[
        &request.name,
        &subnet.to_string(),
        &sign(carrier),
    ])));
    request.v4 = PoolRequest::default();
    let mut network = request.plan(overlay.here.slice, None, limit)?;
    if network.mtu > limit {
        return invalid(format!(
            "MTU {}: host {} reaches the others by a link of {} bytes, of which the tunnel leaves {limit}",
            network.mtu, overlay.here.name, own.mtu
        ));
    }
    if network.device == network.id.bridge_link() {
        network.device = id.bridge_link();
    }
    network.id = id;
    network.options = asked;
    network.driver = Driver::Overlay(overlay);
    Ok(network)
}

fn subnet(request: &Request) -> Result<IpNet, Error> {
    if request.v6.is_some() {
        return Err(Error::Unsupported(
            "an overlay network has IPv4 only: leave --ipv6 and subnets of IPv6 out".to_owned(),
        ));
    }
    let PoolRequest {
        subnet,
        gateway,
        range,
        reserved,
    } = &request.v4;
    if gateway.is_some() || range.is_some() || !reserved.is_empty() {
        return invalid(
            "an overlay network has a gateway and a range on each host, the first address and the rest of its \
             slice: leave --gateway, --ip-range and --aux-address out",
        );
    }
    let Some(subnet) = subnet else {
        return invalid(
            "an overlay network needs a --subnet, the same on all its hosts, for example 10.20.0.0/16",
        );
    };
    if !(8..SLICE_PREFIX).contains(&subnet.prefix_len()) {
        return invalid(format!(
            "subnet {subnet}: an overlay network needs a /8 to /{}, each host has a /{SLICE_PREFIX} of it",
            SLICE_PREFIX - 1
        ));
    }
    Ok(subnet.trunc())
}

fn peers(text: Option<&str>, subnet: IpNet) -> Result<Vec<Peer>, Error> {
    let Some(text) = text else {
        return invalid(
            "an overlay network needs the list of its hosts, the same on all of them: \
             --opt peers=a=192.0.2.1,b=192.0.2.2",
        );
    };
    let mut slices = subnet
        .subnets(SLICE_PREFIX)
        .map_err(|error| Error::Invalid(format!("subnet {subnet}: {error}")))?;
    let mut peers: Vec<Peer> = Vec::new();
    for entry in text.split(',') {
        let Some(slice) = slices.next() else {
            return invalid(format!(
                "subnet {subnet} has a /{SLICE_PREFIX} for fewer hosts than are in the list: choose a larger one"
            ));
        };
        if entry == HOLE {
            continue;
        }
        let parsed = entry.split_once('=').and_then(|(name, address)| {
            let (address, key) = match address.split_once('@') {
                Some((address, key)) => (address, Some(key)),
                None => (address, None),
            };
            let address = address.parse::<IpAddr>().ok()?;
            is_name(name).then_some((name, address, key))
        });
        let Some((name, address, key)) = parsed else {
            return invalid(format!(
                "\"{entry}\" is not a host of an overlay network: write NAME=ADDRESS, as a=192.0.2.1 (NAME=ADDRESS@KEY \
                 where it is encrypted), or {HOLE} in the place of one that is no more"
            ));
        };
        let key = key.map(str::parse::<PublicKey>).transpose();
        let key = key.map_err(|error| Error::Invalid(format!("host {name}: {error}")))?;
        if key.is_some_and(|key| key.is_weak()) {
            return invalid(format!(
                "host {name}: its key is nobody's and keeps nothing secret; `ctl info` on that host shows the right one"
            ));
        }
        let nobody = address.is_unspecified()
            || address.is_multicast()
            || address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if subnet.contains(&address) || address.is_loopback() || nobody {
            return invalid(format!(
                "host {name} cannot be reached at {address}: use its address on the network between the hosts"
            ));
        }
        if peers.iter().any(|p| p.name == name || p.address == address) {
            return invalid(format!("host {entry} is in the list twice"));
        }
        peers.push(Peer {
            name: name.to_owned(),
            address,
            slice,
            key,
        });
    }
    match peers.first() {
        Some(first)
            if peers
                .iter()
                .any(|p| p.address.is_ipv4() != first.address.is_ipv4()) =>
        {
            invalid("the hosts of an overlay network need addresses of the same version of IP")
        }
        _ => Ok(peers),
    }
}

fn this_host(peers: &[Peer], here: &[Here]) -> Result<(Peer, Here), Error> {
    let own = |peer: &Peer| here.iter().find(|own| own.address == peer.address);
    let mut found = peers.iter().filter_map(|peer| Some((peer, own(peer)?)));
    match (found.next(), found.next()) {
        (Some((peer, own)), None) => Ok((peer.clone(), *own)),
        (None, _) => {
            let all: Vec<_> = peers.iter().map(|p| p.address.to_string()).collect();
            invalid(format!(
                "none of the hosts' addresses is one of this host's: {}",
                all.join(", ")
            ))
        }
        (Some((one, _)), Some((other, _))) => invalid(format!(
            "{} and {} are both this host: name it once",
            one.name, other.name
        )),
    }
}

pub(super) fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn request(peers: &str) -> Request {
        let pool = PoolRequest {
            subnet: Some("10.20.0.0/16".parse().unwrap()),
            ..PoolRequest::default()
        };
        Request {
            name: "wide".to_owned(),
            v4: pool,
            options: [(PEERS.to_owned(), peers.to_owned())].into(),
            ..Request::default()
        }
    }

    pub fn on(address: &str) -> [Here; 2] {
        let here = |address: &str, mtu| Here {
            address: address.parse().unwrap(),
            mtu,
        };
        [here("127.0.0.1", 65536), here(address, 1500)]
    }

    const THREE: &str = "a=192.0.2.1,b=192.0.2.2,c=192.0.2.3";

    fn overlay(network: &Network) -> &Overlay {
        match &network.driver {
            Driver::Overlay(overlay) => overlay,
            _ => panic!("an overlay was asked for"),
        }
    }

    #[test]
    fn every_host_makes_the_same_network_with_a_slice_of_its_own() {
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|own| plan(request(THREE), &on(own)).unwrap());
        assert_eq!(a.id, b.id);
        assert_eq!(a.id.as_str().len(), 64);
        assert_eq!(a.device, a.id.bridge_link());
        assert_eq!(overlay(&a).carrier, overlay(&b).carrier);
        assert_eq!(overlay(&a).peers(), overlay(&b).peers());
        assert_eq!(
            (
                a.v4.gateway_net().to_string(),
                b.v4.gateway_net().to_string()
            ),
            ("10.20.0.1/24".into(), "10.20.1.1/24".into())
        );
        assert_eq!(a.mtu, 1450);
        assert_eq!(a.options["peers"], THREE);
        let text = serde_json::to_string(&b).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), b);
    }

    #[test]
    fn a_host_that_goes_moves_no_other() {
        let before = plan(request(THREE), &on("192.0.2.3")).unwrap();
        let after = plan(request("a=192.0.2.1,-,c=192.0.2.3"), &on("192.0.2.3")).unwrap();
        assert_eq!(before.v4, after.v4);
        assert_eq!(overlay(&after).others.len(), 1);
    }

    #[test]
    fn tunnels_over_ipv6_leave_less() {
        let peers = "a=2001:db8::1,b=2001:db8::2";
        assert_eq!(plan(request(peers), &on("2001:db8::1")).unwrap().mtu, 1430);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let with = |change: fn(&mut Request)| {
            let mut request = request(THREE);
            change(&mut request);
            plan(request, &on("192.0.2.1")).unwrap_err().to_string()
        };
        fn option(request: &mut Request, key: &str, value: &str) {
            request.options.insert(key.to_owned(), value.to_owned());
        }
        for (change, reason) in [
            (
                (|r| r.v4.subnet = None) as fn(&mut Request),
                "needs a --subnet",
            ),
            (|r| r.v4.subnet = "10.0.0.0/24".parse().ok(), "a /8 to /23"),
            (
                |r| r.v4.gateway = Some([10, 20, 0, 9].into()),
                "leave --gateway",
            ),
            (|r| r.v6 = Some(PoolRequest::default()), "IPv4 only"),
            (|r| r.options.clear(), "needs the list of its hosts"),
            (|r| option(r, PEERS, "a"), "write NAME=ADDRESS"),
            (|r| option(r, PEERS, "a=10.20.0.1"), "cannot be reached"),
            (|r| option(r, PEERS, "a=192.0.2.1,a=192.0.2.2"), "twice"),
            (
                |r| option(r, PEERS, "a=192.0.2.1,b=2001:db8::1"),
                "same version",
            ),
            (
                |r| option(r, PEERS, "b=192.0.2.9"),
                "none of the hosts' addresses",
            ),
            (
                |r| option(r, PEERS, "a=192.0.2.1,b=127.0.0.1"),
                "cannot be reached",
            ),
            (
                |r| option(r, PEERS, "a=192.0.2.1,b=239.0.0.1"),
                "cannot be reached",
            ),
            (
                |r| option(r, PEERS, "a=192.0.2.1,b=255.255.255.255"),
                "cannot be reached",
            ),
            (
                |r| option(r, PEERS, "a=192.0.2.1@x"),
                "host a: a key has 44",
            ),
            (|r| option(r, PEERS, "a=192.0.2.1@"), "host a: a key has 44"),
            (
                |r| {
                    let zeros = format!("a=192.0.2.1@{}=", "A".repeat(43));
                    option(r, PEERS, &zeros);
                },
                "host a: its key is nobody's",
            ),
            (
                |r| option(r, "com.docker.network.driver.mtu", "1451"),
                "leaves 1450",
            ),
            (|r| option(r, "x", "y"), "network option x is not supported"),
            (
                |r| {
                    r.v4.subnet = "10.20.0.0/23".parse().ok();
                },
                "fewer hosts than are in the list",
            ),
        ] {
            let said = with(change);
            assert!(said.contains(reason), "{reason}: {said}");
        }
        let twice = [on("192.0.2.1"), on("192.0.2.2")].concat();
        let said = plan(request(THREE), &twice).unwrap_err().to_string();
        assert!(said.contains("both this host"), "{said}");
    }

    #[test]
    fn an_address_of_another_host_is_refused_with_its_name() {
        let network = plan(request(THREE), &on("192.0.2.1")).unwrap();
        let said = |address: [u8; 4]| network.refuses(address.into()).to_string();
        assert!(said([10, 20, 1, 9]).contains("host b (192.0.2.2)"));
        assert!(said([10, 20, 9, 9]).contains("belongs to no host"));
        assert!(said([10, 20, 0, 0]).contains("not a host address of subnet 10.20.0.0/24"));
        assert!(said([10, 30, 0, 9]).contains("not a host address of subnet 10.20.0.0/24"));
    }
}
