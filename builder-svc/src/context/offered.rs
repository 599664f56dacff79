//! Manifests that callers sent before, by a digest of what they sent: a context that did not change is neither
//! sent nor read again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Manifest;

/// SHA-256 of a manifest as it is sent. Always computed here from what came: who says what it is does not decide
/// what others are given for it.
pub type ManifestDigest = [u8; 32];

/// Most entries that are kept in all; each takes some 300 bytes.
const MOST: usize = 65_536;
/// How long one is kept that nobody asks for.
const REST: Duration = Duration::from_secs(600);

/// What is kept. In memory only: a caller that offers what is not here is asked for it.
#[derive(Default)]
pub struct Offered {
    known: Mutex<HashMap<ManifestDigest, Known>>,
}

struct Known {
    manifest: Arc<Manifest>,
    used: Instant,
}

impl Offered {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ManifestDigest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of this digest, if it is here.
    pub fn find(&self, digest: &ManifestDigest) -> Option<Arc<Manifest>> {
        let mut known = self.lock();
        let found = known.get_mut(digest)?;
        found.used = Instant::now();
        Some(found.manifest.clone())
    }

    /// Keeps a manifest in place of those that were not used for longest; one that is larger than all that may be
    /// kept is not. The first one has somebody see to it that it is forgotten.
    pub fn keep(self: &Arc<Self>, digest: ManifestDigest, manifest: Arc<Manifest>) {
        if manifest.len() > MOST {
            return;
        }
        let mut known = self.lock();
        if known.is_empty() {
            tokio::spawn(self.clone().forget());
        }
        let used = Instant::now();
        known.insert(digest, Known { manifest, used });
        while known.values().map(|k| k.manifest.len()).sum::<usize>() > MOST {
            let oldest = known.iter().min_by_key(|(_, k)| k.used);
            let Some(oldest) = oldest.map(|(digest, _)| *digest) else {
                break;
            };
            known.remove(&oldest);
        }
    }

    /// Forgets those that nobody asked for in ten minutes, until there are none.
    async fn forget(self: Arc<Self>) {
        let mut next = Instant::now() + REST;
        loop {
            tokio::time::sleep_until(next).await;
            match self.forget_unused(Instant::now()) {
                Some(then) => next = then,
                None => break,
            }
        }
        slipway_service::give_back();
    }

    /// When there will be something to forget again.
    fn forget_unused(&self, now: Instant) -> Option<Instant> {
        let mut known = self.lock();
        known.retain(|_, k| k.used + REST > now);
        known.values().map(|k| k.used + REST).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Entry, Kind};

    fn manifest(entries: usize) -> Arc<Manifest> {
        let mut manifest = Manifest::default();
        for number in 0..entries {
            let entry = Entry {
                kind: Kind::Folder,
                mode: 0o755,
                mtime: 0,
                same: 0,
                capability: None,
            };
            manifest.insert(&number.to_string(), entry).unwrap();
        }
        Arc::new(manifest)
    }

    #[tokio::test]
    async fn what_was_used_last_is_kept_within_the_limit() {
        let offered = Arc::new(Offered::default());
        offered.keep([1; 32], manifest(MOST / 2));
        offered.keep([2; 32], manifest(MOST / 2));
        assert_eq!(offered.find(&[1; 32]).unwrap().len(), MOST / 2);
        offered.keep([3; 32], manifest(1));
        assert!(offered.find(&[2; 32]).is_none());
        assert!(offered.find(&[1; 32]).is_some() && offered.find(&[3; 32]).is_some());
        offered.keep([4; 32], manifest(MOST + 1));
        assert!(offered.find(&[4; 32]).is_none() && offered.find(&[1; 32]).is_some());
    }

    #[tokio::test]
    async fn what_nobody_asks_for_is_forgotten() {
        let offered = Arc::new(Offered::default());
        offered.keep([1; 32], manifest(1));
        let then = offered.forget_unused(Instant::now()).unwrap();
        offered.keep([2; 32], manifest(1));
        let later = offered.forget_unused(then).unwrap();
        assert!(later > then && offered.find(&[1; 32]).is_none());
        assert!(offered.find(&[2; 32]).is_some());
        assert_eq!(offered.forget_unused(Instant::now() + REST), None);
        assert!(offered.find(&[2; 32]).is_none());
    }
}
