//! Cache mounts: folders that steps find again, kept per id, shared as each step asks for it.
//!
//! A cache is `caches/<name>/{fs,cache.json}`. It comes under its name when it is whole, and loses its name
//! before it is removed, so nobody ever sees half of one. Who uses it is in memory: a new instance ends the
//! steps of the last one before it lends anything.
//!
//! The rules of sharing are BuildKit's (solver/llbsolver/mounts/mount.go, cacheRefGetter): there may be
//! several caches of one id, when one was in use and another could not wait for it.

mod record;
mod room;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedMutexGuard};

use self::record::now;
pub use self::record::{Record, Told, time};
use crate::{
    disk::Broom,
    error::{Error, Tried as _},
    ids,
};

/// Room that all caches of this host may take unless `cache_mounts_max_bytes` says otherwise.
pub const MAX_BYTES: u64 = 20 << 30;
/// Longest id of a cache, bytes.
const LONGEST_ID: usize = 4096;

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// Nobody else: who comes meanwhile gets another one.
    Private,
    /// Nobody else: who comes meanwhile waits.
    Locked,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    users: usize,
    exclusive: bool,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    broom: Broom,
    limit: u64,
    entries: Mutex<HashMap<String, Entry>>,
    /// Held while a record is replaced: two at a time would write into one file.
    recording: Mutex<()>,
    /// Somebody gave one back.
    freed: Notify,
    /// Held while a cache is made: of two steps that want the same one, the second finds it.
    making: Arc<tokio::sync::Mutex<()>>,
}

/// The caches of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caches(Arc<Inner>);

/// A cache that is in use; given back when dropped.
#[derive(Debug)]
pub struct Use {
    caches: Caches,
    name: String,
    /// Its content.
    pub folder: PathBuf,
}

/// What a step asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What Dockerfiles call it.
    pub id: String,
    /// What a new one begins with, in a word.
    pub base: String,
    /// With whom.
    pub sharing: Sharing,
}

impl Caches {
    /// Finds what is there; what is half made or half removed goes.
    pub fn open(folder: PathBuf, broom: Broom, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut entries = HashMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let record = fs::read(path.join("cache.json")).ok();
            let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match record {
                Some(record) if ids::is_id(&name) && path.join("fs").is_dir() => {
                    let entry = Entry {
                        record,
                        users: 0,
                        exclusive: false,
                    };
                    entries.insert(name.into_owned(), entry);
                }
                _ => drop(broom.sweep(path, None)),
            }
        }
        let inner = Inner {
            folder,
            broom,
            limit,
            entries: Mutex::new(entries),
            recording: Mutex::default(),
            freed: Notify::new(),
            making: Arc::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A cache for a step; `begin` fills the folder of a new one. Waits where sharing says so.
    pub async fn get<F>(&self, wanted: &Wanted, begin: F) -> Result<Use, Error>
    where
        F: FnOnce(&Path) -> Result<(), Error> + Send + 'static,
    {
        check(wanted)?;
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.find(wanted) {
                Looked::Found(found) => return Ok(found),
                Looked::Busy => freed.await,
                Looked::None => {
                    let making = self.0.making.clone().lock_owned().await;
                    // Somebody may have made it while this waited.
                    match self.find(wanted) {
                        Looked::Found(found) => return Ok(found),
                        Looked::Busy => {}
                        Looked::None => return self.make(wanted, begin, Some(making)).await,
                    }
                }
            }
        }
    }

    fn find(&self, wanted: &Wanted) -> Looked {
        let mut entries = self.lock();
        let same = |e: &Entry| e.record.id == wanted.id && e.record.base == wanted.base;
        let usable = |e: &Entry| match wanted.sharing {
            Sharing::Shared => !e.exclusive,
            Sharing::Private | Sharing::Locked => e.users == 0,
        };
        let there = entries.values().any(same);
        let best = entries
            .iter_mut()
            .filter(|(_, e)| same(e) && usable(e))
            // The one that others share, then the one that was used last.
            .max_by_key(|(_, e)| (e.users, e.record.last_used, e.record.uses));
        match best {
            Some((name, entry)) => {
                entry.users += 1;
                entry.exclusive = wanted.sharing != Sharing::Shared;
                entry.record.uses += 1;
                entry.record.last_used = now();
                let name = name.clone();
                Looked::Found(self.lend(name))
            }
            None if there && wanted.sharing == Sharing::Locked => Looked::Busy,
            None => Looked::None,
        }
    }

