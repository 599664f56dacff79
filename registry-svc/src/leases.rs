//! Leases: content that somebody is about to need is not collected meanwhile.
//!
//! Who is to rely on content takes it in hand first ([`Leases::hold`]) and looks afterwards whether it is there. Who
//! is to remove it dooms it first ([`Leases::doom`]), which nobody can who comes when it is in hand, and looks
//! afterwards whether something names it. So whichever is first, the other one sees what it did.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use slipway_image::Digest;
use tokio::sync::Notify;

use crate::names::Repository;

/// How long a client that was told "this blob is here" may take to push the manifest that names it, by default.
pub const GRACE: Duration = Duration::from_secs(15 * 60);

/// Which content is needed by work in progress.
pub struct Leases {
    /// See [`GRACE`].
    grace: Duration,
    held: Mutex<HashMap<Digest, Lease>>,
    /// Something that was doomed is gone, or stays after all.
    decided: Notify,
}

#[derive(Default)]
struct Lease {
    guards: usize,
    /// Until when somebody may push a manifest that names it, and where; `None` = anywhere. That one ends by time
    /// only: which manifest was meant, nobody knows.
    graces: HashMap<Option<Repository>, Instant>,
    doomed: bool,
}

impl Lease {
    fn is_needed(&self) -> bool {
        let now = Instant::now();
        self.guards > 0 || self.graces.values().any(|until| *until > now)
    }
}

/// Holds content as long as it lives.
pub struct Guard {
    leases: Arc<Leases>,
    digest: Digest,
}

/// Content that nobody takes in hand as long as this lives.
pub struct Doomed {
    leases: Arc<Leases>,
    digest: Digest,
}

impl Default for Leases {
    fn default() -> Self {
        Self::new(GRACE)
    }
}

impl Leases {
    /// How long content stays for whoever was told of it.
    pub const fn period(&self) -> Duration {
        self.grace
    }

    /// With that long a grace.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            held: Mutex::default(),
            decided: Notify::default(),
        }
    }

    /// Holds content until the guard is dropped. Waits while it is being removed.
    pub async fn hold(self: &Arc<Self>, digest: &Digest) -> Guard {
        loop {
            let mut decided = std::pin::pin!(self.decided.notified());
            // What is decided from here on is heard.
            decided.as_mut().enable();
            let held = self.with(|held| {
                let lease = held.entry(digest.clone()).or_default();
                if !lease.doomed {
                    lease.guards += 1;
                }
                !lease.doomed
            });
            if held {
                return Guard {
                    leases: Arc::clone(self),
                    digest: digest.clone(),
                };
            }
            decided.await;
        }
    }

    /// Lets nobody take content in hand; `None` when somebody has it, or may still count on it.
    pub fn doom(self: &Arc<Self>, digest: &Digest) -> Option<Doomed> {
        self.with(|held| {
            let lease = held.entry(digest.clone()).or_default();
            let free = !lease.is_needed() && !lease.doomed;
            lease.doomed |= free;
            free
        })
        .then(|| Doomed {
            leases: Arc::clone(self),
            digest: digest.clone(),
        })
    }

    /// Holds content for a while ([`GRACE`]) from now, for whoever pushes to a repository. The caller has a guard of it.
    pub fn grace(&self, digest: &Digest, repository: Option<&Repository>) {
        let until = Instant::now() + self.grace;
        self.with(|held| {
            let lease = held.entry(digest.clone()).or_default();
            lease.graces.insert(repository.cloned(), until)
        });
    }

    /// Somebody may still push a manifest to that repository that names it.
    pub fn is_promised(&self, digest: &Digest, repository: &Repository) -> bool {
        let now = Instant::now();
        self.with(|held| {
            let lease = held.get(digest);
            let until = lease.and_then(|lease| lease.graces.get(&Some(repository.clone())));
            until.is_some_and(|until| *until > now)
        })
    }

    /// A manifest of that repository names it now, or none will: no grace is needed there any more.
    pub fn end_grace(&self, digest: &Digest, repository: &Repository) {
        self.with(|held| {
            if let Some(lease) = held.get_mut(digest) {
                lease.graces.remove(&Some(repository.clone()));
            }
        });
        self.tidy(digest);
    }

    /// As if [`GRACE`] had passed since all that was promised.
    pub fn forget_graces(&self) {
        self.with(|held| held.values_mut().for_each(|lease| lease.graces.clear()));
    }

    /// Somebody has it, or may still count on it.
    pub fn is_needed(&self, digest: &Digest) -> bool {
        self.with(|held| held.get(digest).is_some_and(Lease::is_needed))
    }

    /// Forgets what has run out.
    pub fn expire(&self) {
        self.with(|held| held.retain(|_, lease| lease.is_needed() || lease.doomed));
    }

    fn tidy(&self, digest: &Digest) {
        self.with(|held| {
            if held
                .get(digest)
                .is_some_and(|lease| !lease.is_needed() && !lease.doomed)
            {
                held.remove(digest);
            }
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
            }
        });
        self.leases.tidy(&self.digest);
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        self.leases.with(|held| {
            if let Some(lease) = held.get_mut(&self.digest) {
                lease.doomed = false;
            }
        });
        self.leases.tidy(&self.digest);
        self.leases.decided.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn content_is_in_hand_or_doomed_never_both() {
        let leases = Arc::<Leases>::default();
        let digest = Digest::of("content");
        let (one, two) = (leases.hold(&digest).await, leases.hold(&digest).await);
        drop(one);
        assert!(leases.doom(&digest).is_none());
        let [one, other] = ["one", "other"].map(|name| Repository::new("docker.io", name).unwrap());
        for repository in [Some(&one), Some(&other), None] {
            leases.grace(&digest, repository);
        }
        drop(two);
        // What one repository has named, another one may still be about to.
        for repository in [&one, &other] {
            leases.expire();
            assert!(leases.doom(&digest).is_none());
            leases.end_grace(&digest, repository);
        }
        assert!(leases.doom(&digest).is_none());
        leases.forget_graces();
        let doomed = leases.doom(&digest).unwrap();
        leases.expire();
        assert!(leases.doom(&digest).is_none());
        let mut waiting = Box::pin(leases.hold(&digest));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(leases.hold(&Digest::of("other")).await);
        drop(doomed);
        let held = waiting.await;
        assert!(leases.doom(&digest).is_none());
        drop(held);
        assert!(leases.doom(&digest).is_some());
        assert!(leases.with(|held| held.is_empty()));
    }
}
