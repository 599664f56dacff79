//! Manifests that callers sent before, by a digest of what they sent: a context that did not change is neither
//! sent nor read again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::Manifest;

/// SHA-256 of a manifest as it is sent. Always computed here from what came: who says what it is does not decide
/// what others are given for it. Who knows one may build with the files of its context, as who knows the digest of
/// a file may: neither is told to anybody, nor logged.
pub type ManifestDigest = [u8; 32];

/// Most bytes that all take, about.
const MOST_BYTES: usize = 24 << 20;
/// What an entry takes besides its name, and a manifest besides its entries.
const ENTRY_BYTES: usize = 256;
const MANIFEST_BYTES: usize = 4096;
/// How long one is kept that nobody asks for, at least; twice that at most.
const KEPT_UNUSED: Duration = Duration::from_secs(600);

/// What is kept. In memory only: a caller that offers what is not here is asked for it.
#[derive(Default)]
pub struct Offered(Mutex<State>);

#[derive(Default)]
struct State {
    known: HashMap<ManifestDigest, Known>,
    /// Those that are known by when they were used, counted in uses.
    by_use: BTreeMap<u64, ManifestDigest>,
    uses: u64,
    bytes: usize,
}

struct Known {
    manifest: Arc<Manifest>,
    used: Instant,
    /// In `by_use`.
    turn: u64,
}

impl Known {
    fn bytes(&self) -> usize {
        MANIFEST_BYTES + self.manifest.len() * ENTRY_BYTES + self.manifest.name_bytes()
    }
}

impl State {
    fn put(&mut self, digest: ManifestDigest, manifest: Arc<Manifest>, used: Instant) {
        self.uses += 1;
        let turn = self.uses;
        let known = Known {
            manifest,
            used,
            turn,
        };
        self.bytes += known.bytes();
        self.by_use.insert(turn, digest);
        self.known.insert(digest, known);
    }

    fn take(&mut self, digest: &ManifestDigest) -> Option<Arc<Manifest>> {
        let known = self.known.remove(digest)?;
        self.by_use.remove(&known.turn);
        self.bytes -= known.bytes();
        Some(known.manifest)
    }
}

impl Offered {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of this digest, if it is here.
    pub fn find(&self, digest: &ManifestDigest) -> Option<Arc<Manifest>> {
        let mut state = self.lock();
        let manifest = state.take(digest)?;
        state.put(*digest, manifest.clone(), Instant::now());
        Some(manifest)
    }

    /// Keeps a manifest in place of those that were not used for longest; one that is larger than all that may be
    /// kept is not.
    pub fn keep(&self, digest: ManifestDigest, manifest: Arc<Manifest>) {
        let mut state = self.lock();
        state.take(&digest);
        state.put(digest, manifest, Instant::now());
        while state.bytes > MOST_BYTES
            && let Some(oldest) = state.by_use.first_entry()
        {
            let oldest = *oldest.get();
            state.take(&oldest);
        }
    }

    /// Forgets those that nobody asks for, until there is no such place any more.
    pub async fn forget(place: Weak<Self>) {
        loop {
            tokio::time::sleep(KEPT_UNUSED).await;
            let Some(offered) = place.upgrade() else {
                return;
            };
            let forgetting = tokio::task::spawn_blocking(move || {
                if offered.forget_unused(Instant::now()) {
                    slipway_service::give_back();
                }
            });
            // It fails only when the service ends.
            let _ = forgetting.await;
        }
    }

    /// Whether there were any.
    fn forget_unused(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let old = state.known.iter();
        let old = old.filter(|(_, known)| known.used + KEPT_UNUSED <= now);
        let old: Vec<_> = old.map(|(digest, _)| *digest).collect();
        old.iter().for_each(|digest| drop(state.take(digest)));
        !old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Entry, Kind};

    /// Of that many entries with names of so many bytes.
    fn manifest(entries: usize, name: usize) -> Arc<Manifest> {
        let mut manifest = Manifest::default();
        for number in 0..entries {
            let entry = Entry {
                kind: Kind::Folder,
                mode: 0o755,
                mtime: 0,
                same: 0,
                capability: None,
            };
            manifest.insert(&format!("{number:0name$}"), entry).unwrap();
        }
        Arc::new(manifest)
    }

    #[test]
    fn what_was_used_last_is_kept_within_the_limit() {
        let offered = Offered::default();
        let half = manifest((MOST_BYTES / 2 - MANIFEST_BYTES) / 4096, 4096 - ENTRY_BYTES);
        offered.keep([1; 32], half.clone());
        offered.keep([2; 32], half.clone());
        assert_eq!(offered.find(&[1; 32]).unwrap().len(), half.len());
        offered.keep([3; 32], manifest(1, 1));
        assert!(offered.find(&[2; 32]).is_none());
        assert!(offered.find(&[1; 32]).is_some() && offered.find(&[3; 32]).is_some());
        // Again changes nothing.
        offered.keep([1; 32], half);
        assert!(offered.find(&[1; 32]).is_some() && offered.find(&[3; 32]).is_some());
        let state = offered.lock();
        assert_eq!((state.known.len(), state.by_use.len()), (2, 2));
        let bytes = state.known.values().map(Known::bytes).sum::<usize>();
        assert_eq!(state.bytes, bytes);
        drop(state);
        offered.keep([4; 32], manifest(MOST_BYTES / 4096, 4096));
        assert!(offered.find(&[4; 32]).is_none());
        assert_eq!(offered.lock().bytes, 0);
    }

    #[test]
    fn many_small_ones_go_in_no_time() {
        let offered = Offered::default();
        let one = manifest(1, 1);
        for number in 0_u32..20_000 {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&number.to_le_bytes());
            offered.keep(digest, one.clone());
        }
        assert!(offered.lock().known.len() < MOST_BYTES / MANIFEST_BYTES);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let offered = Offered::default();
        offered.keep([1; 32], manifest(1, 1));
        assert!(!offered.forget_unused(Instant::now()));
        let later = Instant::now() + KEPT_UNUSED;
        offered.lock().put([2; 32], manifest(1, 1), later);
        assert!(offered.forget_unused(later));
        assert!(offered.find(&[1; 32]).is_none() && offered.find(&[2; 32]).is_some());
        assert!(offered.forget_unused(Instant::now() + KEPT_UNUSED));
        assert_eq!(offered.lock().bytes, 0);
    }
}
