//! The ledger of several registry-svc that share a bucket: one journal, of which each keeps what comes of it.
//!
//! An entry is an object `journal/<number>` that is made where none is. So the entries have one order, and whoever
//! makes entry *n* has decided on what the *n* - 1 before it say: when somebody else made it meanwhile, he follows that
//! one and decides again. There is no lock, no lease, nobody is elected, and whoever is slow or was asleep finds that
//! his number is taken. The sweep is a writer like the others: `gone` stands in the journal before the object is
//! removed, whoever names that blob afterwards finds it missing, and one that is stored again is another object.
//!
//! A process follows the journal into its own index. Before it answers a question it looks whether there is a next
//! entry ([`super::Ledger::refresh`]): what one was told to be stored, all see.
//!
//! Now and then somebody writes down all that the entries up to one say (`checkpoint`); entries before it go a day
//! later. A process that did not look for an hour looks first whether it missed any that went, and one that took
//! longer than that to make an entry does not count on it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use slipway_image::Digest;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{Change, Decide, Ledger, Scope, Seal};
use crate::{
    blobs::staging::blocking,
    bucket::Bucket,
    error::{Error, Result},
    names::Repository,
    store::Index,
};

mod checkpoint;
mod entry;
mod read;
#[cfg(test)]
mod tests;
mod write;

use entry::apply;
use write::Appended;

/// Requests that are answered together.
const TOGETHER: usize = 256;
/// Bytes of changes that are made together, unless one decision has more.
const TOGETHER_BYTES: usize = 4 << 20;
/// How long an entry may take to be made before those who only ask are answered meanwhile.
const SOON: Duration = Duration::from_millis(100);
/// Entries that are fetched at once by who comes late.
const AHEAD: usize = 16;

/// See the module's page.
pub struct Journal {
    requests: mpsc::Sender<Request>,
    bucket: Arc<Bucket>,
}

/// When a process looks again at what it knows, and what goes.
#[derive(Debug, Clone, Copy)]
struct Habits {
    /// How long what is known of the journal's end is good, at most. Less than any entry stays.
    fresh: Duration,
    /// Bytes of entries before a checkpoint is written, at least; more as what there is to write is more.
    worth: u64,
    /// How long an entry stays after the checkpoint that has it.
    kept: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(60 * 60),
            worth: 1 << 20,
            kept: Duration::from_secs(24 * 60 * 60),
        }
    }
}

enum Request {
    Commit(Commit),
    Refresh(oneshot::Sender<Result<()>>),
    Close(oneshot::Sender<Result<()>>),
}

struct Commit {
    scope: Scope,
    decide: Decide,
    done: oneshot::Sender<Result<()>>,
}

impl Journal {
    /// Follows the journal of a bucket to its end. `folder` is for what is on its way.
    pub async fn open(bucket: Arc<Bucket>, index: Arc<Index>, folder: PathBuf) -> Result<Self> {
        Self::open_with(Habits::default(), bucket, index, folder).await
    }

    async fn open_with(
        habits: Habits,
        bucket: Arc<Bucket>,
        index: Arc<Index>,
        folder: PathBuf,
    ) -> Result<Self> {
        let (requests, queue) = mpsc::channel(TOGETHER);
        let clock = Arc::clone(&bucket);
        let mut follower = Follower {
            applied: index.applied()?,
            bucket,
            index,
            folder,
            looked: None,
            since_checkpoint: 0,
            last_checkpoint: 0,
            wrote: false,
            requests: requests.downgrade(),
            queue,
            postponed: Vec::new(),
            habits,
        };
        follower.follow().await?;
        follower.measure().await?;
        tokio::spawn(follower.run());
        Ok(Self {
            requests,
            bucket: clock,
        })
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<()>>) -> Request,
    ) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let sent = self.requests.send(request(done)).await;
        sent.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)?
    }
}

