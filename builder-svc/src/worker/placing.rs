//! Places for the steps of a build, and its leases at the workers where they are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use slipway_image::Platform;
use tokio::sync::OnceCell;

use super::{Fleet, Lease, choice::can_run, fleet::Place};
use crate::{
    error::{Error, Result},
    events::{Event, Events},
    layer::Layer,
};

/// A build's leases, each taken when a step first goes there.
pub struct Leases {
    fleet: Fleet,
    title: String,
    held: Mutex<HashMap<usize, Arc<OnceCell<Arc<Lease>>>>>,
    /// Workers that the caller was told about.
    told: Mutex<BTreeSet<usize>>,
}

/// Where the last step of a stage was done.
#[derive(Debug)]
pub struct Home(AtomicUsize);

/// What a step needs of its worker.
pub struct Wanted<'a> {
    /// The layers below it.
    pub layers: &'a [Layer],
    /// What it runs is of this platform; None = it runs nothing.
    pub platform: Option<Platform>,
    /// Ids of its cache mounts.
    pub caches: Vec<&'a str>,
    /// Where the step before it was done.
    pub home: &'a Home,
}

/// Between two looks whether a worker is there again: at first, and at most.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(2);
/// How often a step may lose the same worker before that counts as the step's own doing.
const LOSSES: u32 = 3;

/// A step's way from worker to worker until one has done it. Each is asked once; when all were, those that were
/// lost have the time of a lease since then to come back, each three times in all: a step that brings its
/// workers down is not to do so for ever.
pub struct Search<'a> {
    leases: &'a Leases,
    wanted: Wanted<'a>,
    events: &'a Events,
    tried: BTreeSet<usize>,
    /// Those of them that were lost in the middle of the step.
    lost: BTreeMap<usize, Loss>,
    failed: Vec<String>,
}

/// How a step lost a worker.
#[derive(Debug, Clone, Copy)]
struct Loss {
    times: u32,
    /// When the last time was.
    at: Instant,
}

impl Loss {
    /// Until when the worker may come back; None = it was lost too often.
    fn until(self, patience: Duration) -> Option<Instant> {
        (self.times < LOSSES).then(|| self.at + patience)
    }
}

/// A place at a worker, and what the build has there.
pub struct Placed {
    /// The build's lease at it.
    pub lease: Arc<Lease>,
    place: Place,
}

