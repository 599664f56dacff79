//! The names on one network: a plain value.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::endpoint::Endpoint;
use crate::id::EndpointId;
use crate::network::Network;

#[derive(Debug)]
struct Entry {
    names: Vec<String>,
    address: Ipv4Addr,
}

/// Names and addresses of the endpoints on one network.
#[derive(Debug)]
pub struct Zone {
    network: String,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    internal: bool,
    entries: BTreeMap<EndpointId, Entry>,
}

impl Zone {
    /// An empty one.
    pub fn new(network: &Network) -> Self {
        Self {
            network: network.name.to_ascii_lowercase(),
            subnet: network.subnet,
            gateway: network.gateway,
            internal: network.internal,
            entries: BTreeMap::new(),
        }
    }

    /// Adds an endpoint's names.
    pub fn insert(&mut self, endpoint: &Endpoint) {
        let names = endpoint
            .names()
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        self.entries.insert(
            endpoint.id.clone(),
            Entry {
                names,
                address: endpoint.address,
            },
        );
    }

    /// Removes an endpoint's names.
    pub fn remove(&mut self, id: &EndpointId) {
        self.entries.remove(id);
    }

    /// Whether a client may ask: containers on this network and the host itself.
    pub fn serves(&self, client: Ipv4Addr) -> bool {
        self.subnet.contains(&client)
    }

    /// Whether queries for foreign names must not leave.
    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// The addresses of a name, with or without the network's name behind it; several endpoints may
    /// share an alias. Empty = not one of ours.
    pub fn lookup(&self, name: &str) -> Vec<Ipv4Addr> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = self.exactly(&name);
        if !found.is_empty() {
            return found;
        }
        match name.rsplit_once('.') {
            Some((first, network)) if network == self.network => self.exactly(first),
            _ => Vec::new(),
        }
    }

    fn exactly(&self, name: &str) -> Vec<Ipv4Addr> {
        let named = self
            .entries
            .values()
            .filter(|entry| entry.names.iter().any(|n| n == name));
        named.map(|entry| entry.address).collect()
    }

    /// The name that belongs to an address, as docker gives it: `web.front`. `None` outside the
    /// subnet: somebody else may know.
    pub fn reverse(&self, address: Ipv4Addr) -> Option<Option<String>> {
        if !self.subnet.contains(&address) {
            return None;
        }
        let entry = self.entries.values().find(|entry| entry.address == address);
        Some(entry.and_then(|entry| Some(format!("{}.{}", entry.names.first()?, self.network))))
    }

    /// The address that the server listens on.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }
}
