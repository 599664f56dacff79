//! `builder.toml`.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use slipway_service::{
    Address, Paths,
    client::{self, ConnectError, Patience},
    tls::TlsFiles,
};
use tonic::transport::Channel;

use crate::{
    history::Limits,
    worker::{
        Entitlement, Worker,
        fleet::{MOST, Member},
    },
};

/// This service's own part of the file.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where registry-svc is; default: its socket in the run folder.
    pub registry: Option<Address>,
    /// Certificate that is shown to it, its key, and the authority that its own is from (PEM).
    pub registry_tls: Option<TlsFiles>,
    /// The runtime-svc that runs steps; default: its socket in the run folder.
    pub worker: Option<Address>,
    /// Instead, several of them: steps are spread over all.
    pub workers: Vec<WorkerFile>,
    /// Seconds without a word after which a worker counts as lost.
    pub worker_timeout_seconds: u64,
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
    /// The only hosts that repositories are fetched from over ssh, as sshd(8) has them; without it each host is
    /// believed the first time.
    pub ssh_known_hosts: Option<PathBuf>,
    /// What builds may ask for with --allow: "network.host", "security.insecure".
    pub entitlements: Vec<String>,
}

/// One of several workers. All use the same registry-svc.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerFile {
    /// Where it is.
    pub address: Address,
    /// How many steps it does at once; default: as many as it has processors, and four at least.
    #[serde(default)]
    pub steps: Option<usize>,
    /// What it can run, `["linux/arm64"]`; default: as it says.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Certificate that is shown to it, its key, and the authority that its own is from (PEM).
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// See above.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// See above.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// List of what that authority has revoked (PEM).
    #[serde(default)]
    pub tls_crl: Option<PathBuf>,
}

impl WorkerFile {
    fn member(&self, lease: Duration, patience: &Patience) -> anyhow::Result<Member> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                ca: self.tls_ca.clone(),
                crl: self.tls_crl.clone(),
            }),
            (None, None) if self.tls_ca.is_none() && self.tls_crl.is_none() => None,
            _ => anyhow::bail!("tls_cert and tls_key go together, tls_ca and tls_crl with both"),
        };
        if self.steps == Some(0) {
            anyhow::bail!("steps = 0: a worker does one at least");
        }
        let platforms = self.platforms.iter().map(|p| p.parse());
        Ok(Member {
            name: self.address.to_string(),
            worker: Worker::new(
                client::connect_with(&self.address, tls.as_ref(), patience)?,
                lease,
            ),
            steps: self.steps,
            platforms: platforms.collect::<Result<_, _>>()?,
        })
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            registry: None,
            registry_tls: None,
            worker: None,
            workers: Vec::new(),
            worker_timeout_seconds: 30,
            content_bytes: 2 << 30,
            cache_bytes: 20 << 30,
            history_builds: 200,
            history_bytes: 256 << 20,
            worker_lease_seconds: 60,
            fetch_allow: Vec::new(),
            fetch_max_bytes: 16 << 30,
            ssh_known_hosts: None,
            // As dockerd's.
            entitlements: vec![Entitlement::NetworkHost.name().to_owned()],
        }
    }
}

impl File {
    /// A connection to registry-svc.
    pub fn registry(&self, paths: &Paths) -> Result<Channel, ConnectError> {
        let own = self.registry.clone();
        let address = own.unwrap_or_else(|| Address::Unix(paths.socket_of("registry")));
        client::connect(&address, self.registry_tls.as_ref())
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

    /// The workers.
    pub fn members(&self, paths: &Paths) -> anyhow::Result<Vec<Member>> {
        let lease = self.worker_lease()?;
        let patience = match self.worker_timeout_seconds {
            seconds @ 2..=3600 => Patience::of(Duration::from_secs(seconds)),
            other => anyhow::bail!("worker_timeout_seconds = {other}: it goes from 2 to 3600"),
        };
        if self.worker.is_some() && !self.workers.is_empty() {
            anyhow::bail!("worker and workers are both there: name all of them in workers");
        }
        if self.workers.len() > MOST {
            anyhow::bail!("there are more than {MOST} workers");
        }
        for (number, worker) in self.workers.iter().enumerate() {
            let same = |other: &WorkerFile| other.address == worker.address;
            if self.workers[..number].iter().any(same) {
                anyhow::bail!("the worker {} is there twice", worker.address);
            }
        }
        let only = || WorkerFile {
            address: self
                .worker
                .clone()
                .unwrap_or_else(|| Address::Unix(paths.socket_of("runtime"))),
            steps: None,
            platforms: Vec::new(),
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            tls_crl: None,
        };
        let all = match self.workers.is_empty() {
            true => vec![only()],
            false => self.workers.clone(),
        };
        let member = |worker: &WorkerFile| {
            worker
                .member(lease, &patience)
                .with_context(|| format!("the worker {}", worker.address))
        };
        all.iter().map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(json: &str) -> anyhow::Result<Vec<Member>> {
        let file: File = serde_json::from_str(json)?;
        file.members(&Paths::from_env())
    }

    #[tokio::test]
    async fn one_worker_or_several() {
        let names = |json: &str| -> Vec<String> {
            let all = members(json).unwrap();
            all.into_iter().map(|m| m.name).collect()
        };
        assert!(names("{}")[0].ends_with("runtime.sock"));
        assert_eq!(names(r#"{"worker": "tcp://a:1"}"#), ["tcp://a:1"]);
        let two = r#"{"workers": [{"address": "unix:///a", "steps": 2}, {"address": "tcp://b:1", "platforms": ["linux/arm64"]}]}"#;
        assert_eq!(names(two), ["unix:///a", "tcp://b:1"]);
        for (wrong, sentence) in [
            (
                r#"{"worker": "unix:///a", "workers": [{"address": "unix:///b"}]}"#,
                "both",
            ),
            (
                r#"{"workers": [{"address": "unix:///a"}, {"address": "unix:///a"}]}"#,
                "twice",
            ),
            (
                r#"{"workers": [{"address": "unix:///a", "steps": 0}]}"#,
                "steps = 0",
            ),
            (
                r#"{"workers": [{"address": "unix:///a", "platforms": ["x/y/z/w"]}]}"#,
                "invalid platform",
            ),
            (
                r#"{"workers": [{"address": "tcp://a:1", "tls_key": "/k"}]}"#,
                "go together",
            ),
            (r#"{"worker_timeout_seconds": 1}"#, "from 2 to 3600"),
        ] {
            let error = members(wrong)
                .err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default();
            assert!(error.contains(sentence), "{wrong}: {error}");
        }
    }
}
