//! Cache mounts: folders that steps find again, kept per id, shared as each step asks for it.
//!
//! A cache is `caches/<name>/{fs,cache.json}`. It comes under its name when it is whole, and loses its name
//! before it is removed, so nobody ever sees half of one. Who uses it is in memory: a new instance ends the
//! steps of the last one before it lends anything.
//!
//! The rules of sharing are BuildKit's (solver/llbsolver/mounts/mount.go, cacheRefGetter): there may be
//! several caches of one id, when one was in use and another could not wait for it.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    disk::{self, Broom},
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

/// What is written down about a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What Dockerfiles call it.
    pub id: String,
    /// What it began with: caches of one id that began differently are different ones.
    pub base: String,
    /// Since when, milliseconds since the epoch.
    pub created: u64,
    /// When a step ended that had it, or began to.
    pub last_used: u64,
    /// How many steps had it.
    pub uses: u64,
    /// Bytes on disk when they were counted last.
    pub bytes: u64,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            id: String::new(),
            base: String::new(),
            created: now(),
            last_used: now(),
            uses: 0,
            bytes: 0,
        }
    }
}

/// A cache as an operator is told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its own name.
    pub name: String,
    /// The rest.
    pub record: Record,
    /// A step has it now.
    pub in_use: bool,
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
    /// Somebody gave one back.
    freed: Notify,
    /// Held while a cache is made: of two steps that want the same one, the second finds it.
    making: tokio::sync::Mutex<()>,
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

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
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
            freed: Notify::new(),
            making: tokio::sync::Mutex::default(),
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
                    let _making = self.0.making.lock().await;
                    // Somebody may have made it while this waited.
                    match self.find(wanted) {
                        Looked::Found(found) => return Ok(found),
                        Looked::Busy => {}
                        Looked::None => return self.make(wanted, begin).await,
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
        let made = self.make(wanted, fill).await?;
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

    async fn make<F>(&self, wanted: &Wanted, begin: F) -> Result<Use, Error>
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
        let (place, written) = (self.0.folder.join(&name), record.clone());
        let broom = self.0.broom.clone();
        let made = tokio::task::spawn_blocking(move || {
            let half = place.with_extension("new");
            let made = (|| {
                let what = || "cannot make a cache mount".to_owned();
                fs::create_dir(&half).tried(what)?;
                fs::create_dir(half.join("fs")).tried(what)?;
                begin(&half.join("fs"))?;
                write(&half, &written).tried(what)?;
                fs::rename(&half, &place).tried(what)
            })();
            if made.is_err() {
                drop(broom.sweep(half, None));
            }
            made
        });
        made.await
            .map_err(io::Error::other)
            .tried(|| "making a cache mount was interrupted".to_owned())??;
        let entry = Entry {
            record,
            users: 1,
            exclusive: wanted.sharing != Sharing::Shared,
        };
        self.lock().insert(name.clone(), entry);
        Ok(self.lend(name))
    }

    /// All of them, the one that was used last first.
    pub fn list(&self) -> Vec<Told> {
        let told = |(name, entry): (&String, &Entry)| Told {
            name: name.clone(),
            record: entry.record.clone(),
            in_use: entry.users > 0,
        };
        let mut all: Vec<_> = self.lock().iter().map(told).collect();
        all.sort_by(|a, b| {
            let key = |t: &Told| (t.record.last_used, t.name.clone());
            key(b).cmp(&key(a))
        });
        all
    }

    /// Removes those of these names that nobody uses; returns names and bytes of those that went.
    pub fn remove(&self, names: &[String]) -> Vec<(String, u64)> {
        let mut gone = Vec::new();
        for name in names {
            let mut entries = self.lock();
            let Some(entry) = entries.get(name).filter(|e| e.users == 0) else {
                continue;
            };
            let bytes = entry.record.bytes;
            let (place, away) = (
                self.0.folder.join(name),
                self.0.folder.join(format!("{name}.removed")),
            );
            if let Err(error) = fs::rename(&place, &away) {
                tracing::warn!(%error, name, "a cache mount could not be removed");
                continue;
            }
            entries.remove(name);
            drop(entries);
            drop(self.0.broom.sweep(away, None));
            gone.push((name.clone(), bytes));
        }
        gone
    }

    /// Counts the bytes of one, writes its record, and removes the ones that were used longest ago while
    /// all take more than they may. Blocks.
    fn settle(&self, name: &str) {
        let folder = self.0.folder.join(name);
        let bytes = disk::usage(&folder);
        let record = {
            let mut entries = self.lock();
            let Some(entry) = entries.get_mut(name) else {
                return;
            };
            entry.record.bytes = bytes.unwrap_or(entry.record.bytes);
            entry.record.clone()
        };
        // Removed meanwhile: there is nothing to be written down.
        if let Err(error) = write(&folder, &record)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, name, "the record of a cache mount could not be written");
        }
        self.keep_within_limit();
    }

    fn keep_within_limit(&self) {
        let all = self.list();
        let mut sum: u64 = all.iter().map(|t| t.record.bytes).sum();
        let mut going = Vec::new();
        for told in all.iter().rev().filter(|t| !t.in_use) {
            if sum <= self.0.limit {
                break;
            }
            sum -= told.record.bytes;
            going.push(told.name.clone());
        }
        if !going.is_empty() {
            let count = self.remove(&going).len();
            tracing::info!(count, "cache mounts were removed to make room");
        }
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

fn write(folder: &Path, record: &Record) -> io::Result<()> {
    let half = folder.join("cache.json.new");
    fs::write(&half, serde_json::to_vec(record)?)?;
    fs::rename(half, folder.join("cache.json"))
}

/// When a cache was made or used, as a time.
pub fn time(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(id: &str, sharing: Sharing) -> Wanted {
        Wanted {
            id: id.to_owned(),
            base: String::new(),
            sharing,
        }
    }

    async fn get(caches: &Caches, id: &str, sharing: Sharing) -> Use {
        let got = caches.get(&wanted(id, sharing), |_| Ok(())).await;
        got.unwrap()
    }

    fn caches(folder: &Path, limit: u64) -> Caches {
        Caches::open(folder.to_owned(), Broom::start().unwrap(), limit).unwrap()
    }

    #[tokio::test]
    async fn sharing_is_as_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let caches = caches(folder.path(), u64::MAX);
        let (one, two) = (
            get(&caches, "a", Sharing::Shared).await,
            get(&caches, "a", Sharing::Shared).await,
        );
        assert_eq!(one.folder, two.folder);
        let private = get(&caches, "a", Sharing::Private).await;
        assert_ne!(one.folder, private.folder);
        let other = get(&caches, "b", Sharing::Locked).await;
        assert_ne!(other.folder, one.folder);
        let waiting = tokio::spawn({
            let caches = caches.clone();
            async move { get(&caches, "b", Sharing::Locked).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        // Who shares does not wait for who has locked: another one is made.
        let beside = get(&caches, "b", Sharing::Shared).await;
        assert_ne!(beside.folder, other.folder);
        let first = other.folder.clone();
        drop(other);
        let later = waiting.await.unwrap();
        assert_eq!(later.folder, first);
        // One that nobody uses is found again, whoever made it.
        drop((one, two));
        let again = get(&caches, "a", Sharing::Locked).await;
        assert!(again.folder.is_dir());
        assert_eq!(
            caches.list().iter().filter(|t| t.record.id == "a").count(),
            2
        );
    }

    #[tokio::test]
    async fn caches_outlive_their_service_and_half_of_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = caches(folder.path(), u64::MAX);
        let cache = get(&first, "a", Sharing::Shared).await;
        fs::write(cache.folder.join("file"), "x").unwrap();
        // As kill -9: nothing is given back.
        std::mem::forget(cache);
        let failed = first
            .get(&wanted("b", Sharing::Shared), |_| {
                Err(Error::Invalid("no".to_owned()))
            })
            .await;
        assert!(failed.is_err());
        fs::create_dir_all(folder.path().join(format!("{}.new/fs", ids::new_id()))).unwrap();
        let second = caches(folder.path(), u64::MAX);
        let told = second.list();
        assert_eq!(told.len(), 1);
        assert!(!told[0].in_use);
        let cache = get(&second, "a", Sharing::Locked).await;
        assert_eq!(fs::read(cache.folder.join("file")).unwrap(), b"x");
        let name = cache.name.clone();
        assert!(
            second.remove(std::slice::from_ref(&name)).is_empty(),
            "it is in use"
        );
        drop(cache);
        assert_eq!(second.remove(std::slice::from_ref(&name))[0].0, name);
        assert!(second.list().is_empty());
    }

    #[tokio::test]
    async fn the_one_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let caches = caches(folder.path(), 100_000);
        let mut names = Vec::new();
        for id in ["old", "new"] {
            let cache = get(&caches, id, Sharing::Shared).await;
            fs::write(cache.folder.join("file"), [7; 60_000]).unwrap();
            names.push(cache.name.clone());
            std::mem::forget(cache);
            let mut entries = caches.lock();
            let entry = entries.get_mut(names.last().unwrap()).unwrap();
            entry.users = 0;
            entry.record.last_used = names.len() as u64;
        }
        caches.settle(&names[0]);
        assert_eq!(caches.list().len(), 2);
        caches.settle(&names[1]);
        let left: Vec<String> = caches.list().into_iter().map(|t| t.record.id).collect();
        assert_eq!(left, ["new"]);
    }
}
