//! What of a network that spans hosts goes into this host's kernel, as a pure function.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::vxlan::{self, Vxlan};
use crate::netlink::wire::Message;
use crate::netlink::{Mac, fence, neigh, wireguard};
use crate::network::{Driver, Network};

#[cfg(doc)]
use super::Peer;
use super::{Carrier, PublicKey};

/// The way to another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The addresses that it leads to.
    pub slice: IpNet,
    /// The other end's address inside of the network.
    pub gateway: IpAddr,
    /// The Ethernet address of its tunnel.
    pub mac: Mac,
    /// Its address outside.
    pub host: IpAddr,
    /// See [`Peer::key`].
    pub key: Option<PublicKey>,
}

/// This host's end of a network's tunnels: one link for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Name of the link.
    pub name: String,
    /// What it sends in.
    pub carrier: Carrier,
    /// All addresses of the network.
    pub subnet: IpNet,
    /// This host's address outside.
    pub local: IpAddr,
    /// What other hosts know this one by, if it is encrypted.
    pub key: Option<PublicKey>,
    /// This host's address inside: what netd itself sends comes from there.
    pub gateway: IpAddr,
    /// See [`Network::mtu`].
    pub mtu: u32,
    /// To the other hosts.
    pub ways: Vec<Way>,
}

impl Tunnel {
    /// That of a network, if it spans hosts.
    pub fn of(network: &Network) -> Option<Self> {
        let Driver::Overlay(overlay) = &network.driver else {
            return None;
        };
        let ways = overlay.others.iter().map(|peer| Way {
            slice: peer.slice,
            gateway: peer.gateway(),
            mac: Mac::of(peer.gateway()),
            host: peer.address,
            key: peer.key,
        });
        Some(Self {
            name: network.id.tunnel_link(),
            carrier: overlay.carrier,
            subnet: overlay.subnet,
            local: overlay.here.address,
            key: overlay.here.key,
            gateway: overlay.here.gateway(),
            mtu: network.mtu,
            ways: ways.collect(),
        })
    }

    /// Its Ethernet address, as the other hosts know it.
    pub fn mac(&self) -> Mac {
        Mac::of(self.gateway)
    }

    /// Makes the link, still off.
    pub fn create(&self) -> Message {
        match self.carrier {
            Carrier::WireGuard { .. } => wireguard::create(&self.name, self.mtu),
            Carrier::Vxlan { vni } => Vxlan {
                name: &self.name,
                vni,
                mac: self.mac(),
                local: self.local,
                mtu: self.mtu,
            }
            .create(),
        }
    }

    /// Keeps what is for other hosts from leaving by any other way, before there is one and after it is gone. What
    /// travels in the clear anyhow needs none.
    pub fn fence(&self) -> Option<Message> {
        self.is_encrypted().then(|| fence::raise(self.subnet))
    }

    /// Takes that away again.
    pub fn unfence(&self) -> Option<Message> {
        self.is_encrypted().then(|| fence::lower(self.subnet))
    }

    /// Whether nobody on the way can read what it sends.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.carrier, Carrier::WireGuard { .. })
    }

    /// The other ends of an encrypted one. Each may send what is of its slice, and nothing else.
    pub fn ends(&self) -> Vec<wireguard::Peer> {
        let Carrier::WireGuard { port } = self.carrier else {
            return Vec::new();
        };
        let end = |way: &Way| {
            Some(wireguard::Peer {
                key: *way.key?.bytes(),
                endpoint: (way.host, port).into(),
                allowed: way.slice,
            })
        };
        self.ways.iter().filter_map(end).collect()
    }

    /// Everything that leads to the others, once the link is on.
    pub fn lead(&self, index: u32) -> Vec<Message> {
        let to = |way: &Way| match self.carrier {
            Carrier::WireGuard { .. } => vec![self.route(way, index)],
            Carrier::Vxlan { .. } => vec![
                neigh::tunnel_entry(index, way.mac, way.host),
                neigh::neighbour(index, way.gateway, way.mac),
                self.route(way, index),
            ],
        };
        self.ways.iter().flat_map(to).collect()
    }

    /// The route to another host's part.
    pub(super) fn route(&self, way: &Way, index: u32) -> Message {
        match self.carrier {
            Carrier::WireGuard { .. } => wireguard::replace_route(way.slice, self.gateway, index),
            Carrier::Vxlan { .. } => {
                vxlan::replace_route(way.slice, way.gateway, self.gateway, index)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::overlay::definition::tests::{on, request};
    use crate::overlay::plan;

    #[test]
    fn a_bridge_has_no_tunnel() {
        let request = crate::network::Request {
            name: "front".to_owned(),
            ..Default::default()
        };
        let bridge = request.plan("10.0.0.0/24".parse().unwrap(), None, 1500);
        assert_eq!(Tunnel::of(&bridge.unwrap()), None);
    }

    proptest! {
        /// Nobody agrees with anybody, so the plans of any two hosts have to fit by themselves.
        #[test]
        fn what_one_host_sends_the_other_takes(places in prop::collection::vec(any::<bool>(), 2..100)) {
            let address = |place: usize| format!("192.0.2.{}", place + 1);
            let entry = |(place, there): (usize, &bool)| match there {
                true => format!("h{place}={}", address(place)),
                false => "-".to_owned(),
            };
            let list: Vec<_> = places.iter().enumerate().map(entry).collect();
            let hosts: Vec<_> = (0..places.len()).filter(|place| places[*place]).collect();
            let networks: Vec<_> = hosts
                .iter()
                .map(|place| plan(request(&list.join(",")), &on(&address(*place))).unwrap())
                .collect();
            let slices: BTreeSet<_> = networks.iter().map(|network| network.v4.subnet).collect();
            prop_assert_eq!(slices.len(), hosts.len());
            let tunnels: Vec<_> = networks.iter().map(|network| Tunnel::of(network).unwrap()).collect();
            for (one, here) in networks.iter().zip(&tunnels) {
                prop_assert_eq!(here.ways.len(), hosts.len() - 1);
                for (other, there) in networks.iter().zip(&tunnels) {
                    prop_assert_eq!((&one.id, here.carrier, here.mtu), (&other.id, there.carrier, there.mtu));
                    let ways: Vec<_> = here.ways.iter().filter(|way| way.host == there.local).collect();
                    if here == there {
                        prop_assert!(ways.is_empty());
                        continue;
                    }
                    prop_assert_eq!(ways.len(), 1);
                    prop_assert_eq!(ways[0].slice, other.v4.subnet);
                    prop_assert_eq!(ways[0].gateway, other.v4.gateway);
                    prop_assert_eq!(ways[0].mac, there.mac());
                }
                prop_assert_eq!(here.lead(7).len(), 3 * here.ways.len());
            }
        }
    }
}
