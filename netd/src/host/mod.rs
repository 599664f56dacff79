//! The host that netd looks after: puts decisions into kernel and store, in that order of undoing.
//!
//! One lock guards what is known (`State`), one the kernel sockets (`Kernel`); whoever needs both
//! takes `State` first. Making a namespace holds neither while the kernel works.

mod addresses;
mod attach;
mod audit;
mod command;
mod direct;
mod gateway;
mod guard;
mod ipv6;
mod namespaces;
mod neighbours;
mod networks;
mod overlay;
mod pool;
mod ports;
mod prepare;
mod reaper;
mod reconcile;
mod release;
mod rename;
mod repair;
mod settings;
mod stations;
mod table;
mod tunnel;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use tokio::runtime::Handle;

use crate::config::Config;
use crate::dns::{Resolver, Zone};
use crate::endpoint::Endpoint;
use crate::error::{Doing, Error};
use crate::firewall::{Entries, Ownership};
use crate::id::{EndpointId, NetworkId};
use crate::ipam::{DualAddresses, DualStack};
use crate::netlink::{Netns, Route};
use crate::network::{DEFAULT, Network};
use crate::nft;
use crate::ports::{Limit, PortTable, Published};
use crate::store::Store;

pub use guard::guard;
pub use networks::Details;
pub use release::Synced;
pub use repair::Finding;
pub use watch::Watch;

/// A network with what it is made of on this host.
#[derive(Debug)]
struct Live {
    network: Network,
    addresses: DualAddresses,
    /// Of its bridge; 0 = it has none.
    index: u32,
    /// Of the link to the other hosts, on a network that spans them.
    tunnel: Option<u32>,
    zone: Arc<RwLock<Zone>>,
    /// The server on the gateway; none if another program has port 53 of all addresses.
    resolver: Option<Resolver>,
}

impl Live {
    fn network(&self) -> &Network {
        &self.network
    }
}

impl State {
    /// Networks that have a bridge here.
    fn bridged(&self) -> impl Iterator<Item = &Live> {
        self.networks.values().filter(|l| l.network.is_bridged())
    }

    /// Whether an endpoint has an end on this host, in a bridge.
    fn has_host_end(&self, endpoint: &Endpoint) -> bool {
        let live = self.networks.get(&endpoint.network);
        live.is_some_and(|live| live.network.is_bridged())
    }
}

#[derive(Debug)]
struct State {
    networks: BTreeMap<NetworkId, Live>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Namespaces of containers, as far as they are known: those that we handed out, and those that were found.
    namespaces: HashMap<EndpointId, Netns>,
    ports: PortTable,
    /// Who may use published ports of which nothing else was said.
    publish_from: RwLock<Limit>,
    /// Endpoints whose link was gone when we started, with their container.
    lost: Vec<(EndpointId, String)>,
    /// Whether containers were searched for links that are nobody's: only what was before us can have left some.
    swept: bool,
    /// What of `netd.toml` is not followed, and why.
    ignored: Vec<String>,
    /// Whether bridges and table are in the kernel.
    up: bool,
}

#[derive(Debug)]
struct Kernel {
    route: Route,
    nft: nft::Client,
    /// As the kernel can, once it was tried.
    ownership: Ownership,
    /// Whether our table is in the kernel, as far as we know: before, no tunnel is switched on.
    ruled: bool,
    stations: stations::Stations,
}

/// An attached endpoint with what only the answer to its request needs.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The record.
    pub endpoint: Endpoint,
    /// Its network.
    pub network: Network,
    /// Who answers names on its network, if netd does.
    pub nameserver: Option<IpAddr>,
    /// Where its namespace can be opened; empty where nobody knows, after a restart of netd.
    pub netns_path: String,
    /// The host as its containers see it.
    pub host: IpAddr,
    /// Whether its container's default route goes by it.
    pub default_route: bool,
    /// Who may use published ports of which nothing else was said.
    pub publish_from: Limit,
}

/// Everything netd owns on one host.
#[derive(Debug)]
pub struct Host {
    config: Config,
    store: Store,
    state: Mutex<State>,
    kernel: Mutex<Kernel>,
    /// Indexes of our bridges and tunnels: what happens to them is watched.
    bridges: RwLock<watch::Bridges>,
    pool: Arc<pool::Pool>,
    own_netns: Netns,
    runtime: Handle,
    reaper: reaper::Reaper,
}

