//! Networks that span hosts: routed, not stretched, and without anybody who would have to agree.
//!
//! Every host is told the same list of hosts. Its order gives each a *slice* of the network's subnet; containers of a
//! host have addresses of its slice and hang on a bridge of its own. Between the hosts runs one VXLAN link each, with
//! one route, one neighbour and one forwarding entry a host: nothing that comes or goes with a container has to be
//! known elsewhere, and nothing is learned or flooded.
//!
//! An encrypted network has a WireGuard link in its place, which is as good at leading to slices (a peer of it *is* a
//! slice) and needs no frames: there is nothing of VXLAN that could leave in the clear. Routes to slices go with the
//! link; a route to nowhere for the whole subnet stays, so that nothing takes the host's way out instead.

mod carrier;
mod compare;
mod definition;
mod key;
mod plan;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ipam;

pub use carrier::Carrier;
pub use compare::Led;
pub use definition::{Here, plan};
pub use key::{NotAKey, PrivateKey, PublicKey};
pub use plan::{Tunnel, Way};

/// A host that has a part of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// What the list calls it.
    pub name: String,
    /// Its address outside of the network: tunnels end there.
    pub address: IpAddr,
    /// The addresses of its containers.
    pub slice: IpNet,
    /// What it is known by, where the network is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
}

impl Peer {
    /// Its address inside of the network: the gateway of its containers.
    pub fn gateway(&self) -> IpAddr {
        ipam::nth(self.slice, 1)
    }
}

/// What a network that spans hosts has more than a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// All addresses of it, on whichever host.
    pub subnet: IpNet,
    /// How.
    #[serde(flatten)]
    pub carrier: Carrier,
    /// This host.
    pub here: Peer,
    /// The others, in the order of the list.
    pub others: Vec<Peer>,
}

impl Overlay {
    /// All hosts, in the order of their slices.
    pub fn peers(&self) -> Vec<&Peer> {
        let mut all: Vec<_> = self.others.iter().chain([&self.here]).collect();
        all.sort_by_key(|peer| peer.slice);
        all
    }

    /// A host that has another slice than it had.
    fn is_moved<'a>(&self, before: &'a Peer) -> Option<&'a str> {
        let peers = self.peers();
        let now = peers.iter().find(|peer| peer.name == before.name)?;
        (now.slice != before.slice).then_some(&*before.name)
    }

    /// The name of a host that has another slice than it had, or of one that has another's.
    pub fn moves_from(&self, before: &Self) -> Option<String> {
        let peers = before.peers();
        let moved = peers.iter().find_map(|peer| self.is_moved(peer));
        let here = (self.here.slice != before.here.slice).then_some(&*self.here.name);
        moved.or(here).map(str::to_owned)
    }

    /// The other host that an address inside of the network belongs to.
    pub fn other_with(&self, address: IpAddr) -> Option<&Peer> {
        self.others
            .iter()
            .find(|peer| peer.slice.contains(&address))
    }

    /// Why a container here cannot have an address that is none of this host's; `None` = it is not of this network at
    /// all, or of this host.
    pub fn refuses(&self, address: IpAddr) -> Option<String> {
        if self.here.slice.contains(&address) || !self.subnet.contains(&address) {
            return None;
        }
        Some(match self.other_with(address) {
            Some(peer) => format!(
                "address {address} belongs to host {} ({}): run the container there, or give it an address of {}",
                peer.name, peer.address, self.here.slice
            ),
            None => format!(
                "address {address} belongs to no host: containers here have addresses of {}",
                self.here.slice
            ),
        })
    }
}
