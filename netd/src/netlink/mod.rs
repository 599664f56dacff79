//! rtnetlink (and what of genetlink WireGuard needs) over raw sockets: links, addresses, routes and network namespaces,
//! several requests a system call, no other program.

pub mod conntrack;
pub mod fence;
mod genl;
pub mod link;
mod mac;
pub mod macvlan;
pub mod neigh;
mod netns;
mod route;
mod socket;
pub mod vxlan;
pub mod wire;
pub mod wireguard;

pub use link::octets;
pub use mac::Mac;
pub use netns::Netns;
pub use route::{Link, Route};
pub use socket::{Family, Socket};