impl Host {
    /// Opens the store, makes the kernel agree with it, and starts filling the pool.
    ///
    /// `state` is a durable folder, `run` one that is empty after a boot. Sockets are opened in the
    /// calling thread's network namespace; `runtime` must have been built in the same one.
    pub fn open(
        config: Config,
        state: &Path,
        run: &Path,
        runtime: Handle,
    ) -> Result<Arc<Self>, Error> {
        let store = Store::open(state, run)?;
        let kernel = Kernel {
            route: Route::open().doing(|| "open an rtnetlink socket".to_owned())?,
            nft: nft::Client::open().doing(|| "open an nftables socket".to_owned())?,
            ownership: match config.own_table {
                true => Ownership::Owned,
                false => Ownership::Taken,
            },
            ruled: false,
            stations: stations::Stations::new(config.anti_spoofing),
        };
        let own_netns = Netns::current().doing(|| "open our network namespace".to_owned())?;
        let known = State {
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            namespaces: HashMap::new(),
            ports: PortTable::new(runtime.clone()),
            publish_from: RwLock::new(config.publish_from.clone()),
            lost: Vec::new(),
            swept: false,
            ignored: Vec::new(),
            up: false,
        };
        let (reaper, doomed) = reaper::Reaper::new();
        let host = Arc::new(Self {
            pool: Arc::new(pool::Pool::new(config.prepared_namespaces)),
            config,
            store,
            state: Mutex::new(known),
            kernel: Mutex::new(kernel),
            bridges: RwLock::default(),
            own_netns,
            runtime,
            reaper,
        });
        host.bring_up(&mut host.state())?;
        let start = host.reaper.start(Arc::downgrade(&host), doomed);
        start.doing(|| "start the reaper".to_owned())?;
        // The first time before anybody asks: the first container gets the first address.
        host.refill();
        pool::start(&host).doing(|| "start the pool".to_owned())?;
        Ok(host)
    }

    /// A poisoned lock means that a request panicked: what it left is still the best there is.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The port id under which our own changes to nftables are announced.
    pub fn nft_port(&self) -> Result<u32, Error> {
        self.kernel()
            .nft
            .port()
            .doing(|| "ask for our netlink port".to_owned())
    }

    /// How many namespaces are ready.
    pub fn prepared(&self) -> usize {
        self.pool.len()
    }

    /// All endpoints, or those of one network or container (empty = any).
    pub fn endpoints(&self, network: &str, container: &str) -> Result<Vec<Attached>, Error> {
        let state = self.state();
        let only = match network {
            "" => None,
            key => Some(state.find(key)?.network.id.clone()),
        };
        let fits = |endpoint: &&Endpoint| {
            only.as_ref().is_none_or(|id| endpoint.network == *id)
                && (container.is_empty() || endpoint.container == container)
        };
        let ways_out = state.ways_out();
        let fitting = state.endpoints.values().filter(fits);
        Ok(fitting
            .filter_map(|e| state.attached_as(e, ways_out.contains(&e.id)))
            .collect())
    }
}

/// What the packet filter has to know of the ports of an endpoint.
fn entries(ports: &[Published], to: DualStack, default: &Limit) -> Entries {
    ports.iter().map(|port| port.entries(to, default)).collect()
}

impl State {
    /// A network by name, id or unique beginning of its id; empty = the default one.
    fn find(&self, key: &str) -> Result<&Live, Error> {
        let key = if key.is_empty() || key == "default" {
            DEFAULT
        } else {
            key
        };
        if let Some(live) = self.networks.values().find(|live| live.network.name == key) {
            return Ok(live);
        }
        let mut fitting = self
            .networks
            .values()
            .filter(|live| live.network.id.as_str().starts_with(key));
        match (fitting.next(), fitting.next()) {
            (Some(live), None) => Ok(live),
            (Some(_), Some(_)) => Err(Error::AmbiguousNetwork(key.to_owned())),
            (None, _) => Err(Error::NoNetwork(key.to_owned())),
        }
    }

    fn attached(&self, endpoint: &Endpoint) -> Option<Attached> {
        let way_out = self.way_out_of(&endpoint.container, None);
        self.attached_as(
            endpoint,
            way_out.is_some_and(|(out, _)| out.id == endpoint.id),
        )
    }

    fn attached_as(&self, endpoint: &Endpoint, default_route: bool) -> Option<Attached> {
        let live = self.networks.get(&endpoint.network)?;
        Some(Attached {
            endpoint: endpoint.clone(),
            network: live.network.clone(),
            nameserver: self.resolver_for(endpoint, live),
            netns_path: self
                .namespaces
                .get(&endpoint.id)
                .map(Netns::proc_path)
                .unwrap_or_default(),
            host: self.host_seen_from(&live.network),
            default_route,
            publish_from: self.publish_from(),
        })
    }

    /// That of its network; where that has none of ours, of another network that its container is on.
    fn resolver_for(&self, endpoint: &Endpoint, live: &Live) -> Option<IpAddr> {
        let own = |live: &Live| live.resolver.as_ref().map(|_| live.network.v4.gateway);
        if live.network.is_bridged() {
            return own(live);
        }
        let others = self.of(&endpoint.container);
        let mut others = others.filter_map(|other| self.networks.get(&other.network));
        others.find_map(own)
    }

    /// By its gateway; from a network without one of the host's, by that of the default network, as with docker.
    fn host_seen_from(&self, network: &Network) -> IpAddr {
        let default = || self.bridged().find(|live| live.network.is_default());
        match network.is_bridged() {
            true => network.v4.gateway,
            false => default().map_or(network.v4.gateway, |live| live.network.v4.gateway),
        }
    }

    /// Who may use published ports of which nothing else was said: as the table has it.
    fn publish_from(&self) -> Limit {
        self.publish_from
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn entries(&self, default: &Limit) -> Entries {
        let of = |endpoint: &Endpoint| entries(&endpoint.ports, endpoint.address, default);
        self.endpoints.values().map(of).collect()
    }

    fn zone(&self, network: &NetworkId) -> Option<&Arc<RwLock<Zone>>> {
        self.networks.get(network).map(|live| &live.zone)
    }
}
