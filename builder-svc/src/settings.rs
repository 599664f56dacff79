//! `builder.toml`.

use slipway_service::{Address, Paths};

/// This service's own part of the file.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where registry-svc is; default: its socket in the run folder.
    pub registry: Option<Address>,
    /// The runtime-svc that runs steps; default: its socket in the run folder.
    pub worker: Option<Address>,
    /// Most bytes of context files that are kept between builds.
    pub content_bytes: u64,
}

impl Default for File {
    fn default() -> Self {
        Self {
            registry: None,
            worker: None,
            content_bytes: 2 << 30,
        }
    }
}

impl File {
    /// registry-svc's address.
    pub fn registry_address(&self, paths: &Paths) -> Address {
        let own = self.registry.clone();
        own.unwrap_or_else(|| Address::Unix(paths.socket_of("registry")))
    }

    /// The worker's address.
    pub fn worker_address(&self, paths: &Paths) -> Address {
        let own = self.worker.clone();
        own.unwrap_or_else(|| Address::Unix(paths.socket_of("runtime")))
    }
}
