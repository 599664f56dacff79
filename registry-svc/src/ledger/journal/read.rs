//! How entries are followed.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tracing::info;

use super::{
    AHEAD, Change, Follower,
    entry::{self, Entry, apply},
};
use crate::{
    bucket::Bucket,
    error::{Error, Result},
};

impl Follower {
    /// Follows what others wrote, to the end.
    pub(super) async fn catch_up(&mut self) -> Result<()> {
        if !self.is_fresh() {
            return self.follow().await;
        }
        loop {
            let began = (Instant::now(), SystemTime::now());
            let Some((number, entry, size)) = fetch(&self.bucket, self.applied + 1).await? else {
                self.looked = Some(began);
                return Ok(());
            };
            self.apply(number, &entry, size, false)?;
        }
    }

    /// The same for who does not know whether entries went before he had seen them.
    pub(super) async fn follow(&mut self) -> Result<()> {
        loop {
            let began = (Instant::now(), SystemTime::now());
            let after = entry::name(self.applied);
            let listed: Vec<_> = self
                .bucket
                .list("journal", Some(&after))
                .try_collect()
                .await?;
            let numbers: Vec<u64> = listed
                .iter()
                .filter_map(|l| entry::number(&l.name))
                .collect();
            // Also when the first is there: who was asleep in the middle of making it may have made it long after
            // the others went.
            let whole = (self.applied + 1..)
                .zip(&numbers)
                .all(|(n, found)| n == *found);
            if (!whole || self.applied == 0) && self.read_checkpoint().await? {
                continue;
            }
            let bucket = Arc::clone(&self.bucket);
            let mut fetched = stream::iter(numbers)
                .map(|number| fetch(&bucket, number))
                .buffered(AHEAD);
            while let Some(next) = fetched.next().await {
                let number = self.applied + 1;
                match next? {
                    Some((found, entry, size)) if found == number => {
                        self.apply(number, &entry, size, false)?;
                    }
                    _ => {
                        let lack = format!("entry {number} of its journal is missing");
                        return Err(Error::Bucket(lack));
                    }
                }
            }
            self.looked = Some(began);
            info!(entry = self.applied, "the journal was followed");
            return Ok(());
        }
    }

    pub(super) fn apply(&mut self, number: u64, entry: &Entry, size: u64, own: bool) -> Result<()> {
        for change in &entry.changes {
            apply(&self.index, change, own)?;
            if let Change::Checkpoint { size, .. } = change {
                self.since_checkpoint = 0;
                self.last_checkpoint = *size;
            }
        }
        self.index.set_applied(number)?;
        self.applied = number;
        self.since_checkpoint += size;
        Ok(())
    }

    /// By both clocks: one stands still while the machine sleeps, the other one may be set.
    pub(super) fn is_fresh(&self) -> bool {
        self.looked.is_some_and(|(then, at)| {
            let fresh = self.habits.fresh;
            then.elapsed() < fresh && at.elapsed().is_ok_and(|age| age < fresh)
        })
    }

    /// Counts what was written since the last checkpoint, whoever was there.
    pub(super) async fn measure(&mut self) -> Result<()> {
        let listed: Vec<_> = self.bucket.list("checkpoints", None).try_collect().await?;
        let latest = listed
            .iter()
            .filter_map(|l| Some((entry::number(&l.name)?, l.size)))
            .max();
        let (number, size) = latest.unwrap_or_default();
        let after = entry::name(number);
        let entries = self.bucket.list("journal", Some(&after));
        let sizes = entries.try_fold(0, async |sum, listed| Ok(sum + listed.size));
        (self.since_checkpoint, self.last_checkpoint) = (sizes.await?, size);
        Ok(())
    }
}

/// An entry with its number and its bytes.
pub(super) async fn fetch(bucket: &Bucket, number: u64) -> Result<Option<(u64, Entry, u64)>> {
    let content = bucket.get(&entry::name(number), entry::LIMIT).await?;
    let Some(content) = content else {
        return Ok(None);
    };
    let entry = Entry::parse(number, &content)?;
    Ok(Some((number, entry, content.len() as u64)))
}
