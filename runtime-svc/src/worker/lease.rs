//! Leases: what a builder has here lives as long as somebody says that it is still wanted.
//!
//! A lease has a time to live and is renewed by its holder. A holder that keeps a call open for it
//! (`attach`) loses it a moment after that call ends: so what a builder leaves behind that is killed goes at
//! once, and what one has that is merely cut off goes when the time is over. Leases are in memory, since
//! nothing of them survives this service: the folders of snapshots that nobody knows are removed when it
//! starts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Snapshot, quota::Quota};
use crate::{error::Error, ids};

/// How long a lease lives when nothing else is said, at least, and at most.
const TTL: Duration = Duration::from_secs(60);
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(3600);
/// How long one lives on whose holder's call has ended: it may come back by another connection.
const GRACE: Duration = Duration::from_secs(3);
/// Most leases at once, and most bytes of a holder's name.
const MOST: usize = 1000;
const LONGEST_NAME: usize = 200;

/// How much a lease may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Snapshots.
    pub snapshots: usize,
    /// Bytes on disk of all its snapshots together.
    pub bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            snapshots: 1000,
            bytes: None,
        }
    }
}

#[derive(Debug)]
struct Lease {
    holder: String,
    created: SystemTime,
    until: Instant,
    /// Calls that are open for it.
    attached: usize,
    snapshots: HashMap<String, Arc<Snapshot>>,
    quota: Arc<Quota>,
    /// Cancelled with the lease: what is being done in its snapshots ends.
    ended: CancellationToken,
}

/// A lease as an operator is told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its id.
    pub id: String,
    /// Who has it.
    pub holder: String,
    /// Since when.
    pub created: SystemTime,
    /// When it lapses unless it is renewed.
    pub until: SystemTime,
    /// Whether its holder keeps a call open for it.
    pub attached: bool,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Arc<Snapshot>>,
}

/// The leases of this host. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    all: Arc<Mutex<HashMap<String, Lease>>>,
    /// Told when a lease may lapse earlier than any did before.
    changed: Arc<Notify>,
    limits: Limits,
}

/// Keeps a lease from ending early while it lives.
#[derive(Debug)]
pub struct Attached {
    leases: Leases,
    id: String,
    /// Cancelled with the lease.
    pub ended: CancellationToken,
}

impl Leases {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Gives a lease.
    pub fn begin(
        &self,
        holder: &str,
        ttl: Option<Duration>,
    ) -> Result<(String, SystemTime), Error> {
        let mut holder = holder.to_owned();
        holder.truncate(holder.floor_char_boundary(LONGEST_NAME));
        let ttl = clamp(ttl);
        let mut all = self.lock();
        if all.len() >= MOST {
            return Err(Error::LeaseLimit(format!(
                "there are {MOST} leases already: one has to end first"
            )));
        }
        let id = ids::new_id();
        let lease = Lease {
            holder,
            created: SystemTime::now(),
            until: Instant::now() + ttl,
            attached: 0,
            snapshots: HashMap::new(),
            quota: Arc::new(Quota::new(self.limits.bytes)),
            ended: CancellationToken::new(),
        };
        all.insert(id.clone(), lease);
        drop(all);
        self.changed.notify_one();
        Ok((id, SystemTime::now() + ttl))
    }

    /// Renews a lease; returns when it lapses now.
    pub fn renew(&self, id: &str, ttl: Option<Duration>) -> Result<SystemTime, Error> {
        let ttl = clamp(ttl);
        let mut all = self.lock();
        let lease = all.get_mut(id).ok_or_else(|| none(id))?;
        lease.until = Instant::now() + ttl;
        drop(all);
        self.changed.notify_one();
        Ok(SystemTime::now() + ttl)
    }

    /// Ties a lease to what keeps the answer.
    pub fn attach(&self, id: &str) -> Result<Attached, Error> {
        let mut all = self.lock();
        let lease = all.get_mut(id).ok_or_else(|| none(id))?;
        lease.attached += 1;
        Ok(Attached {
            leases: self.clone(),
            id: id.to_owned(),
            ended: lease.ended.clone(),
        })
    }

    /// Ends a lease: what is being done in its snapshots ends, and they go when that has. Not there is fine.
    pub fn end(&self, id: &str) {
        let lease = self.lock().remove(id);
        if let Some(lease) = lease {
            slipway_fault::point("runtime.unlease.taken");
            lease.ended.cancel();
        }
    }

