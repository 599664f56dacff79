//! All workers of this service: which are there, what each does and has.
//!
//! Nobody is asked whether he is there before a step needs him, so a build that finds everything in the cache
//! talks to none. One that does not answer is left out for a while and tried again behind the builds' backs.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use slipway_image::{Digest, Platform};
use slipway_proto::runtime::v1 as pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Lease, Worker,
    choice::{Candidate, best},
};
use crate::{
    error::{Error, Result},
    layer::Layer,
};

/// Before one that did not answer is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Until one must have answered a small question.
const ANSWER: Duration = Duration::from_secs(10);
/// Most workers: who has a layer is kept as bits of a number.
pub const MOST: usize = 64;
/// Most layers whose places are remembered.
const MOST_LAYERS: usize = 100_000;
/// Most cache mounts whose places are remembered.
const MOST_CACHES: usize = 10_000;

/// A worker, as its settings have it.
pub struct Member {
    /// For people: its address.
    pub name: String,
    /// The connection.
    pub worker: Worker,
    /// How many steps it does at once; None = as it says itself.
    pub steps: Option<usize>,
    /// What it can run; empty = as it says itself.
    pub platforms: Vec<Platform>,
}

/// Whether a worker can be used.
#[derive(Debug, Clone)]
enum State {
    Up,
    Down { why: String, again: Instant },
}

struct One {
    name: String,
    worker: Worker,
    state: Mutex<State>,
    /// Said by its settings or by itself; None = not yet.
    platforms: Mutex<Option<Vec<Platform>>>,
    busy: AtomicUsize,
    /// As many as `room` has permits in all.
    most: AtomicUsize,
    fixed: bool,
    room: Arc<Semaphore>,
    /// It has told which cache mounts it has.
    told_caches: AtomicBool,
}

/// The workers. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    all: Vec<One>,
    /// Who has a layer, unpacked.
    layers: Mutex<HashMap<Digest, u64>>,
    /// Who has a cache mount.
    caches: Mutex<HashMap<String, usize>>,
    /// Held while one is chosen.
    choosing: Mutex<()>,
}