impl<'a> Wanted<'a> {
    /// Of a step that runs nothing.
    pub const fn files(layers: &'a [Layer], home: &'a Home) -> Self {
        Self {
            layers,
            platform: None,
            caches: Vec::new(),
            home,
        }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Leases {
    /// Of a build, which operators of the workers see under this name.
    pub fn new(fleet: Fleet, title: String) -> Self {
        Self {
            fleet,
            title,
            held: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Begins to look for a worker.
    pub fn search<'a>(&'a self, wanted: Wanted<'a>, events: &'a Events) -> Search<'a> {
        Search {
            leases: self,
            wanted,
            events,
            tried: BTreeSet::new(),
            lost: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    async fn at(&self, number: usize) -> Result<Arc<Lease>> {
        let cell = lock(&self.held).entry(number).or_default().clone();
        let lease = cell.get_or_try_init(|| self.fleet.lease(number, &self.title));
        lease.await.cloned()
    }

    /// A lease that is worth nothing any more; who asks next gets another.
    fn forget(&self, number: usize, lease: &Arc<Lease>) {
        let mut held = lock(&self.held);
        let same = |cell: &Arc<OnceCell<Arc<Lease>>>| {
            cell.get().is_some_and(|there| Arc::ptr_eq(there, lease))
        };
        if held.get(&number).is_some_and(same) {
            held.remove(&number);
        }
    }

    /// Tells the caller once that a worker is left out.
    async fn tell_left_out(&self, number: usize, sentence: String, events: &Events) {
        if !lock(&self.told).insert(number) {
            return;
        }
        let warning = Event::Warning {
            rule: "WorkerUnavailable",
            message: sentence,
            line: 0,
        };
        events.tell(warning).await;
    }
}

impl Search<'_> {
    /// The next worker to try, with room for the step.
    pub async fn next(&mut self) -> Result<Placed> {
        let fleet = &self.leases.fleet;
        loop {
            let candidates = self.candidates().await;
            if !self.wanted.caches.is_empty() && candidates.len() > 1 {
                fleet.ask_for_caches(&candidates).await;
            }
            let home = self.wanted.home.0.load(Ordering::Relaxed);
            let seen = candidates.iter().map(|&number| {
                let (layers, caches) = (self.wanted.layers, &self.wanted.caches);
                let mut candidate = fleet.candidate(number, layers, caches);
                candidate.home = number == home;
                candidate
            });
            let Some(mut place) = fleet.choose(seen) else {
                return Err(self.nobody());
            };
            let number = place.number();
            match self.leases.at(number).await {
                Ok(lease) if self.fits(number) => {
                    place.wait().await;
                    return Ok(Placed { lease, place });
                }
                // It said what it can run: now that is known.
                Ok(_) => {}
                Err(error) => {
                    self.tried.insert(number);
                    self.failed.push(error.to_string());
                    if fleet.count() > 1 {
                        let sentence = format!("{error}: it is left out");
                        self.leases
                            .tell_left_out(number, sentence, self.events)
                            .await;
                    }
                }
            }
        }
    }

    /// Workers that may do it: those that are there and can run it; if none is there, those that were not a
    /// moment ago; if none can run it, any, and the step fails as the kernel says.
    async fn candidates(&self) -> Vec<usize> {
        let fleet = &self.leases.fleet;
        let mut there = Vec::new();
        let mut away = Vec::new();
        for number in self.untried() {
            match fleet.trouble(number) {
                None => there.push(number),
                Some(why) => away.push((number, why)),
            }
        }
        if there.is_empty() {
            return away.into_iter().map(|(number, _)| number).collect();
        }
        for (number, why) in away {
            let sentence = format!(
                "the worker {} cannot be used: {why}: it is left out",
                fleet.name(number)
            );
            self.leases
                .tell_left_out(number, sentence, self.events)
                .await;
        }
        there
    }

    /// Workers that can run it, or if there are none any, and were not asked yet.
    fn untried(&self) -> Vec<usize> {
        let all: Vec<usize> = (0..self.leases.fleet.count()).collect();
        let able: Vec<usize> = all.iter().copied().filter(|n| self.fits(*n)).collect();
        let mut able = if able.is_empty() { all } else { able };
        able.retain(|n| !self.tried.contains(n));
        able
    }

    /// Whether a worker can run it, or has not said what it can.
    fn fits(&self, number: usize) -> bool {
        let Some(wanted) = &self.wanted.platform else {
            return true;
        };
        let known = self.leases.fleet.platforms(number);
        known.is_none_or(|platforms| can_run(&platforms, wanted))
    }

    fn nobody(&mut self) -> Error {
        match &mut *self.failed {
            [only] => Error::NoWorker(std::mem::take(only)),
            all => Error::NoWorker(format!("no worker can be used: {}", all.join("; "))),
        }
    }

    /// Whether the step is to be done again, since this worker is gone: by another one, or when there is none by
    /// one that comes back.
    pub async fn goes_on(&mut self, placed: Placed, error: Error) -> Result<()> {
        let Error::WorkerLost { why, .. } = &error else {
            return Err(error);
        };
        let number = placed.place.number();
        let fleet = &self.leases.fleet;
        fleet.down(number, why.clone());
        self.leases.forget(number, &placed.lease);
        // Its room is for whoever is tried next.
        drop(placed);
        self.tried.insert(number);
        let at = Instant::now();
        let loss = self.lost.entry(number).or_insert(Loss { times: 0, at });
        (loss.times, loss.at) = (loss.times + 1, at);
        lock(&self.leases.told).insert(number);
        let lost = format!(
            "the worker {} was lost in the middle of a step ({why})",
            fleet.name(number)
        );
        if !self.untried().is_empty() {
            self.warn(format!("{lost}: the step is done again elsewhere"))
                .await;
            self.failed.push(error.to_string());
            return Ok(());
        }
        let Some(until) = self.awaited().map(|(_, until)| until).max() else {
            return Err(error);
        };
        let patience = until.saturating_duration_since(Instant::now());
        self.warn(format!(
            "{lost}: it has {} seconds to come back",
            patience.as_secs_f64().round()
        ))
        .await;
        let Ok(back) = tokio::time::timeout(patience, self.back()).await else {
            return Err(error);
        };
        self.tried.remove(&back);
        let name = self.leases.fleet.name(back);
        self.warn(format!(
            "the worker {name} is there again: the step is done again"
        ))
        .await;
        Ok(())
    }

    /// Those that were lost and may still come back, and until when.
    fn awaited(&self) -> impl Iterator<Item = (usize, Instant)> {
        let fleet = &self.leases.fleet;
        let patience = |number| fleet.worker(number).map_or(Duration::ZERO, |w| w.ttl);
        let lost = self.lost.iter();
        lost.filter_map(move |(number, loss)| Some((*number, loss.until(patience(*number))?)))
            .filter(|(_, until)| *until > Instant::now())
    }

    /// One of those that were lost, as soon as it gives a lease again.
    async fn back(&self) -> usize {
        let mut pause = SOON;
        loop {
            tokio::time::sleep(pause).await;
            let awaited: Vec<usize> = self.awaited().map(|(number, _)| number).collect();
            for number in awaited {
                if self.leases.at(number).await.is_ok() {
                    return number;
                }
            }
            pause = LATER.min(pause * 2);
        }
    }

    async fn warn(&self, message: String) {
        let warning = Event::Warning {
            rule: "WorkerLost",
            message,
            line: 0,
        };
        self.events.tell(warning).await;
    }

    /// Remembers what the worker has now that the step is done.
    pub fn done(&self, placed: &Placed, made: Option<&Layer>) {
        let number = placed.place.number();
        let layers = self.wanted.layers.iter().chain(made);
        let fleet = &self.leases.fleet;
        fleet.has(number, layers, &self.wanted.caches);
        self.wanted.home.0.store(number, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
