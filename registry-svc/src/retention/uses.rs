//! When each manifest was used last: noted in memory at each pull, written to the index now and then.
//!
//! Nothing waits for the disk, so `kill -9` loses what was noted since. Whoever asks is then told that everything may
//! have been used until the service began again ([`Index::uses_known_since`]): nothing goes too early, some of it
//! goes later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use slipway_image::Digest;

use crate::{error::Result, names::Repository, registry::now, store::Index};

/// What was used so recently may be in the middle of a pull: retention leaves it alone.
pub const RECENT: Duration = Duration::from_secs(3600);

/// A use so soon after the one that is written down is not written down.
const COARSE: Duration = Duration::from_secs(3600);

/// See the module's page.
pub struct Uses {
    index: Arc<Index>,
    /// Unix milliseconds, of what was used within [`RECENT`].
    noted: Mutex<HashMap<Repository, HashMap<Digest, u64>>>,
}

impl Uses {
    /// Of the manifests in this index.
    pub fn new(index: Arc<Index>) -> Self {
        Self {
            index,
            noted: Mutex::default(),
        }
    }

    /// Somebody pulls a manifest.
    pub fn note(&self, repository: &Repository, digest: &Digest) {
        let now = now();
        let mut noted = self.noted();
        // Nothing is copied but at the first time.
        if !noted.contains_key(repository) {
            noted.insert(repository.clone(), HashMap::new());
        }
        let of = noted.get_mut(repository).expect("it was put there");
        match of.get_mut(digest) {
            Some(at) => *at = now,
            None => drop(of.insert(digest.clone(), now)),
        }
    }

    /// When a manifest was used last, Unix milliseconds; when that is not known, the latest that it may have been.
    pub fn last(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        let noted = self
            .noted()
            .get(repository)
            .and_then(|of| of.get(digest))
            .copied();
        let written = self.index.last_use(repository, digest)?;
        let lost = self.index.uses_known_since()?;
        Ok(noted.max(written).unwrap_or(0).max(lost))
    }

    /// Writes down what is worth it, or at the end of the service all.
    pub fn write(&self, all: bool) -> Result<()> {
        // Copied: pulls do not wait for the index.
        let noted: Vec<(Repository, Vec<(Digest, u64)>)> = self
            .noted()
            .iter()
            .map(|(r, of)| {
                (
                    r.clone(),
                    of.iter().map(|(d, at)| (d.clone(), *at)).collect(),
                )
            })
            .collect();
        for (repository, of) in noted {
            for (digest, at) in of {
                let written = self.index.last_use(&repository, &digest)?.unwrap_or(0);
                let coarse = !all && at.saturating_sub(written) < COARSE.as_millis() as u64;
                // One that was removed since has none.
                if !coarse && self.index.manifest(&repository, &digest)?.is_some() {
                    self.index.set_last_use(&repository, &digest, at)?;
                }
            }
        }
        let recent = now().saturating_sub(RECENT.as_millis() as u64);
        self.noted().retain(|_, of| {
            of.retain(|_, at| *at > recent);
            !of.is_empty()
        });
        Ok(())
    }

    fn noted(&self) -> MutexGuard<'_, HashMap<Repository, HashMap<Digest, u64>>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