/// A step's place at a worker; free again when dropped.
pub struct Place {
    fleet: Fleet,
    number: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Fleet {
    /// Of these workers. `usual` steps at once of one that does not say.
    pub fn new(members: Vec<Member>, usual: usize) -> Self {
        let one = |member: Member| {
            let most = member.steps.unwrap_or(usual).max(1);
            One {
                name: member.name,
                worker: member.worker,
                state: Mutex::new(State::Up),
                platforms: Mutex::new(Some(member.platforms).filter(|p| !p.is_empty())),
                busy: AtomicUsize::new(0),
                most: AtomicUsize::new(most),
                fixed: member.steps.is_some(),
                room: Arc::new(Semaphore::new(most)),
                told_caches: AtomicBool::new(false),
            }
        };
        Self(Arc::new(Inner {
            all: members.into_iter().map(one).collect(),
            layers: Mutex::default(),
            caches: Mutex::default(),
            choosing: Mutex::default(),
        }))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.all.len()
    }

    /// What people call one.
    pub fn name(&self, number: usize) -> &str {
        self.0.all.get(number).map_or("", |one| &one.name)
    }

    /// The connection to one.
    pub fn worker(&self, number: usize) -> Option<&Worker> {
        self.0.all.get(number).map(|one| &one.worker)
    }

    /// Asks one a small question; it has a while to answer.
    pub async fn ask<T, F>(&self, number: usize, question: impl FnOnce(Worker) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let none = || Error::Invalid("there is no such worker".to_owned());
        let one = self.0.all.get(number).ok_or_else(none)?;
        let asked = tokio::time::timeout(ANSWER, question(one.worker.clone())).await;
        asked.unwrap_or_else(|_| Err(no_worker(&one.name, &silent())))
    }

    /// Why one cannot be used now; None = it can, as far as is known. One that has been left out for long
    /// enough is tried again, which nobody waits for.
    pub fn trouble(&self, number: usize) -> Option<String> {
        let one = self.0.all.get(number)?;
        let mut state = lock(&one.state);
        let State::Down { why, again } = &mut *state else {
            return None;
        };
        let why = why.clone();
        if *again <= Instant::now() {
            *again = Instant::now() + AGAIN + ANSWER;
            let fleet = self.clone();
            tokio::spawn(async move { fleet.try_again(number).await });
        }
        Some(why)
    }

    async fn try_again(&self, number: usize) {
        let Some(one) = self.0.all.get(number) else {
            return;
        };
        match tokio::time::timeout(ANSWER, one.worker.is_there()).await {
            Ok(Ok(())) => {
                tracing::info!(worker = one.name, "a worker is there again");
                *lock(&one.state) = State::Up;
            }
            Ok(Err(error)) => self.down(number, error.to_string()),
            Err(_) => self.down(number, silent()),
        }
    }

    /// Leaves one out for a while.
    pub fn down(&self, number: usize, why: String) {
        let Some(one) = self.0.all.get(number) else {
            return;
        };
        tracing::warn!(worker = one.name, why, "a worker cannot be used");
        let again = Instant::now() + AGAIN;
        *lock(&one.state) = State::Down { why, again };
        // What it has when it comes back is asked anew.
        one.told_caches.store(false, Ordering::Relaxed);
    }

    /// A lease at one, which is `Down` when it gives none.
    pub(super) async fn lease(&self, number: usize, title: &str) -> Result<Arc<Lease>> {
        let none = || Error::Invalid("there is no such worker".to_owned());
        let one = self.0.all.get(number).ok_or_else(none)?;
        let asked = tokio::time::timeout(ANSWER, one.worker.lease(title)).await;
        let asked = asked.unwrap_or_else(|_| Err(no_worker(&one.name, &silent())));
        match asked {
            Ok((lease, said)) => {
                *lock(&one.state) = State::Up;
                self.learn(one, said);
                Ok(lease)
            }
            Err(error) => {
                let why = match &error {
                    Error::WorkerLost { why, .. } => why.clone(),
                    other => other.to_string(),
                };
                self.down(number, why.clone());
                Err(no_worker(&one.name, &why))
            }
        }
    }

    fn learn(&self, one: &One, said: pb::LeaseResponse) {
        let platforms = said.platforms.iter();
        let platforms: Vec<Platform> = platforms
            .map(|p| Platform::new(&p.os, &p.architecture, &p.variant))
            .collect();
        let mut known = lock(&one.platforms);
        // One that does not say is of an older version: of this host's platform.
        known.get_or_insert(match platforms.is_empty() {
            true => vec![Platform::host()],
            false => platforms,
        });
        drop(known);
        let processors = usize::try_from(said.processors).unwrap_or(0);
        if one.fixed || processors == 0 {
            return;
        }
        // Some more than processors, because many steps wait for a network.
        let most = processors.max(4);
        let before = one.most.swap(most, Ordering::Relaxed);
        if most > before {
            one.room.add_permits(most - before);
        } else {
            // Said with the first lease, before there is a step: all of them are free.
            one.room.forget_permits(before - most);
        }
    }

    /// What one can run, if it is known.
    pub fn platforms(&self, number: usize) -> Option<Vec<Platform>> {
        let one = self.0.all.get(number)?;
        lock(&one.platforms).clone()
    }

    /// One as a candidate for a step upon these layers.
    pub fn candidate(&self, number: usize, layers: &[Layer], caches: &[&str]) -> Candidate {
        let Some(one) = self.0.all.get(number) else {
            return Candidate::default();
        };
        let bit = 1 << number;
        let known = lock(&self.0.layers);
        let lacks = layers
            .iter()
            .filter(|l| known.get(&l.diff_id).is_none_or(|who| who & bit == 0));
        let lacks = lacks.map(|l| l.descriptor.size).sum();
        drop(known);
        let places = lock(&self.0.caches);
        let caches = caches.iter().filter(|c| places.get(**c) == Some(&number));
        Candidate {
            number,
            busy: one.busy.load(Ordering::Relaxed),
            most: one.most.load(Ordering::Relaxed),
            lacks,
            home: false,
            caches: caches.count(),
        }
    }

    /// A place at the best of these, which counts from now on: who chooses next sees it, also when both choose
    /// in the same moment.
    pub fn choose(&self, candidates: impl Iterator<Item = Candidate>) -> Option<Place> {
        let _choosing = lock(&self.0.choosing);
        let number = best(&candidates.collect::<Vec<_>>())?;
        Some(self.place(number))
    }

    fn place(&self, number: usize) -> Place {
        if let Some(one) = self.0.all.get(number) {
            one.busy.fetch_add(1, Ordering::Relaxed);
        }
        Place {
            fleet: self.clone(),
            number,
            permit: None,
        }
    }

    /// Remembers that one has these layers and cache mounts now.
    pub fn has<'a>(&self, number: usize, layers: impl Iterator<Item = &'a Layer>, caches: &[&str]) {
        if self.count() < 2 {
            return;
        }
        let mut known = lock(&self.0.layers);
        if known.len() > MOST_LAYERS {
            known.clear();
        }
        for layer in layers {
            *known.entry(layer.diff_id.clone()).or_default() |= 1 << number;
        }
        drop(known);
        let mut places = lock(&self.0.caches);
        if places.len() > MOST_CACHES {
            places.clear();
        }
        for cache in caches {
            places.insert((*cache).to_owned(), number);
        }
    }

    /// Asks those that have not told yet which cache mounts they have.
    pub async fn ask_for_caches(&self, numbers: &[usize]) {
        let mut asking = Vec::new();
        for number in numbers {
            let Some(one) = self.0.all.get(*number) else {
                continue;
            };
            if !one.told_caches.swap(true, Ordering::Relaxed) {
                let asked = tokio::time::timeout(ANSWER, one.worker.caches());
                asking.push(async move { (*number, asked.await) });
            }
        }
        for (number, answer) in futures_util::future::join_all(asking).await {
            let Ok(Ok(caches)) = answer else { continue };
            let mut places = lock(&self.0.caches);
            for cache in caches {
                // Where somebody of ours had it last is the better place.
                places.entry(cache.id).or_insert(number);
            }
        }
    }
}

impl Place {
    /// Waits until the worker has room.
    pub async fn wait(&mut self) {
        let Some(one) = self.fleet.0.all.get(self.number) else {
            return;
        };
        // The semaphore is never closed.
        self.permit = one.room.clone().acquire_owned().await.ok();
    }

    /// At which worker.
    pub const fn number(&self) -> usize {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(one) = self.fleet.0.all.get(self.number) {
            one.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn silent() -> String {
    format!("it did not answer for {} seconds", ANSWER.as_secs())
}

fn no_worker(name: &str, why: &str) -> Error {
    Error::NoWorker(format!("the worker {name} cannot be used: {why}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
