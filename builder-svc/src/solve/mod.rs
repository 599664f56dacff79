//! Builds what a plan says: stages as a graph, independent ones at once, each step from the cache
//! where it can be.
//!
//! This file is the graph; `stage` a stage from its base to its last instruction; `step` one step: key,
//! cache, worker; `copy` which files a COPY means, and under which names; `transfer` the streams of
//! files to a snapshot; `direct` layers that need none; `note` what is noted to be attested.

mod arrange;
mod copy;
mod direct;
mod mounts;
mod note;
mod rewrite;
mod stage;
mod step;
mod transfer;
pub mod turns;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use slipway_dockerfile::{Dockerfile, lint::Config};
use slipway_image::{ImageConfig, Platform};
use tokio::{
    sync::{OnceCell, Semaphore, watch},
    task::JoinSet,
};

use self::turns::Turns;
use crate::{
    attest::Sources,
    cache::{
        Cache, Key, Record,
        carried::{Imported, MountId},
        uses::Held,
    },
    caller::Caller,
    context::BuildContext,
    error::{Error, Result},
    events::Events,
    layer::Layer,
    plan::{Plan, StagePlan, stage::Given, variables::Inherited},
    registry::{Fetch, Registry},
    worker::{
        Snapshot, StepSettings,
        placing::{Home, Leases, Placed, Wanted},
    },
};

/// A build's unchanging parts.
pub struct Solver {
    /// What is built.
    pub file: Dockerfile,
    /// What is told about instructions; none: they are another platform's, and were told.
    pub lint: Option<Config>,
    /// In which order.
    pub plan: Plan,
    /// Arguments.
    pub given: Given,
    /// Platform of the result; None = this host's.
    pub platform: Option<Platform>,
    /// How base images are fetched.
    pub fetch: Fetch,
    /// For all RUNs.
    pub settings: StepSettings,
    /// Look nothing up in the cache: all stages, or these.
    pub no_cache: NoCache,
    /// No time in the image is later (seconds since the epoch).
    pub latest: Option<i64>,
    /// Images.
    pub registry: Registry,
    /// Results of steps.
    pub cache: Cache,
    /// Results of steps and cache mounts from elsewhere (`--cache-from`).
    pub imported: Arc<Imported>,
    /// The caller's files.
    pub context: BuildContext,
    /// Its secrets and agents.
    pub caller: Arc<Caller>,
    /// What the caller is told.
    pub events: Events,
    /// What changes while it goes on.
    pub progress: Arc<Progress>,
    /// What it is made of, where that is to be attested.
    pub sources: Option<Arc<Sources>>,
}

/// `--no-cache` and `--no-cache-filter`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoCache {
    /// Everything.
    pub all: bool,
    /// Stages by name.
    pub stages: Vec<String>,
}

/// A build's counters, and what is made on first use. All platforms of a build share it.
pub struct Progress {
    steps: AtomicU32,
    cached: AtomicU32,
    next_index: AtomicU32,
    leases: Leases,
    permits: Arc<Semaphore>,
    records: Mutex<Vec<(Key, Record)>>,
    /// Cache mounts of all its steps, also of those that were cached.
    mounts: Mutex<BTreeSet<MountId>>,
    /// Which of them were looked after at a worker, by lease.
    carried: Mutex<HashMap<(String, MountId), Once>>,
    held: Held,
    turns: Arc<Turns>,
}

impl Progress {
    /// Of a build with these leases, whose steps need a turn by key, and one of these permits each if they are
    /// done here.
    pub fn new(leases: Leases, permits: Arc<Semaphore>, turns: Arc<Turns>, held: Held) -> Self {
        Self {
            steps: AtomicU32::new(0),
            cached: AtomicU32::new(0),
            next_index: AtomicU32::new(1),
            leases,
            permits,
            records: Mutex::default(),
            mounts: Mutex::default(),
            carried: Mutex::default(),
            held,
            turns,
        }
    }

    /// Reserves numbers for steps; the first of them.
    pub fn indexes(&self, count: u32) -> u32 {
        self.next_index.fetch_add(count, Ordering::Relaxed)
    }

