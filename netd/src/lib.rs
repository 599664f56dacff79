//! Networks, addresses, names and published ports of the containers of one host.
//!
//! Rings, from the inside out: `netlink/` and `nft/` speak to the kernel; `ipam/`, `network/`,
//! `ports/`, `firewall/`, `antispoof.rs` and `dns/zone.rs` decide, as plain values; `host/` puts a decision into the
//! kernel and into the store; `grpc/` translates. Everything but DNS and the relay is synchronous:
//! a request is a handful of system calls of microseconds each.
//!
//! Architecture invariants: no program is executed; no nftables table but `inet slipway` and `bridge slipway` and no
//! link but our own bridges, `sw*` ends, `svx*` tunnels and those of containers is ever written; sysctls are written
//! below `/proc/sys/net` only.

#![forbid(unsafe_code)]

pub mod antispoof;
pub mod audit;
pub mod config;
pub mod dns;
pub mod endpoint;
pub mod error;
pub mod firewall;
pub mod grpc;
pub mod host;
pub mod id;
pub mod ipam;
pub mod netlink;
pub mod network;
pub mod nft;
pub mod overlay;
pub mod ports;
pub mod store;
pub mod sysctl;

pub use config::Config;
pub use error::Error;
pub use host::Host;
