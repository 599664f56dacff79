//! What netd remembers: networks and changed sysctls in sled, endpoints as one small file each.
//!
//! An endpoint lives as long as a network namespace does: it must survive `kill -9` of netd, and can
//! not survive a reboot. So its record goes to the run folder (a tmpfs that a reboot empties along
//! with the namespaces), by write and rename: in the page cache once the call returns, which is all
//! that a kill leaves intact and all that is needed, without an fsync on the way of every `run`.
//! sled would keep a new record in its own memory for up to half a second.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;

use crate::endpoint::Endpoint;
use crate::error::{Doing, Error};
use crate::id::{EndpointId, NetworkId};
use crate::ipam::ula;
use crate::network::Network;

/// netd's memory.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    networks: sled::Tree,
    sysctls: sled::Tree,
    endpoints: PathBuf,
}

impl Store {
    /// Opens (or makes) the store: `state` is durable, `run` lives until the next boot.
    pub fn open(state: &Path, run: &Path) -> Result<Self, Error> {
        let db = sled::Config::new()
            .path(state.join("db"))
            // A few records: the default cache would only grow the process.
            .cache_capacity(1 << 20)
            .segment_size(64 << 10)
            .flush_every_ms(None)
            .open()?;
        let endpoints = run.join("endpoints");
        fs::create_dir_all(&endpoints).doing(|| format!("make {}", endpoints.display()))?;
        Ok(Self {
            networks: db.open_tree("networks")?,
            sysctls: db.open_tree("sysctls")?,
            db,
            endpoints,
        })
    }

    /// All networks.
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        self.networks
            .iter()
            .map(|entry| {
                let (key, value) = entry?;
                parse(&value, || {
                    format!("network {}", String::from_utf8_lossy(&key))
                })
            })
            .collect()
    }

    /// Remembers a network; it survives power loss when this returns.
    pub fn put_network(&self, network: &Network) -> Result<(), Error> {
        self.networks
            .insert(network.id.as_str(), encode(network, &network.name)?)?;
        self.db.flush()?;
        Ok(())
    }

    /// Forgets a network.
    pub fn remove_network(&self, id: &NetworkId) -> Result<(), Error> {
        self.networks.remove(id.as_str())?;
        self.db.flush()?;
        Ok(())
    }

    /// The prefix of this host's unique local addresses: chosen at the first need, and kept.
    pub fn ula_prefix(&self) -> Result<Ipv6Net, Error> {
        const KEY: &str = "ula";
        if let Some(known) = self.db.get(KEY)? {
            return parse(&known, || "the prefix of unique local addresses".to_owned());
        }
        let prefix = ula::random_prefix();
        self.db.insert(KEY, encode(&prefix, KEY)?)?;
        self.db.flush()?;
        Ok(prefix)
    }

    /// What was remembered of sysctls in an earlier boot (`/proc/sys/kernel/random/boot_id`) is not so any more.
    pub fn begin_boot(&self, boot: &str) -> Result<(), Error> {
        if self.db.get("boot")?.is_none_or(|known| known != boot) {
            self.sysctls.clear()?;
            self.db.insert("boot", boot)?;
            self.db.flush()?;
        }
        Ok(())
    }

    /// Remembers what a sysctl was before we changed it; the first memory counts.
    pub fn remember_sysctl(&self, name: &str, before: &str) -> Result<(), Error> {
        // An Err here means that an older value is remembered: that one is the host's own.
        let _ = self
            .sysctls
            .compare_and_swap(name, None::<&[u8]>, Some(before))?;
        self.db.flush()?;
        Ok(())
    }

    /// The sysctls that we changed, with their former values.
    pub fn sysctls(&self) -> Result<Vec<(String, String)>, Error> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.sysctls
            .iter()
            .map(|entry| {
                entry
                    .map(|(key, value)| (text(&key), text(&value)))
                    .map_err(Error::from)
            })
            .collect()
    }

    /// Forgets the sysctls, after they have been put back.
    pub fn forget_sysctls(&self) -> Result<(), Error> {
        self.sysctls.clear()?;
        self.db.flush()?;
        Ok(())
    }

    fn endpoint_path(&self, id: &EndpointId) -> PathBuf {
        self.endpoints.join(format!("{id}.json"))
    }

    /// All endpoints. A file that cannot be read as one is removed: its veth pair is then an orphan,
    /// which reconciliation takes away.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let folder = || format!("read {}", self.endpoints.display());
        let mut endpoints = Vec::new();
        for entry in fs::read_dir(&self.endpoints).doing(folder)? {
            let path = entry.doing(folder)?.path();
            let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
            match serde_json::from_slice::<Endpoint>(&bytes) {
                Ok(endpoint) if path == self.endpoint_path(&endpoint.id) => {
                    endpoints.push(endpoint);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "removing an unfinished record");
                    fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
                }
            }
        }
        Ok(endpoints)
    }

    /// Remembers an endpoint; it survives `kill -9` when this returns.
    pub fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let path = self.endpoint_path(&endpoint.id);
        let temporary = path.with_extension("new");
        let bytes = encode(endpoint, endpoint.id.as_str())?;
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .doing(|| format!("write {}", path.display()))
    }

    /// Forgets an endpoint.
    pub fn remove_endpoint(&self, id: &EndpointId) -> Result<(), Error> {
        match fs::remove_file(self.endpoint_path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).doing(|| format!("remove the record of endpoint {id}"))
            }
            _ => Ok(()),
        }
    }
}

fn encode(value: &impl serde::Serialize, what: &str) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|source| Error::Damaged {
        what: what.to_owned(),
        source,
    })
}

fn parse<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: impl FnOnce() -> String,
) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Damaged {
        what: what(),
        source,
    })
}
