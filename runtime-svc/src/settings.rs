//! `runtime.toml`.

use slipway_service::{Address, Paths};

use crate::container::userns::UserNamespaces;

/// This service's own part of the file.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where registry-svc is; default: its socket in the run folder.
    pub registry: Option<Address>,
    /// Where netd is; default: its socket in the run folder.
    pub netd: Option<Address>,
    /// Other ids for all containers that don't say `--userns=host`, as docker's `userns-remap`: "default",
    /// "USER[:GROUP]" (of /etc/subuid and /etc/subgid) or "range:FIRST:COUNT".
    pub userns_remap: Option<String>,
    /// Where `--userns=auto` takes its ids from; the same forms.
    pub userns_pool: Option<String>,
}

impl File {
    /// registry-svc's address.
    pub fn registry_address(&self, paths: &Paths) -> Address {
        self.registry
            .clone()
            .unwrap_or_else(|| Address::Unix(paths.socket_of("registry")))
    }

    /// Which ids containers get.
    pub fn user_namespaces(&self) -> anyhow::Result<UserNamespaces> {
        UserNamespaces::new(self.userns_remap.as_deref(), self.userns_pool.as_deref())
            .map_err(anyhow::Error::msg)
    }

    /// netd's address.
    pub fn netd_address(&self, paths: &Paths) -> Address {
        self.netd
            .clone()
            .unwrap_or_else(|| Address::Unix(paths.socket_of("netd")))
    }
}
