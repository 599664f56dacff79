//! A build from request to outputs.
//!
//! * [`request`]: what is asked for, and [`outcome`]: what is given;
//! * `run`: what happens in between;
//! * `disk`: what builds leave, `exchange`: caches that come from elsewhere and go there.

mod disk;
mod exchange;
pub mod outcome;
pub mod request;
mod run;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use tokio::sync::Semaphore;

pub use outcome::{Outcome, Pruned};
pub use request::{Call, Request};

use crate::{
    cache::Cache,
    caller::Caller,
    context::{BuildContext, ContentStore, Fetcher},
    error::Result,
    events::Events,
    history::{Entry, History, Status},
    registry::Registry,
    solve::turns::Turns,
    worker::{Entitlement, Fleet},
};

/// Steps that run at once: one a processor, and some more because many of them wait for a network.
pub fn parallel() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get().max(4))
}

/// Builds. One per service.
pub struct Builder {
    registry: Registry,
    fleet: Fleet,
    /// Files of contexts.
    pub store: Arc<ContentStore>,
    /// Gets those that are elsewhere.
    pub fetcher: Arc<Fetcher>,
    content_bytes: u64,
    /// Builds that are and were.
    pub history: Arc<History>,
    /// What this service lets builds do besides.
    pub grants: Vec<Entitlement>,
    /// When the builds that run began.
    running: Mutex<BTreeMap<u64, SystemTime>>,
    /// Steps of all builds that run at the same time.
    permits: Arc<Semaphore>,
    turns: Arc<Turns>,
    cache: Cache,
    cache_bytes: u64,
    /// When the cache was last collected.
    collected: tokio::sync::Mutex<Option<Instant>>,
    /// Held while files of contexts are evicted.
    evicting: tokio::sync::Mutex<()>,
}

impl Builder {
    /// Upon these services. Bytes: most of contexts' files, and most of the cache (0 = no limit).
    pub fn new(
        registry: Registry,
        fleet: Fleet,
        fetcher: Fetcher,
        (content_bytes, cache_bytes): (u64, u64),
        history: History,
        grants: Vec<Entitlement>,
    ) -> Self {
        Self {
            cache: Cache::new(registry.clone()),
            cache_bytes,
            collected: tokio::sync::Mutex::default(),
            turns: Arc::default(),
            registry,
            fleet,
            store: fetcher.store().clone(),
            fetcher: Arc::new(fetcher),
            content_bytes,
            history: Arc::new(history),
            grants,
            running: Mutex::default(),
            evicting: tokio::sync::Mutex::default(),
            permits: Arc::new(Semaphore::new(parallel())),
        }
    }

    /// What people call a worker.
    pub fn worker_name(&self, number: usize) -> &str {
        self.fleet.name(number)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, SystemTime>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds. Dropping the future cancels it: what runs is stopped, and nothing of it stays.
    pub async fn build(
        self: &Arc<Self>,
        id: String,
        request: Request,
        context: BuildContext,
        caller: Arc<Caller>,
        events: Events,
    ) -> Result<Outcome> {
        let name = request.tags.first().unwrap_or(&request.dockerfile_name);
        let mut record = self.history.begin(Entry {
            id: id.clone(),
            name: name.clone(),
            tags: request.tags.clone(),
            target: request.target.clone(),
            platforms: request.platforms.iter().map(ToString::to_string).collect(),
            dockerfile: request.dockerfile_name.clone(),
            started: SystemTime::now(),
            took: None,
            status: Status::Running,
            error: String::new(),
            image: String::new(),
            steps: 0,
            cached: 0,
        });
        let _running = Running::begin(self.clone());
        let done = self.run(&id, request, context, caller, events).await;
        record.end(match &done {
            Ok(outcome) => {
                let image = outcome.image.as_ref().map(|i| i.manifest.clone());
                Ok((image.unwrap_or_default(), outcome.steps, outcome.cached))
            }
            Err(error) => Err(error.to_string()),
        });
        done
    }
}

/// A build that runs; at its end, however it comes about, caches are brought back within their budgets.
struct Running {
    builder: Arc<Builder>,
    number: u64,
}

impl Running {
    fn begin(builder: Arc<Builder>) -> Self {
        let mut running = builder.running();
        let number = running.last_key_value().map_or(0, |(last, _)| last + 1);
        running.insert(number, SystemTime::now());
        drop(running);
        Self { builder, number }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.builder.running().remove(&self.number);
        // A service that stops drops its builds outside of the runtime: then nothing is collected.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let builder = self.builder.clone();
            runtime.spawn(async move {
                tokio::join!(builder.collect(), builder.bound_content());
                builder.give_back().await;
            });
        }
    }
}
