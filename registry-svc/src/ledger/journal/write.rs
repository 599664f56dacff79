//! How entries are made: what is decided together, and then made where none is.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Change, Commit, Follower, Request, SOON, TOGETHER, TOGETHER_BYTES, answer,
    entry::{self, Entry},
    read::fetch,
};
use crate::{
    error::{Error, Result},
    files,
};

/// What is appended together.
#[derive(Default)]
pub(super) struct Plan {
    pub commits: Vec<Commit>,
    pub changes: Vec<Change>,
    bytes: usize,
    removes: bool,
}

impl Plan {
    /// Plans these changes too, if what was decided without them still holds, and there is room.
    fn take(&mut self, changes: Vec<Change>, commit: Commit) -> Option<Commit> {
        let removes = removes(&changes);
        let bytes = serde_json::to_vec(&changes).map_or(0, |text| text.len());
        let fits = removes == self.removes && self.bytes + bytes <= TOGETHER_BYTES;
        if !self.changes.is_empty() && !fits {
            return Some(commit);
        }
        self.bytes += bytes;
        self.removes = removes;
        self.changes.extend(changes);
        self.commits.push(commit);
        None
    }
}

fn removes(changes: &[Change]) -> bool {
    let takes = |c: &Change| matches!(c, Change::Gone { .. } | Change::Broken { .. });
    changes.iter().any(takes)
}

pub(super) enum Appended {
    Yes,
    Behind,
}

impl Follower {
    /// Decides what can be decided together. The rest is for the next time: what has nothing to do, or nothing that
    /// it may do, when it is not sure that nobody else changed that.
    pub(super) fn plan(&self, commits: Vec<Commit>, current: bool) -> (Plan, Vec<Commit>) {
        let (mut plan, mut later, mut unsure) = (Plan::default(), Vec::new(), Vec::new());
        for mut commit in commits {
            if plan.commits.iter().any(|c| c.scope == commit.scope) {
                later.push(commit);
                continue;
            }
            match (commit.decide)(&self.index) {
                Ok(changes) if !changes.is_empty() => later.extend(plan.take(changes, commit)),
                _ if !current => unsure.push(commit),
                // Who asked may be gone.
                other => drop(commit.done.send(other.map(|_| ()))),
            }
        }
        unsure.extend(later);
        (plan, unsure)
    }

    /// Makes the next entry. Who waits to hear whether there is one is answered meanwhile, if that takes long.
    pub(super) async fn append(
        &mut self,
        changes: Vec<Change>,
        waiting: &mut Vec<oneshot::Sender<Result<()>>>,
    ) -> Result<Appended> {
        if !self.is_fresh() {
            return Ok(Appended::Behind);
        }
        let entry = Entry {
            format: entry::FORMAT,
            by: files::random_name(),
            changes,
        };
        let number = self.applied + 1;
        let content = Bytes::from(serde_json::to_vec(&entry).expect("entries are plain data"));
        if content.len() as u64 > entry::LIMIT {
            // Nobody could read it.
            return Err(Error::TooLarge {
                what: "what is to be changed at once",
                limit: entry::LIMIT,
            });
        }
        let began = (Instant::now(), SystemTime::now());
        let made = self.make(number, content.clone(), waiting).await?;
        slipway_fault::point("registry.bucket.written");
        if !made {
            // A request that was sent twice finds what it made the first time.
            let there = fetch(&self.bucket, number).await?;
            if there.is_none_or(|(_, there, _)| there.by != entry.by) {
                return Ok(Appended::Behind);
            }
        }
        if !self.is_fresh() {
            // Others may have been there long ago, and gone on.
            return Err(Error::Bucket("it took an hour to write to it".to_owned()));
        }
        self.apply(number, &entry, content.len() as u64, true)?;
        (self.looked, self.wrote) = (Some(began), true);
        Ok(Appended::Yes)
    }

    /// A bucket that is slow to write may be quick to read: those who ask what there is are told.
    async fn make(
        &mut self,
        number: u64,
        content: Bytes,
        waiting: &mut Vec<oneshot::Sender<Result<()>>>,
    ) -> Result<bool> {
        let (bucket, name) = (Arc::clone(&self.bucket), entry::name(number));
        let mut making = std::pin::pin!(bucket.create(&name, content));
        loop {
            if let Ok(made) = tokio::time::timeout(SOON, &mut making).await {
                return made;
            }
            while self.postponed.len() < TOGETHER
                && let Ok(request) = self.queue.try_recv()
            {
                match request {
                    Request::Refresh(done) => waiting.push(done),
                    other => self.postponed.push(other),
                }
            }
            if waiting.is_empty() {
                continue;
            }
            tokio::select! {
                made = &mut making => return made,
                there = bucket.size(&name) => match there {
                    // All that there is the index has.
                    Ok(None) => answer(waiting, &Ok(())),
                    // It will be told in a moment whose it is.
                    _ => return making.await,
                },
            }
        }
    }
}