impl Ledger for Journal {
    fn commit(&self, scope: Scope, decide: Decide) -> BoxFuture<'_, Result<()>> {
        self.ask(|done| {
            Request::Commit(Commit {
                scope,
                decide,
                done,
            })
        })
        .boxed()
    }

    fn announce<'a>(&'a self, _: &'a Repository, _: &'a Digest) -> BoxFuture<'a, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<()>> {
        self.ask(Request::Refresh).boxed()
    }

    fn close(&self, seal: Seal) -> BoxFuture<'_, Result<()>> {
        async move {
            self.ask(Request::Close).await?;
            blocking(seal).await
        }
        .boxed()
    }

    fn now(&self) -> u64 {
        let now = self.bucket.now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_millis() as u64)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// The one task that follows the journal and writes to it.
struct Follower {
    bucket: Arc<Bucket>,
    index: Arc<Index>,
    folder: PathBuf,
    /// The last entry that the index has.
    applied: u64,
    /// When there was no further one.
    looked: Option<(Instant, SystemTime)>,
    /// Bytes of entries since the last checkpoint, and of that.
    since_checkpoint: u64,
    last_checkpoint: u64,
    /// This process made an entry since it looked whether a checkpoint is due.
    wrote: bool,
    requests: mpsc::WeakSender<Request>,
    queue: mpsc::Receiver<Request>,
    /// What came while an entry was made.
    postponed: Vec<Request>,
    habits: Habits,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let mut requests = std::mem::take(&mut self.postponed);
            if requests.is_empty() && self.queue.recv_many(&mut requests, TOGETHER).await == 0 {
                return;
            }
            let (mut commits, mut waiting, mut closing) = (Vec::new(), Vec::new(), Vec::new());
            for request in requests.drain(..) {
                match request {
                    Request::Commit(commit) => commits.push(commit),
                    Request::Refresh(done) => waiting.push(done),
                    Request::Close(done) => closing.push(done),
                }
            }
            self.turn(commits, waiting).await;
            if !closing.is_empty() {
                self.queue.close();
                // Who asked may be gone.
                closing.into_iter().for_each(|done| drop(done.send(Ok(()))));
                return;
            }
        }
    }

    /// Answers all of these.
    async fn turn(
        &mut self,
        mut commits: Vec<Commit>,
        mut waiting: Vec<oneshot::Sender<Result<()>>>,
    ) {
        // Whether the index has had all entries at some moment since they asked.
        let mut current = false;
        while !commits.is_empty() || !waiting.is_empty() {
            let (plan, later) = self.plan(commits, current);
            commits = later;
            let outcome = match plan.changes.is_empty() {
                true if current => Ok(()),
                true => self.catch_up().await.map(|()| current = true),
                false => match self.append(plan.changes, &mut waiting).await {
                    Ok(Appended::Yes) => {
                        current = true;
                        for commit in plan.commits {
                            // Who asked may be gone.
                            drop(commit.done.send(Ok(())));
                        }
                        Ok(())
                    }
                    Ok(Appended::Behind) => {
                        commits.splice(..0, plan.commits);
                        self.catch_up().await.map(|()| current = true)
                    }
                    Err(error) => {
                        commits.splice(..0, plan.commits);
                        Err(error)
                    }
                },
            };
            match outcome {
                Ok(()) if current => answer(&mut waiting, &Ok(())),
                Ok(()) => {}
                Err(error) => {
                    let error = Err(Arc::new(error));
                    answer(&mut waiting, &error);
                    let mut all: Vec<_> = commits.drain(..).map(|commit| commit.done).collect();
                    answer(&mut all, &error);
                }
            }
        }
        if let Err(error) = self.write_checkpoint().await {
            warn!(%error, "no checkpoint was written");
        }
    }
}

fn answer(waiting: &mut Vec<oneshot::Sender<Result<()>>>, outcome: &Result<(), Arc<Error>>) {
    for done in waiting.drain(..) {
        // Who asked may be gone.
        drop(done.send(outcome.clone().map_err(Error::from)));
    }
}
