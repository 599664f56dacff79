//! Bootstrap of a Slipway service: what all services do alike is done here, once.
//!
//! A service's `main.rs` parses its flags (with [`ServiceArgs`] flattened in), calls [`run`] with a
//! function that opens its domain and returns its gRPC [`Routes`](tonic::service::Routes), and ends.
//! In between this crate
//!
//! * reads the settings: flags beat environment beats file ([`settings`]),
//! * makes sure that one instance runs per run folder ([`instance`]),
//! * writes structured logs ([`trace`]) and counts requests ([`metrics`]),
//! * listens on unix and tcp sockets, the latter with mutual TLS ([`listen`], [`tls`], [`connection`]),
//! * knows who calls ([`identity`]) and what he may ([`roles`]), and refuses the rest ([`authorize`]),
//! * writes down who did what ([`audit`]),
//! * keeps what a process knows out of core dumps ([`secrecy`]),
//! * answers health and reflection and stops gracefully ([`server`]).
//!
//! Clients connect with [`client::connect`] and read errors with [`error`]; [`chunks`] carries bodies
//! between channels and blocking code, [`whole`] tells one that was cut off from a shorter one, and
//! [`disk`] how much of it folders take. [`watched`] makes things of files anew when those change.
//!
//! Architecture invariant: this crate knows no service's domain.

#![deny(unsafe_code)]

pub mod audit;
pub mod authorize;
pub mod chunks;
pub mod client;
pub mod connection;
pub mod disk;
pub mod error;
pub mod identity;
pub mod instance;
pub mod listen;
pub mod metrics;
mod rate;
pub mod roles;
pub mod secrecy;
pub mod server;
pub mod settings;
mod sys;
mod systemd;
pub mod tls;
pub mod trace;
pub mod watched;
pub mod whole;

pub use listen::Address;
pub use server::{Context, run};
pub use settings::{Paths, ServiceArgs};
pub use sys::{memory::give_back, writeback::begin_writeback};
pub use tokio_util::sync::CancellationToken;

/// Largest gRPC message that a service accepts or sends, bytes. Bodies are streamed in chunks of
/// [`CHUNK_SIZE`], so only manifests and lists come near it.
pub const MAX_MESSAGE_SIZE: usize = 4 * 1024 * 1024 + 64 * 1024;

/// Size of a chunk of a streamed body, bytes.
pub const CHUNK_SIZE: usize = 256 * 1024;

/// Largest frame that is taken, bytes (RFC 9113, SETTINGS_MAX_FRAME_SIZE): a chunk is one, rather than 16
/// with a system call each.
pub const MAX_FRAME_SIZE: u32 = 1 << 20;

/// Which service this is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Short name, as in `registry.sock` and `registry.toml`.
    pub name: &'static str,
    /// Name of the program, as in `registry-svc`.
    pub program: &'static str,
    /// Version of the program.
    pub version: &'static str,
}
