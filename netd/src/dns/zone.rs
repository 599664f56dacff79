//! The names on one network: a plain value.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, RwLock, Weak};

use ipnet::IpNet;

use crate::endpoint::Endpoint;
use crate::id::EndpointId;
use crate::ipam::DualStack;
use crate::network::{Driver, Network};

use super::peers::Peers;

#[derive(Debug)]
struct Entry {
    names: Vec<String>,
    address: DualStack,
    /// Whom to ask for it what is none of ours; empty = the host's resolvers.
    resolvers: Vec<IpAddr>,
    /// Of the other networks that its container is on.
    others: Vec<Weak<RwLock<Zone>>>,
}

/// Names and addresses of the endpoints on one network.
///
/// Every query asks for a name or two that most often are none of ours: it must not matter how many there are.
#[derive(Debug)]
pub struct Zone {
    network: String,
    subnets: Vec<IpNet>,
    internal: bool,
    /// Who knows the names on other hosts.
    peers: Option<Arc<Peers>>,
    entries: HashMap<EndpointId, Entry>,
    /// Who has a name, in the order of their ids.
    by_name: HashMap<String, BTreeMap<EndpointId, DualStack>>,
    by_address: HashMap<IpAddr, EndpointId>,
}

impl Zone {
    /// An empty one.
    pub fn new(network: &Network) -> Self {
        Self {
            network: network.name.to_ascii_lowercase(),
            subnets: network.pools().map(|pool| pool.subnet).collect(),
            internal: network.internal,
            peers: peers(network),
            entries: HashMap::new(),
            by_name: HashMap::new(),
            by_address: HashMap::new(),
        }
    }

    /// Adds an endpoint's names.
    pub fn insert(&mut self, endpoint: &Endpoint) {
        let (id, address) = (&endpoint.id, endpoint.address);
        let names: Vec<String> = endpoint
            .names()
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        self.remove(id);
        for name in &names {
            let holders = self.by_name.entry(name.clone()).or_default();
            holders.insert(id.clone(), address);
        }
        for own in address.all() {
            self.by_address.insert(own, id.clone());
        }
        let resolvers = endpoint.dns.iter().filter_map(|text| text.parse().ok());
        let entry = Entry {
            names,
            address,
            resolvers: resolvers.collect(),
            others: Vec::new(),
        };
        self.entries.insert(id.clone(), entry);
    }

    /// Removes an endpoint's names.
    pub fn remove(&mut self, id: &EndpointId) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        for name in &entry.names {
            if let Some(holders) = self.by_name.get_mut(name) {
                holders.remove(id);
                if holders.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        for own in entry.address.all() {
            if self.by_address.get(&own) == Some(id) {
                self.by_address.remove(&own);
            }
        }
    }

    /// Whether a client may ask: containers on this network and the host itself.
    pub fn serves(&self, client: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&client))
    }

    /// The resolvers that a client asked for, if any.
    pub fn resolvers_of(&self, client: IpAddr) -> &[IpAddr] {
        let id = self.by_address.get(&client);
        let entry = id.and_then(|id| self.entries.get(id));
        entry.map_or(&[], |entry| &entry.resolvers)
    }

    /// Its container is on these networks as well: their names are known to it.
    pub fn set_others(&mut self, id: &EndpointId, others: Vec<Weak<RwLock<Zone>>>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.others = others;
        }
    }

    /// The zones of the other networks that a client is on.
    pub fn others_of(&self, client: IpAddr) -> Vec<Arc<RwLock<Zone>>> {
        let id = self.by_address.get(&client);
        let entry = id.and_then(|id| self.entries.get(id));
        entry.map_or_else(Vec::new, |entry| {
            entry.others.iter().filter_map(Weak::upgrade).collect()
        })
    }

    /// Its network spans other hosts now.
    pub fn span(&mut self, network: &Network) {
        self.peers = peers(network);
    }

    /// The other hosts of the network.
    pub fn peers(&self) -> Option<&Arc<Peers>> {
        self.peers.as_ref()
    }

    /// Whether queries for foreign names must not leave.
    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// The addresses of a name, with or without the network's name behind it; several endpoints may
    /// share an alias. Empty = not one of ours.
    pub fn lookup(&self, name: &str) -> Vec<DualStack> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = self.exactly(&name);
        if !found.is_empty() {
            return found;
        }
        // A network's name may have dots of its own.
        let first = name.strip_suffix(&self.network);
        match first.and_then(|first| first.strip_suffix('.')) {
            Some(first) => self.exactly(first),
            None => Vec::new(),
        }
    }

    fn exactly(&self, name: &str) -> Vec<DualStack> {
        let holders = self.by_name.get(name);
        holders.map_or_else(Vec::new, |holders| holders.values().copied().collect())
    }

    /// The name that belongs to an address, as docker gives it: `web.front`. `None` outside the
    /// subnets: somebody else may know.
    pub fn reverse(&self, address: IpAddr) -> Option<Option<String>> {
        if !self.serves(address) {
            return None;
        }
        let holder = self.by_address.get(&address);
        let entry = holder.and_then(|id| self.entries.get(id));
        Some(entry.and_then(|entry| Some(format!("{}.{}", entry.names.first()?, self.network))))
    }
}

fn peers(network: &Network) -> Option<Arc<Peers>> {
    match &network.driver {
        Driver::Overlay(overlay) => Some(Arc::new(Peers::of(overlay))),
        Driver::Bridge | Driver::Direct(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Request;

    fn endpoint(id: &str, name: &str, address: &str) -> Endpoint {
        let text = format!(
            r#"{{"id":"{id}","network":"n","container":"c{id}","container_name":"{name}","hostname":"",
                "aliases":["Shared"],"interface":"eth0","mac":"02:42:ac:11:00:02","address":"{address}",
                "ports":[],"dns":[],"dns_search":[],"dns_options":[]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn names_come_and_go_with_their_endpoints() {
        let request = Request {
            name: "front".to_owned(),
            ..Request::default()
        };
        let network = request
            .plan("10.0.0.0/24".parse().unwrap(), None, 1500)
            .unwrap();
        let mut zone = Zone::new(&network);
        let [a, b] = ["10.0.0.2", "10.0.0.3"].map(|v4| DualStack {
            v4: v4.parse().unwrap(),
            v6: None,
        });
        zone.insert(&endpoint("1", "one", "10.0.0.2"));
        zone.insert(&endpoint("2", "two", "10.0.0.3"));
        assert_eq!(zone.lookup("shared"), [a, b]);
        assert_eq!(zone.lookup("TWO.front."), [b]);
        // Another name takes the place of the former one.
        zone.insert(&endpoint("2", "three", "10.0.0.3"));
        assert_eq!(
            (zone.lookup("two"), zone.lookup("three")),
            (vec![], vec![b])
        );
        assert_eq!(zone.reverse(b.v4), Some(Some("three.front".to_owned())));
        zone.remove(&EndpointId::named("1"));
        assert_eq!(
            (zone.lookup("shared"), zone.lookup("one")),
            (vec![b], vec![])
        );
        assert_eq!(zone.reverse(a.v4), Some(None));
        zone.remove(&EndpointId::named("2"));
        assert!(zone.by_name.is_empty() && zone.by_address.is_empty());
    }
}
