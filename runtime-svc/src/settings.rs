//! `runtime.toml`.

use std::collections::HashMap;

use slipway_proto::runtime::v1::LogConfig;
use slipway_service::{Address, Paths};

use crate::{
    container::userns::UserNamespaces,
    error::Error,
    logs::config::{self, Defaults},
};

/// This service's own part of the file.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where registry-svc is; default: its socket in the run folder.
    pub registry: Option<Address>,
    /// Where netd is; default: its socket in the run folder.
    pub netd: Option<Address>,
    /// Other ids for all containers that don't say `--userns=host`, as docker's `userns-remap`: "default",
    /// `USER[:GROUP]` (of /etc/subuid and /etc/subgid) or "range:FIRST:COUNT".
    pub userns_remap: Option<String>,
    /// Where `--userns=auto` takes its ids from; the same forms.
    pub userns_pool: Option<String>,
    /// Log driver of containers that name none; default: local.
    #[serde(rename = "log-driver")]
    pub log_driver: Option<String>,
    /// Its options; a container's own come first.
    #[serde(rename = "log-opts")]
    pub log_opts: HashMap<String, String>,
    /// How much of a log is kept beyond its cap for attached clients that are behind: "256m".
    #[serde(rename = "log-hold")]
    pub log_hold: Option<String>,
}

impl File {
    /// How containers log that don't say.
    pub fn log_defaults(&self) -> Result<Defaults, Error> {
        Ok(Defaults {
            config: LogConfig {
                driver: self.log_driver.clone().unwrap_or_default(),
                options: self.log_opts.clone(),
            },
            hold: self.log_hold.as_deref().map(config::size).transpose()?,
        })
    }

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
