//! What sysctls were before netd changed them. A boot sets them anew, so that they are kept like endpoints; not in the
//! database, for whoever forgets that this host was no router makes it one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::Error;

use super::records::Records;

/// The name of the one record.
const NAME: &str = "changed";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    /// Of which boot (`/proc/sys/kernel/random/boot_id`).
    boot: String,
    before: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Sysctls {
    records: Records,
    known: Mutex<Changed>,
}

impl Sysctls {
    pub fn open(folder: PathBuf) -> Result<Self, Error> {
        let records = Records::open(folder, false)?;
        let known = records.all(|_: &Changed| NAME)?.pop().unwrap_or_default();
        Ok(Self {
            records,
            known: Mutex::new(known),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Changed)) -> Result<(), Error> {
        let mut known = self.lock();
        let mut after = known.clone();
        change(&mut after);
        if after != *known {
            self.records.put(NAME, &after)?;
            *known = after;
        }
        Ok(())
    }

    /// What was so in an earlier boot is not so any more.
    pub fn begin_boot(&self, boot: &str) -> Result<(), Error> {
        self.change(|changed| {
            if changed.boot != boot {
                changed.before.clear();
                boot.clone_into(&mut changed.boot);
            }
        })
    }

    /// Takes over what an earlier version kept elsewhere.
    pub fn adopt(&self, boot: String, before: BTreeMap<String, String>) -> Result<(), Error> {
        self.change(|changed| {
            if changed.before.is_empty() {
                *changed = Changed { boot, before };
            }
        })
    }

    /// The first memory counts: an older value is the host's own.
    pub fn remember(&self, name: &str, before: &str) -> Result<(), Error> {
        self.change(|changed| {
            let known = changed.before.entry(name.to_owned());
            known.or_insert_with(|| before.to_owned());
        })
    }

    pub fn all(&self) -> Vec<(String, String)> {
        self.lock().before.clone().into_iter().collect()
    }

    pub fn forget(&self) -> Result<(), Error> {
        self.change(|changed| changed.before.clear())
    }

    pub fn damaged(&self) -> Vec<PathBuf> {
        self.records.damaged()
    }
}
