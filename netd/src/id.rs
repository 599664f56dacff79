//! Ids of endpoints and networks: 256 random bits, 64 lower-case hex digits, as docker's.

use std::fmt;

use serde::{Deserialize, Serialize};

fn random() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random numbers do not fail after boot");
    hex::encode(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new one.
            pub fn random() -> Self {
                Self(random())
            }

            /// As it came over the wire; it only ever selects, so any text will do.
            pub fn named(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// All digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Id of an endpoint.
    EndpointId
);
id!(
    /// Id of a network.
    NetworkId
);

/// What all host ends of our veth pairs are called like.
pub const HOST_LINK_PREFIX: &str = "sw";

/// What all tunnels of ours to other hosts are called like.
pub const TUNNEL_PREFIX: &str = "svx";

impl EndpointId {
    /// Name of the host's end of its veth pair.
    pub fn host_link(&self) -> String {
        format!("{HOST_LINK_PREFIX}{}", self.0.get(..10).unwrap_or(&self.0))
    }
}

impl NetworkId {
    /// Name of the bridge of a user-defined network (15 characters are the kernel's limit).
    pub fn bridge_link(&self) -> String {
        format!("slip-{}", self.0.get(..10).unwrap_or(&self.0))
    }

    /// Name of the link by which a network that spans hosts reaches the others.
    pub fn tunnel_link(&self) -> String {
        format!("{TUNNEL_PREFIX}{}", self.0.get(..10).unwrap_or(&self.0))
    }
}
