//! What a container has on a network: the record that outlives netd.

use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, NetworkId};
use crate::ipam::{DualStack, Wanted};
use crate::netlink::Mac;
use crate::ports::Published;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id; names the host's end of the veth pair.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// Whose it is.
    pub container: String,
    /// The container's name.
    pub container_name: String,
    /// The container's own idea of its name.
    pub hostname: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// Name of the link inside.
    pub interface: String,
    /// MAC of the link inside.
    pub mac: Mac,
    /// Addresses of the link inside.
    #[serde(flatten)]
    pub address: DualStack,
    /// Published ports, host ports filled in.
    pub ports: Vec<Published>,
    /// The container's own resolvers; empty = netd's.
    pub dns: Vec<String>,
    /// Search domains; empty = the host's.
    pub dns_search: Vec<String>,
    /// Resolver options; empty = the host's.
    pub dns_options: Vec<String>,
    /// The endpoint with the highest one has the container's default route.
    #[serde(default)]
    pub gateway_priority: i32,
    /// Inode of its network namespace; 0 = a version before this one did not say.
    #[serde(default)]
    pub netns: u64,
}

impl Endpoint {
    /// Names that DNS answers for it on its network, as they are written, without repetition.
    pub fn names(&self) -> Vec<String> {
        let short = self.container.get(..12).unwrap_or(&self.container);
        let all = [self.container_name.as_str(), short, self.hostname.as_str()];
        let mut names: Vec<String> = Vec::new();
        for name in all
            .into_iter()
            .chain(self.aliases.iter().map(String::as_str))
        {
            if !name.is_empty() && !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

/// An endpoint asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Name or id of the network; empty = the default one.
    pub network: String,
    /// See [`Endpoint::container`].
    pub container: String,
    /// See [`Endpoint::container_name`].
    pub container_name: String,
    /// See [`Endpoint::hostname`].
    pub hostname: String,
    /// See [`Endpoint::aliases`].
    pub aliases: Vec<String>,
    /// Ports to publish.
    pub ports: Vec<crate::ports::Binding>,
    /// Certain addresses.
    pub address: Wanted,
    /// A certain MAC.
    pub mac: Option<Mac>,
    /// An existing namespace instead of a new one.
    pub netns: Option<std::path::PathBuf>,
    /// Name of the link inside; empty = the next free `ethN`.
    pub interface: String,
    /// See [`Endpoint::dns`].
    pub dns: Vec<String>,
    /// See [`Endpoint::dns_search`].
    pub dns_search: Vec<String>,
    /// See [`Endpoint::dns_options`].
    pub dns_options: Vec<String>,
    /// See [`Endpoint::gateway_priority`].
    pub gateway_priority: i32,
}