    /// Ends leases that lapse, until the service stops.
    pub async fn expire(self) {
        loop {
            let next = self.lock().values().map(|l| l.until).min();
            match next {
                None => self.changed.notified().await,
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = self.changed.notified() => {}
                },
            }
            let now = Instant::now();
            let mut lapsed = Vec::new();
            self.lock().retain(|id, lease| {
                let lapses = lease.until <= now;
                if lapses {
                    tracing::warn!(lease = id, holder = lease.holder, "a lease has lapsed");
                    lease.ended.cancel();
                    lapsed.extend(std::mem::take(&mut lease.snapshots).into_values());
                }
                !lapses
            });
            // Not under the lock.
            drop(lapsed);
        }
    }

    /// What a new snapshot of a lease belongs to; refused when the lease has as many as it may.
    pub fn room_for_snapshot(&self, id: &str) -> Result<(Arc<Quota>, CancellationToken), Error> {
        let all = self.lock();
        let lease = all.get(id).ok_or_else(|| none(id))?;
        self.check_count(lease)?;
        Ok((lease.quota.clone(), lease.ended.child_token()))
    }

    fn check_count(&self, lease: &Lease) -> Result<(), Error> {
        let most = self.limits.snapshots;
        if lease.snapshots.len() >= most {
            return Err(Error::LeaseLimit(format!(
                "the lease has {most} snapshots, more than which it may not have (lease_max_snapshots)"
            )));
        }
        Ok(())
    }

    /// Puts a snapshot into a lease.
    pub fn insert(&self, id: &str, snapshot: Arc<Snapshot>) -> Result<(), Error> {
        let mut all = self.lock();
        let lease = all.get_mut(id).ok_or_else(|| none(id))?;
        self.check_count(lease)?;
        lease.snapshots.insert(snapshot.id.clone(), snapshot);
        Ok(())
    }

    /// A snapshot by id.
    pub fn find(&self, id: &str) -> Result<Arc<Snapshot>, Error> {
        self.lock()
            .values()
            .find_map(|lease| lease.snapshots.get(id).cloned())
            .ok_or_else(|| Error::NoSuchSnapshot(id.to_owned()))
    }

    /// A snapshot of one lease by id.
    pub fn find_in(&self, lease: &str, id: &str) -> Result<Arc<Snapshot>, Error> {
        let all = self.lock();
        let lease = all.get(lease).ok_or_else(|| none(lease))?;
        let found = lease.snapshots.get(id).cloned();
        found.ok_or_else(|| Error::NoSuchSnapshot(id.to_owned()))
    }

    /// Takes a snapshot out of its lease.
    pub fn take(&self, id: &str) -> Option<Arc<Snapshot>> {
        self.lock()
            .values_mut()
            .find_map(|lease| lease.snapshots.remove(id))
    }

    /// All leases, oldest first.
    pub fn list(&self) -> Vec<Told> {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let told = |(id, lease): (&String, &Lease)| {
            let mut snapshots: Vec<_> = lease.snapshots.values().cloned().collect();
            snapshots.sort_by_key(|s| s.created);
            Told {
                id: id.clone(),
                holder: lease.holder.clone(),
                created: lease.created,
                until: clock + lease.until.saturating_duration_since(now),
                attached: lease.attached > 0,
                snapshots,
            }
        };
        let mut all: Vec<_> = self.lock().iter().map(told).collect();
        all.sort_by_key(|l| l.created);
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut all = self.leases.lock();
        let Some(lease) = all.get_mut(&self.id) else {
            return;
        };
        lease.attached -= 1;
        if lease.attached == 0 {
            lease.until = lease.until.min(Instant::now() + GRACE);
            drop(all);
            self.leases.changed.notify_one();
        }
    }
}

fn clamp(ttl: Option<Duration>) -> Duration {
    ttl.unwrap_or(TTL).clamp(MIN_TTL, MAX_TTL)
}

fn none(id: &str) -> Error {
    Error::NoSuchLease(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ended(leases: &Leases, id: &str) -> Duration {
        let begun = tokio::time::Instant::now();
        while leases.list().iter().any(|l| l.id == id) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    }

    #[tokio::test]
    async fn a_lease_lapses_unless_it_is_renewed() {
        let leases = Leases::default();
        let expiring = tokio::spawn(leases.clone().expire());
        let (id, _) = leases.begin("a test", Some(Duration::ZERO)).unwrap();
        let (_, ended_with) = leases.room_for_snapshot(&id).unwrap();
        leases
            .renew(&id, Some(Duration::from_millis(1500)))
            .unwrap();
        assert!(ended(&leases, &id).await > Duration::from_secs(1));
        assert!(ended_with.is_cancelled());
        let again = leases.renew(&id, None).unwrap_err();
        assert!(matches!(again, Error::NoSuchLease(_)), "{again}");
        expiring.abort();
    }

    #[tokio::test]
    async fn a_lease_goes_soon_after_its_holder() {
        let leases = Leases::default();
        let expiring = tokio::spawn(leases.clone().expire());
        let (id, _) = leases.begin("a test", None).unwrap();
        let (first, second) = (leases.attach(&id).unwrap(), leases.attach(&id).unwrap());
        drop(first);
        let left = |l: &Leases| l.list()[0].until.duration_since(SystemTime::now()).unwrap();
        assert!(left(&leases) > GRACE);
        drop(second);
        assert!(left(&leases) <= GRACE);
        // It comes back.
        let third = leases.attach(&id).unwrap();
        leases.renew(&id, None).unwrap();
        assert!(left(&leases) > GRACE);
        drop(third);
        ended(&leases, &id).await;
        assert!(leases.attach(&id).is_err());
        leases.end(&id);
        expiring.abort();
    }

    #[test]
    fn there_are_not_endlessly_many() {
        let leases = Leases::default();
        for _ in 0..MOST {
            leases.begin(&"ü".repeat(300), None).unwrap();
        }
        let more = leases.begin("", None).unwrap_err();
        assert!(matches!(more, Error::LeaseLimit(_)));
        assert!(leases.list().iter().all(|l| l.holder.len() == LONGEST_NAME));
    }
}
