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
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use slipway_image::Digest;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{Change, Decide, Ledger, Scope, Seal};
use crate::{
    blobs::staging::blocking,
    bucket::Bucket,
    error::{Error, Result},
    files,
    names::Repository,
    store::Index,
};

mod checkpoint;
mod entry;

use entry::{Entry, apply};

/// How long what a process knows of the journal's end is good, at most. Less than any entry stays.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// Requests that are answered together.
const TOGETHER: usize = 256;
/// Entries that are fetched at once by who comes late.
const AHEAD: usize = 16;

/// See the module's page.
pub struct Journal {
    requests: mpsc::Sender<Request>,
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
        let (requests, queue) = mpsc::channel(TOGETHER);
        let mut follower = Follower {
            applied: index.applied()?,
            bucket,
            index,
            folder,
            looked: None,
            since_checkpoint: 0,
            last_checkpoint: 0,
            requests: requests.downgrade(),
        };
        follower.follow().await?;
        tokio::spawn(follower.run(queue));
        Ok(Self { requests })
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
    requests: mpsc::WeakSender<Request>,
}

/// What is appended together.
#[derive(Default)]
struct Plan {
    commits: Vec<Commit>,
    changes: Vec<Change>,
    removes: bool,
}

impl Plan {
    /// Whether these changes may be made with those that are planned: what was decided without them still holds.
    fn takes(&self, changes: &[Change]) -> bool {
        let removes = removes(changes);
        self.changes.is_empty() || (removes == self.removes)
    }
}

fn removes(changes: &[Change]) -> bool {
    changes.iter().any(|c| matches!(c, Change::Gone { .. }))
}

enum Appended {
    Yes,
    Behind,
}

impl Follower {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut requests = Vec::new();
        while queue.recv_many(&mut requests, TOGETHER).await > 0 {
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
                queue.close();
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
                false => match self.append(plan.changes).await {
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

    /// Decides what can be decided together. The rest is for the next time: what has nothing to do, or nothing that
    /// it may do, when it is not sure that nobody else changed that.
    fn plan(&self, commits: Vec<Commit>, current: bool) -> (Plan, Vec<Commit>) {
        let (mut plan, mut later, mut unsure) = (Plan::default(), Vec::new(), Vec::new());
        for mut commit in commits {
            if plan.commits.iter().any(|c| c.scope == commit.scope) {
                later.push(commit);
                continue;
            }
            match (commit.decide)(&self.index) {
                Ok(changes) if !changes.is_empty() => match plan.takes(&changes) {
                    true => {
                        plan.removes = removes(&changes);
                        plan.changes.extend(changes);
                        plan.commits.push(commit);
                    }
                    false => later.push(commit),
                },
                _ if !current => unsure.push(commit),
                // Who asked may be gone.
                other => drop(commit.done.send(other.map(|_| ()))),
            }
        }
        unsure.extend(later);
        (plan, unsure)
    }

    /// Makes the next entry.
    async fn append(&mut self, changes: Vec<Change>) -> Result<Appended> {
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
        let began = (Instant::now(), SystemTime::now());
        let made = self
            .bucket
            .create(&entry::name(number), content.clone())
            .await?;
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
        self.looked = Some(began);
        Ok(Appended::Yes)
    }

    /// Follows what others wrote, to the end.
    async fn catch_up(&mut self) -> Result<()> {
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
    async fn follow(&mut self) -> Result<()> {
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
            let missed = numbers.first().is_some_and(|n| *n != self.applied + 1);
            if (missed || self.applied == 0) && self.read_checkpoint().await? {
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

    fn apply(&mut self, number: u64, entry: &Entry, size: u64, own: bool) -> Result<()> {
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
    fn is_fresh(&self) -> bool {
        self.looked.is_some_and(|(then, at)| {
            then.elapsed() < FRESH && at.elapsed().is_ok_and(|age| age < FRESH)
        })
    }
}

/// An entry with its number and its bytes.
async fn fetch(bucket: &Bucket, number: u64) -> Result<Option<(u64, Entry, u64)>> {
    let Some(content) = bucket.get(&entry::name(number)).await? else {
        return Ok(None);
    };
    match serde_json::from_slice::<Entry>(&content) {
        Ok(entry) if entry.format == entry::FORMAT => {
            Ok(Some((number, entry, content.len() as u64)))
        }
        Ok(entry) => Err(Error::Bucket(format!(
            "entry {number} of its journal has form {}: a newer registry-svc writes there",
            entry.format
        ))),
        Err(e) => Err(Error::Bucket(format!("entry {number} of its journal: {e}"))),
    }
}

fn answer(waiting: &mut Vec<oneshot::Sender<Result<()>>>, outcome: &Result<(), Arc<Error>>) {
    for done in waiting.drain(..) {
        // Who asked may be gone.
        drop(done.send(outcome.clone().map_err(Error::from)));
    }
}
