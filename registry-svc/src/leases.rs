//! Leases: content that somebody is about to need is not collected meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use slipway_image::Digest;

/// How long a client that was told "this blob is here" may take to push the manifest that names it.
pub const GRACE: Duration = Duration::from_secs(15 * 60);

/// Which content is needed by work in progress.
#[derive(Default)]
pub struct Leases {
    held: Mutex<HashMap<Digest, Lease>>,
}

#[derive(Default)]
struct Lease {
    guards: usize,
    until: Option<Instant>,
}

/// Holds content as long as it lives.
pub struct Guard {
    leases: Arc<Leases>,
    digest: Digest,
}

impl Leases {
    /// Holds content until the guard is dropped.
    pub fn hold(self: &Arc<Self>, digest: &Digest) -> Guard {
        self.with(|held| held.entry(digest.clone()).or_default().guards += 1);
        Guard {
            leases: Arc::clone(self),
            digest: digest.clone(),
        }
    }

    /// Holds content for [`GRACE`] from now.
    pub fn grace(&self, digest: &Digest) {
        let until = Instant::now() + GRACE;
        self.with(|held| held.entry(digest.clone()).or_default().until = Some(until));
    }

    /// A manifest names it now: no grace is needed any more.
    pub fn end_grace(&self, digest: &Digest) {
        self.with(|held| {
            if let Some(lease) = held.get_mut(digest) {
                lease.until = None;
                if lease.guards == 0 {
                    held.remove(digest);
                }
            }
        });
    }

    /// Somebody needs it.
    pub fn is_held(&self, digest: &Digest) -> bool {
        let now = Instant::now();
        self.with(|held| {
            held.get(digest)
                .is_some_and(|l| l.guards > 0 || l.until.is_some_and(|until| until > now))
        })
    }

    /// Forgets what has run out.
    pub fn expire(&self) {
        let now = Instant::now();
        self.with(|held| {
            held.retain(|_, l| l.guards > 0 || l.until.is_some_and(|until| until > now));
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Digest, Lease>) -> T) -> T {
        f(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.leases.with(|held| {
            if let Some(lease) = held.get_mut(&self.digest) {
                lease.guards -= 1;
                if lease.guards == 0 && lease.until.is_none() {
                    held.remove(&self.digest);
                }
            }
        });
    }
}