    /// Most bytes that all may take.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Whether there is one with something in it.
    pub fn has(&self, wanted: &Wanted) -> bool {
        let same = |e: &Entry| e.record.id == wanted.id && e.record.base == wanted.base;
        let entries = self.lock();
        let mut those = entries.iter().filter(|(_, entry)| same(entry));
        those.any(|(name, entry)| {
            let folder = self.0.folder.join(name).join("fs");
            let empty = || fs::read_dir(folder).is_ok_and(|mut all| all.next().is_none());
            entry.users > 0 || !empty()
        })
    }

    /// One by its own name, to look at it: others may go on with it.
    pub fn borrow(&self, name: &str) -> Option<Use> {
        let mut entries = self.lock();
        entries.get_mut(name)?.users += 1;
        drop(entries);
        Some(self.lend(name.to_owned()))
    }

    /// Makes one, in place of those of its id that nobody uses.
    pub async fn import<F>(&self, wanted: &Wanted, fill: F) -> Result<(), Error>
    where
        F: FnOnce(&Path) -> Result<(), Error> + Send + 'static,
    {
        check(wanted)?;
        let same = |r: &Record| r.id == wanted.id && r.base == wanted.base;
        let old = self.list().into_iter().filter(|t| same(&t.record));
        let old: Vec<String> = old.map(|t| t.name).collect();
        let made = self.make(wanted, fill, None).await?;
        slipway_fault::point("runtime.uncarry.made");
        self.remove(&old);
        drop(made);
        Ok(())
    }

    fn lend(&self, name: String) -> Use {
        Use {
            folder: self.0.folder.join(&name).join("fs"),
            caches: self.clone(),
            name,
        }
    }

    /// Whoever waits for it may go: what it counts on, and what it gives, goes with the work.
    async fn make<F>(
        &self,
        wanted: &Wanted,
        begin: F,
        making: Option<OwnedMutexGuard<()>>,
    ) -> Result<Use, Error>
    where
        F: FnOnce(&Path) -> Result<(), Error> + Send + 'static,
    {
        let name = ids::new_id();
        let record = Record {
            id: wanted.id.clone(),
            base: wanted.base.clone(),
            uses: 1,
            ..Record::default()
        };
        let exclusive = wanted.sharing != Sharing::Shared;
        let caches = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let _making = making;
            let place = caches.0.folder.join(&name);
            let half = place.with_extension("new");
            let made = (|| {
                let what = || "cannot make a cache mount".to_owned();
                fs::create_dir(&half).tried(what)?;
                fs::create_dir(half.join("fs")).tried(what)?;
                slipway_fault::point("runtime.cache.begun");
                begin(&half.join("fs"))?;
                slipway_fault::fallible("runtime.cache.filled").tried(what)?;
                record.write(&half).tried(what)?;
                slipway_fault::point("runtime.cache.recorded");
                fs::rename(&half, &place).tried(what)?;
                slipway_fault::point("runtime.cache.named");
                Ok(())
            })();
            if let Err(error) = made {
                drop(caches.0.broom.sweep(half, None));
                return Err(error);
            }
            let entry = Entry {
                record,
                users: 1,
                exclusive,
            };
            caches.lock().insert(name.clone(), entry);
            Ok(caches.lend(name))
        });
        made.await
            .map_err(io::Error::other)
            .tried(|| "making a cache mount was interrupted".to_owned())?
    }
}

fn check(wanted: &Wanted) -> Result<(), Error> {
    match wanted.id.len().max(wanted.base.len()) {
        0..=LONGEST_ID => Ok(()),
        _ => Err(Error::Invalid(format!(
            "the id of a cache mount is longer than {LONGEST_ID} bytes"
        ))),
    }
}

enum Looked {
    Found(Use),
    Busy,
    None,
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut entries = self.caches.lock();
        if let Some(entry) = entries.get_mut(&self.name) {
            entry.users -= 1;
            entry.exclusive &= entry.users > 0;
            entry.record.last_used = now();
        }
        drop(entries);
        self.caches.0.freed.notify_waiters();
        let (caches, name) = (self.caches.clone(), std::mem::take(&mut self.name));
        // A service that stops leaves the counting to the next use.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || caches.settle(&name));
        }
    }
}

#[cfg(test)]
mod tests;
