//! `runtime.toml`.

use std::collections::HashMap;

use anyhow::Context as _;
use slipway_image::layer::limits::Limits;
use slipway_proto::runtime::v1::LogConfig;
use slipway_service::{
    Address, Paths,
    client::{self, ConnectError},
    tls::TlsFiles,
};
use tonic::transport::Channel;

use crate::{
    collect,
    container::userns::UserNamespaces,
    error::Error,
    logs::config::{self, Defaults},
    worker,
};

/// This service's own part of the file.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where registry-svc is; default: its socket in the run folder.
    pub registry: Option<Address>,
    /// Certificate that is shown to it, its key, and the authority that its own is from (PEM).
    pub registry_tls: Option<TlsFiles>,
    /// Where netd is; default: its socket in the run folder.
    pub netd: Option<Address>,
    /// Certificate that is shown to it, its key, and the authority that its own is from (PEM).
    pub netd_tls: Option<TlsFiles>,
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
    /// Most room that unpacked layers may take: "20g". Beyond it those go that were used longest ago.
    pub layers_max_bytes: Option<String>,
    /// Room that has to stay free on their file system, "10%" or "20g"; the same happens when there is less.
    pub layers_min_free: Option<String>,
    /// Most snapshots of one lease: of one build, that is.
    pub lease_max_snapshots: Option<usize>,
    /// Most room that the snapshots of one lease may take: "20g".
    pub lease_max_bytes: Option<String>,
    /// Most room that the cache mounts of builds may take: "20g". Beyond it those go that were used longest ago.
    pub cache_mounts_max_bytes: Option<String>,
    /// Most content of one layer: "256g".
    pub unpack_max_bytes: Option<String>,
    /// Most files, folders and links of one layer.
    pub unpack_max_entries: Option<u64>,
    /// How many times its size a layer may unpack to, beyond the first gigabyte; 0: any.
    pub unpack_max_ratio: Option<u64>,
    /// Largest window of zstd, which costs as much memory for each layer on its way: "128m".
    pub unpack_zstd_window: Option<String>,
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

    /// How much room unpacked layers may take.
    pub fn layer_limits(&self) -> anyhow::Result<collect::Limits> {
        let free = match &self.layers_min_free {
            None => None,
            Some(text) => Some(free(text).with_context(|| format!("layers_min_free = {text:?}"))?),
        };
        Ok(collect::Limits {
            bytes: bytes("layers_max_bytes", self.layers_max_bytes.as_deref())?,
            free,
        })
    }

    /// How much a build may have here.
    pub fn lease_limits(&self) -> anyhow::Result<worker::Limits> {
        let default = worker::Limits::default();
        Ok(worker::Limits {
            snapshots: self.lease_max_snapshots.unwrap_or(default.snapshots),
            bytes: bytes("lease_max_bytes", self.lease_max_bytes.as_deref())?,
        })
    }

    /// How much room cache mounts may take.
    pub fn cache_mounts(&self) -> anyhow::Result<u64> {
        let own = bytes(
            "cache_mounts_max_bytes",
            self.cache_mounts_max_bytes.as_deref(),
        )?;
        Ok(own.unwrap_or(worker::caches::MAX_BYTES))
    }

    /// What is the most that a layer may be.
    pub fn unpack_limits(&self) -> anyhow::Result<Limits> {
        let default = Limits::default();
        let window = bytes("unpack_zstd_window", self.unpack_zstd_window.as_deref())?;
        if window.is_some_and(|window| !(1000..=1 << 31).contains(&window)) {
            anyhow::bail!("unpack_zstd_window goes from 1k to 2g");
        }
        Ok(Limits {
            entries: self.unpack_max_entries.unwrap_or(default.entries),
            bytes: bytes("unpack_max_bytes", self.unpack_max_bytes.as_deref())?
                .unwrap_or(default.bytes),
            ratio: self.unpack_max_ratio.unwrap_or(default.ratio),
            // zstd's windows are hardly ever anything else than powers of two.
            zstd_window_log: window.map_or(default.zstd_window_log, |w| {
                w.next_power_of_two().trailing_zeros()
            }),
        })
    }

    /// A connection to registry-svc.
    pub fn registry(&self, paths: &Paths) -> Result<Channel, ConnectError> {
        let own = self.registry.clone();
        let address = own.unwrap_or_else(|| Address::Unix(paths.socket_of("registry")));
        client::connect(&address, self.registry_tls.as_ref())
    }

    /// Which ids containers get.
    pub fn user_namespaces(&self) -> anyhow::Result<UserNamespaces> {
        UserNamespaces::new(self.userns_remap.as_deref(), self.userns_pool.as_deref())
            .map_err(anyhow::Error::msg)
    }

    /// A connection to netd.
    pub fn netd(&self, paths: &Paths) -> Result<Channel, ConnectError> {
        let own = self.netd.clone();
        let address = own.unwrap_or_else(|| Address::Unix(paths.socket_of("netd")));
        client::connect(&address, self.netd_tls.as_ref())
    }
}

fn bytes(name: &str, text: Option<&str>) -> anyhow::Result<Option<u64>> {
    let parse = |text| config::size(text).with_context(|| format!("{name} = {text:?}"));
    text.map(parse).transpose()
}

fn free(text: &str) -> anyhow::Result<collect::Free> {
    match text.strip_suffix('%') {
        None => Ok(collect::Free::Bytes(config::size(text)?)),
        Some(percent) => match percent.trim().parse() {
            Ok(percent @ 0..100) => Ok(collect::Free::Percent(percent)),
            _ => anyhow::bail!("a percentage goes from 0% to 99%"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_layers_and_leases() {
        let parse = |text: &str| toml_like(text).layer_limits();
        let limits = parse(r#"{"layers_max_bytes": "20g", "layers_min_free": "10%"}"#).unwrap();
        assert_eq!(limits.bytes, Some(20_000_000_000));
        assert_eq!(limits.free, Some(collect::Free::Percent(10)));
        let limits = parse(r#"{"layers_min_free": "512m"}"#).unwrap();
        assert_eq!(limits.free, Some(collect::Free::Bytes(512_000_000)));
        for wrong in ["100%", "x%", "many"] {
            let text = format!(r#"{{"layers_min_free": "{wrong}"}}"#);
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains("layers_min_free"), "{error}");
        }
        let leases = toml_like(r#"{"lease_max_snapshots": 3, "lease_max_bytes": "1m"}"#);
        let limits = leases.lease_limits().unwrap();
        assert_eq!((limits.snapshots, limits.bytes), (3, Some(1_000_000)));
    }

    #[test]
    fn what_a_layer_may_be() {
        let limits = toml_like("{}").unpack_limits().unwrap();
        assert_eq!(limits, Limits::default());
        let json =
            r#"{"unpack_max_bytes": "1g", "unpack_max_ratio": 0, "unpack_zstd_window": "128m"}"#;
        let limits = toml_like(json).unpack_limits().unwrap();
        assert_eq!(
            (limits.bytes, limits.ratio, limits.zstd_window_log),
            (1_000_000_000, 0, 27)
        );
        for wrong in ["4g", "1", "wide"] {
            let limits =
                toml_like(&format!(r#"{{"unpack_zstd_window": "{wrong}"}}"#)).unpack_limits();
            let error = format!("{:#}", limits.unwrap_err());
            assert!(error.contains("unpack_zstd_window"), "{error}");
        }
    }

    fn toml_like(json: &str) -> File {
        serde_json::from_str(json).unwrap()
    }
}
