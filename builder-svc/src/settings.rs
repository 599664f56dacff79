//! `builder.toml`.

use std::time::Duration;

use anyhow::Context as _;
use slipway_service::{Address, Paths};

use crate::{history::Limits, worker::Entitlement};

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
    /// Most bytes of layers that the build cache keeps; beyond it those go that were not used for the longest
    /// time. 0 = no limit.
    pub cache_bytes: u64,
    /// Builds that `builder history` remembers, and most bytes of their logs.
    pub history_builds: usize,
    /// See above.
    pub history_bytes: u64,
    /// Seconds after which a worker takes back what a build has there that it does not hear of any more.
    pub worker_lease_seconds: u64,
    /// Networks inside of the host or the site that ADD and contexts may be fetched from.
    pub fetch_allow: Vec<ipnet::IpNet>,
    /// Most bytes that one URL may give.
    pub fetch_max_bytes: u64,
    /// What builds may ask for with --allow: "network.host", "security.insecure".
    pub entitlements: Vec<String>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            registry: None,
            worker: None,
            content_bytes: 2 << 30,
            cache_bytes: 20 << 30,
            history_builds: 200,
            history_bytes: 256 << 20,
            worker_lease_seconds: 60,
            fetch_allow: Vec::new(),
            fetch_max_bytes: 16 << 30,
            // As dockerd's.
            entitlements: vec![Entitlement::NetworkHost.name().to_owned()],
        }
    }
}

impl File {
    /// registry-svc's address.
    pub fn registry_address(&self, paths: &Paths) -> Address {
        let own = self.registry.clone();
        own.unwrap_or_else(|| Address::Unix(paths.socket_of("registry")))
    }

    /// How much of the past is kept.
    pub const fn history(&self) -> Limits {
        Limits {
            builds: self.history_builds,
            bytes: self.history_bytes,
        }
    }

    /// How long a lease lives that is not renewed. The worker allows no more than an hour.
    pub fn worker_lease(&self) -> anyhow::Result<Duration> {
        match self.worker_lease_seconds {
            seconds @ 3..=3600 => Ok(Duration::from_secs(seconds)),
            other => anyhow::bail!("worker_lease_seconds = {other}: it goes from 3 to 3600"),
        }
    }

    /// What builds may ask for.
    pub fn grants(&self) -> anyhow::Result<Vec<Entitlement>> {
        let known = |name: &String| {
            Entitlement::from_name(name).with_context(|| {
                format!("entitlements: {name:?} is none: network.host and security.insecure are")
            })
        };
        self.entitlements.iter().map(known).collect()
    }

    /// The worker's address.
    pub fn worker_address(&self, paths: &Paths) -> Address {
        let own = self.worker.clone();
        own.unwrap_or_else(|| Address::Unix(paths.socket_of("runtime")))
    }
}
