//! What builds leave on the disk: told, taken away, and kept within its budget.

use std::time::{Duration, Instant};

use super::{Builder, Pruned};
use crate::{
    cache::{Filters, OnDisk, Prune, to_remove},
    error::{Result, Tried as _},
    worker::mounts::Seen,
};

/// How often the cache is looked through.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

/// How long after a build its memory goes: until its caller has gone, and no other build has begun.
const AFTERWARDS: Duration = Duration::from_secs(2);

impl Builder {
    /// Gives the memory of builds back when none runs: that of a large context is hundreds of megabytes, in small
    /// pieces.
    pub(super) async fn give_back(&self) {
        tokio::time::sleep(AFTERWARDS).await;
        // The end of whoever runs sees to it.
        if self.running().is_empty() {
            // It fails only when the service ends.
            let _ = tokio::task::spawn_blocking(slipway_service::give_back).await;
        }
    }

    /// What the cache holds, and the cache mounts if they can be meant.
    pub async fn records(&self, filters: &Filters) -> Result<(Vec<OnDisk>, Vec<String>)> {
        let mounts = async {
            match filters.want_mounts() {
                true => self.fleet.mounts().await,
                false => Seen::default(),
            }
        };
        let (records, seen) = tokio::join!(self.cache.usage(), mounts);
        let mut records = records?;
        records.extend(seen.mounts);
        Ok((records, seen.warnings))
    }

    /// Removes records of the cache, cache mounts and, when everything is meant, files of contexts, but for
    /// those that a running build counts on.
    pub async fn prune(&self, prune: &Prune) -> Result<Pruned> {
        let (records, warnings) = self.records(&prune.filters).await?;
        let mut pruned = Pruned {
            warnings,
            ..Pruned::default()
        };
        let (mounts, records): (Vec<&OnDisk>, Vec<&OnDisk>) = to_remove(&records, prune)
            .into_iter()
            .partition(|r| r.mount.is_some());
        for record in records {
            let key = &record.record.key;
            if let Some(bytes) = self.cache.remove(key).await? {
                pruned.removed.push(key.clone());
                pruned.bytes += bytes;
            }
        }
        let (names, bytes, warnings) = self.fleet.remove_mounts(&mounts).await;
        pruned.removed.extend(names);
        pruned.bytes += bytes;
        pruned.warnings.extend(warnings);
        let limited = prune.reserved > 0 || prune.most > 0 || !prune.filters.match_contexts();
        if limited || prune.filters.until.is_some() {
            return Ok(pruned);
        }
        let _evicting = self.evicting.lock().await;
        let gone = self.evict(0).await;
        let gone = gone.tried(|| "cannot remove the context files".to_owned())?;
        pruned.bytes += gone.1;
        Ok(pruned)
    }

    /// Removes files of contexts that no running build has used until so many bytes are left.
    async fn evict(&self, keep: u64) -> std::io::Result<(u64, u64)> {
        let oldest = self.running().values().min().copied();
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.evict(keep, oldest))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
    }

    /// Keeps the files of contexts within their budget. Builds begin and go on meanwhile.
    pub(super) async fn bound_content(&self) {
        let Ok(_evicting) = self.evicting.try_lock() else {
            return;
        };
        if !self.store.exceeds(self.content_bytes) {
            return;
        }
        match self.evict(self.content_bytes).await {
            Ok((0, _)) => {}
            Ok((files, bytes)) => tracing::info!(files, bytes, "context files were evicted"),
            Err(error) => tracing::warn!(%error, "context files could not be evicted"),
        }
    }

    /// Keeps the cache within its budget; at most once in ten minutes, since all records are looked at.
    pub(super) async fn collect(&self) {
        let Ok(mut last) = self.collected.try_lock() else {
            return;
        };
        if self.cache_bytes == 0 || last.is_some_and(|t| t.elapsed() < COLLECT_EVERY) {
            return;
        }
        *last = Some(Instant::now());
        let prune = Prune {
            most: self.cache_bytes,
            ..Prune::default()
        };
        match self.cache.prune(&prune).await {
            Ok((keys, _)) if keys.is_empty() => {}
            Ok((keys, bytes)) => {
                tracing::info!(records = keys.len(), bytes, "the build cache was collected")
            }
            Err(error) => tracing::warn!(%error, "the build cache could not be collected"),
        }
    }
}
