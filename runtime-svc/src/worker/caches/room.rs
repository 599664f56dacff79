//! What all cache mounts take, and which go when it is too much.

use std::{fs, io, sync::PoisonError};

use super::{Caches, Entry, Told};
use crate::disk;

impl Caches {
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
            slipway_fault::point("runtime.uncache.aside");
            drop(self.0.broom.sweep(away, None));
            gone.push((name.clone(), bytes));
        }
        gone
    }

    /// Counts them all: what the last instance's steps wrote when it was killed nobody has counted.
    pub async fn recount(self) {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        for name in names {
            let caches = self.clone();
            let settled = disk::measure(move || {
                caches.settle(&name);
                Ok(())
            });
            // At worst it is counted after its next use.
            let _ = settled.await;
        }
    }

    /// Counts the bytes of one, writes its record, and removes the ones that were used longest ago while
    /// all take more than they may. Blocks.
    pub(super) fn settle(&self, name: &str) {
        let folder = self.0.folder.join(name);
        // Counted under it, too: who writes last has counted last.
        let recording = self.0.recording.lock();
        let recording = recording.unwrap_or_else(PoisonError::into_inner);
        let bytes = disk::usage(&folder);
        let record = {
            let mut entries = self.lock();
            let Some(entry) = entries.get_mut(name) else {
                return;
            };
            entry.record.bytes = bytes.unwrap_or(entry.record.bytes);
            entry.record.clone()
        };
        slipway_fault::point("runtime.count.counted");
        // Removed meanwhile: there is nothing to be written down.
        if let Err(error) = record.write(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, name, "the record of a cache mount could not be written");
        }
        drop(recording);
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
