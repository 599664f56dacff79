//! What can go wrong, as something that the caller can act on.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::nft::Refused;

/// A request that netd does not fulfil.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request contradicts itself or asks for what does not exist.
    #[error("{0}")]
    Invalid(String),
    /// Understood, and not possible with this version.
    #[error("{0}")]
    Unsupported(String),
    /// No network of that name or id.
    #[error("network {0} not found")]
    NoNetwork(String),
    /// A name that stands for several networks.
    #[error("network {0} is ambiguous: use more digits of its id")]
    AmbiguousNetwork(String),
    /// No endpoint of that id.
    #[error("endpoint {0} not found")]
    NoEndpoint(String),
    /// There is a network of that name already.
    #[error("network with name {0} already exists")]
    NetworkExists(String),
    /// Endpoints hang on the network.
    #[error("network {name} has active endpoints ({containers}): disconnect or remove them first")]
    NetworkInUse {
        /// Its name.
        name: String,
        /// Names of the containers on it.
        containers: String,
    },
    /// The default network stays.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// The subnet is in use by another network or by the host.
    #[error(
        "pool {0} overlaps with another network or a route of this host: choose another subnet"
    )]
    Overlap(IpNet),
    /// No default pool is free.
    #[error("all predefined address pools are in use here: give the network a --subnet")]
    PoolsExhausted,
    /// The subnet is full.
    #[error("no available IPv4 addresses on network {0}: remove containers or use a larger subnet")]
    AddressesExhausted(String),
    /// The bridge has as many ports as it can have.
    #[error(
        "network {0} is full: a bridge connects 1,023 containers (BR_MAX_PORTS of Linux); give the others \
         a network of their own"
    )]
    NetworkFull(String),
    /// The asked-for address is taken.
    #[error("address {0} is already in use on this network")]
    AddressInUse(IpAddr),
    /// The container is on that network already.
    #[error("container {container} is already attached to network {network}")]
    AlreadyAttached {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// Someone has the host port.
    #[error("Bind for {address}:{port} failed: port is already allocated{by}")]
    PortAllocated {
        /// Host address.
        address: String,
        /// Host port.
        port: u16,
        /// Who has it, if it is none of ours.
        by: &'static str,
    },
    /// Every port of a range is taken of which one was to be chosen.
    #[error("all host ports of the range {first}-{last} are taken: name another one")]
    PortsExhausted {
        /// Where it begins.
        first: u16,
        /// Where it ends.
        last: u16,
    },
    /// nftables did not take a change.
    #[error("cannot change the packet filter: {0}")]
    Firewall(#[from] Refused),
    /// The kernel or the disk refused a step.
    #[error("cannot {what}: {source}")]
    System {
        /// The step.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error("netd's store failed: {0}")]
    Store(#[from] sled::Error),
    /// A record in the store is not what we write.
    #[error("netd's record of {what} is damaged: {source}")]
    Damaged {
        /// Which one.
        what: String,
        /// How.
        source: serde_json::Error,
    },
}

/// Names the step at which the system refused.
pub trait Doing<T> {
    /// `what` continues the sentence "cannot ...".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::System {
            what: what(),
            source,
        })
    }
}
