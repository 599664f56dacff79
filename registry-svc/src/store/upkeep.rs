//! What upkeep needs of the index: when manifests were used, and whether the index is what the service left.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use slipway_image::Digest;

use super::{Index, ManifestRecord, get, key, put, split};
use crate::{error::Result, names::Repository};

impl Index {
    /// Remembers when a manifest was used last, Unix milliseconds.
    pub fn set_last_use(&self, repository: &Repository, digest: &Digest, at: u64) -> Result<()> {
        put(
            &self.uses,
            &key(&[repository.as_str(), &digest.to_string()]),
            &at,
        )
    }

    /// When a manifest was used last, as far as it was noted, Unix milliseconds.
    pub fn last_use(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
        get(
            &self.uses,
            &key(&[repository.as_str(), &digest.to_string()]),
        )
    }

    /// Since when all uses are noted, Unix milliseconds. Before that some may have been lost.
    pub fn uses_known_since(&self) -> Result<u64> {
        Ok(get(&self.db, b"uses-known-since")?.unwrap_or(0))
    }

    /// Uses may have been lost until now.
    pub fn set_uses_known_since(&self, at: u64) -> Result<()> {
        put(&self.db, b"uses-known-since", &at)
    }

    /// The name of its last clean end, if it had one: an older copy of the folder has another one.
    pub fn last_end(&self) -> Result<Option<String>> {
        get(&self.db, b"ended")
    }

    /// It is about to end, under this name.
    pub fn set_last_end(&self, name: &str) -> Result<()> {
        put(&self.db, b"ended", &name)
    }

    /// Tells of all manifests of all repositories, in the order of their repositories and digests.
    pub fn each_manifest(
        &self,
        mut tell: impl FnMut(Repository, Digest, ManifestRecord) -> Result<()>,
    ) -> Result<()> {
        for entry in &self.manifests {
            let (k, v) = entry?;
            if let (Some([repository, digest]), Ok(record)) =
                (split(&k), serde_json::from_slice(&v))
                && let Ok(digest) = digest.parse()
            {
                tell(Repository::from_key(repository)?, digest, record)?;
            }
        }
        Ok(())
    }

    /// Tells of each manifest what it names, itself too: blob, repository, manifest; in the order of the blobs.
    pub fn each_reference(&self, mut tell: impl FnMut(&str, &str, &str)) -> Result<()> {
        for k in self.refs.iter().keys() {
            if let Some([blob, repository, manifest]) = split(&k?) {
                tell(blob, repository, manifest);
            }
        }
        Ok(())
    }

    /// Tells of each manifest that is about another one: repository, the other one, itself.
    pub fn each_referrer(&self, mut tell: impl FnMut(&str, &str, &str)) -> Result<()> {
        for k in self.referrers.iter().keys() {
            if let Some([repository, subject, referrer]) = split(&k?) {
                tell(repository, subject, referrer);
            }
        }
        Ok(())
    }

    /// The manifests of a repository.
    pub fn manifests_of(&self, repository: &Repository) -> Result<Vec<(Digest, ManifestRecord)>> {
        let mut found = Vec::new();
        for entry in self.manifests.scan_prefix(key(&[repository.as_str(), ""])) {
            let (k, v) = entry?;
            if let (Some([_, digest]), Ok(record)) = (split(&k), serde_json::from_slice(&v))
                && let Ok(digest) = digest.parse()
            {
                found.push((digest, record));
            }
        }
        Ok(found)
    }

    /// Something happened to a blob, or to who names it: it came, went, or was named. To be called afterwards.
    pub fn touch(&self, digest: &Digest) {
        self.touched.note(digest);
    }

    /// Notes from now on what happens to blobs. Returns what was noted until now; `None` when nobody watched, or too
    /// much happened.
    pub fn watch(&self) -> Option<Vec<Digest>> {
        let before = self.touched.lock().replace(HashSet::new());
        before.map(|noted| noted.into_iter().collect())
    }

    /// Notes nothing any more.
    pub fn unwatch(&self) {
        *self.touched.lock() = None;
    }
}

/// Blobs that something happened to since somebody looked.
#[derive(Default)]
pub(super) struct Touched(Mutex<Option<HashSet<Digest>>>);

/// More blobs than these are not noted one by one: then all of them are looked at.
const MOST: usize = 50_000;

impl Touched {
    fn note(&self, digest: &Digest) {
        let mut noted = self.lock();
        match &mut *noted {
            Some(digests) if digests.len() < MOST => drop(digests.insert(digest.clone())),
            full => *full = None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashSet<Digest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
