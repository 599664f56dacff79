//! What netd remembers: networks, endpoints and changed sysctls as small files, the prefix of this host's unique local
//! addresses in sled.
//!
//! A network is what its user is told that it is, so that it must survive whatever happens to others' records.
//!
//! An endpoint lives as long as a network namespace does: it must survive `kill -9` of netd, and can
//! not survive a reboot. So its record goes to the run folder (a tmpfs that a reboot empties along
//! with the namespaces), by write and rename: in the page cache once the call returns, which is all
//! that a kill leaves intact and all that is needed, without an fsync on the way of every `run`.
//! sled would keep a new record in its own memory for up to half a second.

mod database;
mod key;
mod records;
mod sysctls;

use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;

use crate::endpoint::Endpoint;
use crate::error::{Doing, Error};
use crate::id::{EndpointId, NetworkId};
use crate::ipam::ula;
use crate::network::Network;
use crate::overlay::PrivateKey;

use key::KeyFile;
use records::Records;
use sysctls::Sysctls;

/// netd's memory.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    sysctls: Sysctls,
    networks: Records,
    endpoints: Records,
    key: KeyFile,
    /// Where the database is.
    path: PathBuf,
}

impl Store {
    /// Opens (or makes) the store: `state` is durable, `run` lives until the next boot.
    pub fn open(state: &Path, run: &Path) -> Result<Self, Error> {
        let path = state.join("db");
        let db = match database::open(&path) {
            Err(error) if database::is_damaged(&error) => {
                let aside = records::put_aside(&path)?;
                tracing::error!(%error, path = %aside.display(),
                    "netd's database cannot be read: it is put aside, and the next network with IPv6 has another prefix");
                database::open(&path)?
            }
            opened => opened?,
        };
        let networks = Records::open(state.join("networks"), true)?;
        // Versions before this one kept them here.
        for entry in &db.open_tree("networks")? {
            let (key, value) = entry?;
            networks.put_bytes(&String::from_utf8_lossy(&key), &value)?;
        }
        db.drop_tree("networks")?;
        let sysctls = Sysctls::open(run.join("sysctls"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(boot) = db.get("boot")? {
            let before = db.open_tree("sysctls")?;
            let before = before.iter().map(|entry| {
                let (name, value) = entry?;
                Ok((text(&name), text(&value)))
            });
            sysctls.adopt(text(&boot), before.collect::<Result<_, Error>>()?)?;
            db.drop_tree("sysctls")?;
            db.remove("boot")?;
        }
        db.flush()?;
        Ok(Self {
            networks,
            endpoints: Records::open(run.join("endpoints"), false)?,
            sysctls,
            key: KeyFile::at(state.join("wireguard.key")),
            db,
            path,
        })
    }

    /// What could not be read, each with what to do.
    pub fn warnings(&self) -> Vec<String> {
        let mut damaged = self.networks.damaged();
        damaged.extend(self.endpoints.damaged());
        damaged.extend(self.sysctls.damaged());
        damaged.extend(records::aside_of(&self.path));
        let told = damaged.iter().map(|path| {
            format!(
                "{} could not be read and was put aside: make again what it was, and remove it",
                path.display()
            )
        });
        told.collect()
    }

    /// All networks.
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        self.networks.all(|network: &Network| network.id.as_str())
    }

    /// Remembers a network; it survives power loss when this returns.
    pub fn put_network(&self, network: &Network) -> Result<(), Error> {
        self.networks.put(network.id.as_str(), network)
    }

    /// Forgets a network.
    pub fn remove_network(&self, id: &NetworkId) -> Result<(), Error> {
        let removed = self.networks.remove(id.as_str());
        removed.doing(|| format!("remove the record of network {id}"))
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

    /// This host's key on networks that are encrypted: made at the first need, and kept.
    pub fn key(&self) -> Result<PrivateKey, Error> {
        self.key.key()
    }

    /// What was remembered of sysctls in an earlier boot (`/proc/sys/kernel/random/boot_id`) is not so any more.
    pub fn begin_boot(&self, boot: &str) -> Result<(), Error> {
        self.sysctls.begin_boot(boot)
    }

    /// Remembers what a sysctl was before we changed it; the first memory counts. It survives `kill -9` when this returns.
    pub fn remember_sysctl(&self, name: &str, before: &str) -> Result<(), Error> {
        self.sysctls.remember(name, before)
    }

    /// The sysctls that we changed, with their former values.
    pub fn sysctls(&self) -> Vec<(String, String)> {
        self.sysctls.all()
    }

    /// Forgets the sysctls, after they have been put back.
    pub fn forget_sysctls(&self) -> Result<(), Error> {
        self.sysctls.forget()
    }

    /// All endpoints. The veth pair of one whose record cannot be read is an orphan, which reconciliation takes away.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        self.endpoints
            .all(|endpoint: &Endpoint| endpoint.id.as_str())
    }

    /// Remembers an endpoint; it survives `kill -9` when this returns.
    pub fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.endpoints.put(endpoint.id.as_str(), endpoint)
    }

    /// Forgets an endpoint.
    pub fn remove_endpoint(&self, id: &EndpointId) -> Result<(), Error> {
        let removed = self.endpoints.remove(id.as_str());
        removed.doing(|| format!("remove the record of endpoint {id}"))
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

#[cfg(test)]
mod tests;
