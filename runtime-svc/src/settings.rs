//! `runtime.toml`.

use slipway_service::{Address, Paths};

/// This service's own part of the file.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where registry-svc is; default: its socket in the run folder.
    pub registry: Option<Address>,
    /// Where netd is; default: its socket in the run folder.
    pub netd: Option<Address>,
}

impl File {
    /// registry-svc's address.
    pub fn registry_address(&self, paths: &Paths) -> Address {
        self.registry
            .clone()
            .unwrap_or_else(|| Address::Unix(paths.socket_of("registry")))
    }

    /// netd's address.
    pub fn netd_address(&self, paths: &Paths) -> Address {
        self.netd
            .clone()
            .unwrap_or_else(|| Address::Unix(paths.socket_of("netd")))
    }
}