    /// What steps made or found so far.
    pub fn records(&self) -> Vec<(Key, Record)> {
        let records = self.records.lock();
        records.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cache mounts of the steps so far.
    pub fn mounts(&self) -> BTreeSet<MountId> {
        let mounts = self.mounts.lock();
        mounts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, key: &Key, record: &Record) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.push((key.clone(), record.clone()));
    }

    /// Steps so far, and how many of them were cached.
    pub fn counts(&self) -> (u32, u32) {
        let read = |n: &AtomicU32| n.load(Ordering::Relaxed);
        (read(&self.steps), read(&self.cached))
    }
}

/// A built stage.
#[derive(Debug, Clone)]
pub struct Built {
    /// How to run it.
    pub config: ImageConfig,
    /// Its layers, base first.
    pub layers: Vec<Layer>,
    /// `ARG`s, for stages that are built upon it.
    pub arguments: Inherited,
}

/// Something that is done once.
type Once = Arc<OnceCell<()>>;

/// Results of stages, by index in the Dockerfile.
type Results = HashMap<usize, watch::Receiver<Option<Arc<Built>>>>;

impl Solver {
    /// Builds the target. Dropping the future stops everything that runs.
    pub async fn solve(self: &Arc<Self>) -> Result<Arc<Built>> {
        let mut results = Results::new();
        let mut running = JoinSet::new();
        let stages = &self.plan.stages;
        let target = stages.last().map_or(0, |s| s.index);
        // Numbers of steps are given out in the order of the file, whatever ends first.
        for plan in stages {
            let first = self.indexes(plan.steps);
            let (sender, receiver) = watch::channel(None);
            let (solver, plan, needs) = (self.clone(), plan.clone(), results.clone());
            results.insert(plan.index, receiver);
            running.spawn(async move {
                let built = solver.stage(&plan, &needs, first).await?;
                sender.send_replace(Some(Arc::new(built)));
                // Kept until all is done: who waits for this stage must not see it end.
                Ok::<_, Error>((plan.index, sender))
            });
        }
        let mut done = Vec::new();
        while let Some(ended) = running.join_next().await {
            let ended =
                ended.map_err(|e| Error::Invalid(format!("the build was interrupted: {e}")))?;
            done.push(ended?);
        }
        done.iter()
            .find(|(index, _)| *index == target)
            .and_then(|(_, built)| built.borrow().clone())
            .ok_or_else(|| Error::Invalid("the target was not built".to_owned()))
    }

    /// Reserves numbers for steps; the first of them.
    pub fn indexes(&self, count: u32) -> u32 {
        self.progress.indexes(count)
    }

    /// A root filesystem of these layers, at whichever worker has most of them.
    pub async fn root(&self, layers: &[Layer]) -> Result<(Snapshot, Placed)> {
        let home = Home::default();
        let mut search = self
            .progress
            .leases
            .search(Wanted::files(layers, &home), &self.events);
        loop {
            let placed = search.next().await?;
            match placed.lease.prepare(layers).await {
                Ok(snapshot) => return Ok((snapshot, placed)),
                Err(error) => search.goes_on(placed, error).await?,
            }
        }
    }

    fn uses_cache(&self, plan: &StagePlan) -> bool {
        let filtered = self
            .no_cache
            .stages
            .iter()
            .any(|s| s.eq_ignore_ascii_case(&plan.title) || *s == plan.index.to_string());
        !self.no_cache.all && !filtered
    }
}

/// The result of a stage that was started before.
async fn result_of(results: &Results, index: usize) -> Result<Arc<Built>> {
    let missing = || Error::Invalid(format!("stage {index} is not part of the plan"));
    let mut result = results.get(&index).ok_or_else(missing)?.clone();
    let built = result.wait_for(Option::is_some).await.map(|b| b.clone());
    match built {
        Ok(Some(built)) => Ok(built),
        // It failed: its own error ends the build, and this future with it.
        _ => std::future::pending().await,
    }
}
