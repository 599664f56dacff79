//! A build from request to image, and the list of recent ones.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use slipway_dockerfile::Dockerfile;
use slipway_image::Platform;
use slipway_proto::types::v1::RegistryAuth;

use crate::{
    cache::{Cache, OnDisk, Prune},
    context::{BuildContext, ContentStore},
    error::{Error, Result, Tried as _},
    events::{Event, Events, State, Step},
    export::{self, Exported, Naming},
    plan::{self, Options, stage::Given},
    registry::{Fetch, Registry},
    solve::{NoCache, Progress, Solver},
    worker::{StepSettings, Worker},
};

/// What a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The Dockerfile.
    pub dockerfile: bytes::Bytes,
    /// Its name, for messages.
    pub dockerfile_name: String,
    /// `-t`
    pub tags: Vec<String>,
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// `--target`
    pub target: String,
    /// `--no-cache`
    pub no_cache: NoCache,
    /// `--pull`
    pub pull: bool,
    /// `--platform`
    pub platform: Option<Platform>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--annotation`
    pub annotations: BTreeMap<String, String>,
    /// For all RUNs.
    pub settings: StepSettings,
    /// SOURCE_DATE_EPOCH
    pub latest: Option<i64>,
    /// Credentials by registry host.
    pub auths: HashMap<String, RegistryAuth>,
    /// Parse and plan only.
    pub check: bool,
}

/// A build that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The image; none when the Dockerfile was only checked.
    pub image: Option<Exported>,
    /// Its names, in full.
    pub tags: Vec<String>,
    /// Steps that change files.
    pub steps: u32,
    /// How many of them were cached.
    pub cached: u32,
}

/// A build that is or was.
#[derive(Debug, Clone)]
pub struct Entry {
    /// 64 hex digits.
    pub id: String,
    /// First tag, or the Dockerfile's name.
    pub name: String,
    /// When it began.
    pub started: SystemTime,
    /// None = it still runs.
    pub took: Option<Duration>,
    /// `running`, `completed`, `error` or `canceled`.
    pub status: &'static str,
    /// Steps that change files, and how many of them were cached.
    pub counts: (u32, u32),
}

/// How many builds are remembered.
const REMEMBERED: usize = 100;

/// Builds. One per service.
pub struct Builder {
    registry: Registry,
    worker: Worker,
    /// Files of contexts.
    pub store: Arc<ContentStore>,
    content_bytes: u64,
    builds: Mutex<VecDeque<Entry>>,
    /// Read by builds, written by what may not happen meanwhile.
    running: Arc<tokio::sync::RwLock<()>>,
}

impl Builder {
    /// Upon these services.
    pub fn new(
        registry: Registry,
        worker: Worker,
        store: ContentStore,
        content_bytes: u64,
    ) -> Self {
        Self {
            registry,
            worker,
            store: Arc::new(store),
            content_bytes,
            builds: Mutex::default(),
            running: Arc::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Entry>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Recent builds, newest first.
    pub fn list(&self) -> Vec<Entry> {
        self.lock().iter().rev().cloned().collect()
    }

    /// What the cache holds.
    pub async fn records(&self) -> Result<Vec<OnDisk>> {
        Cache::new(self.registry.clone()).usage().await
    }

    /// Removes records of the cache and files of contexts; returns keys and bytes. A build that runs
    /// counts on what it has found: meanwhile nothing is removed.
    pub async fn prune(&self, prune: Prune) -> Result<(Vec<String>, u64)> {
        let Ok(_alone) = self.running.try_write() else {
            let sentence = "a build is running: prune when it has ended".to_owned();
            return Err(Error::Conflict(sentence));
        };
        let (keys, bytes) = Cache::new(self.registry.clone()).prune(prune).await?;
        if prune.until.is_some() || prune.keep_bytes > 0 {
            return Ok((keys, bytes));
        }
        let store = self.store.clone();
        let gone = tokio::task::spawn_blocking(move || store.evict(0))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .tried(|| "cannot remove the context files".to_owned())?;
        Ok((keys, bytes + gone.1))
    }

    /// Builds. Dropping the future cancels it: what runs is stopped, and nothing of it stays.
    pub async fn build(
        self: &Arc<Self>,
        id: String,
        request: Request,
        context: BuildContext,
        events: Events,
    ) -> Result<Outcome> {
        let name = request.tags.first().unwrap_or(&request.dockerfile_name);
        let mut record = Recording::begin(self.clone(), id, name.clone());
        // Released before the recording is dropped.
        let _running = self.running.read().await;
        let done = self.run(request, context, events).await;
        match &done {
            Ok(outcome) => record.end("completed", (outcome.steps, outcome.cached)),
            Err(_) => record.end("error", (0, 0)),
        }
        done
    }

    async fn run(
        &self,
        request: Request,
        context: BuildContext,
        events: Events,
    ) -> Result<Outcome> {
        let naming = Naming {
            tags: export::tags(&request.tags)?,
            labels: request.labels,
            annotations: request.annotations,
        };
        let tags: Vec<String> = naming.tags.iter().map(ToString::to_string).collect();
        let file = Dockerfile::parse(&request.dockerfile_name, &request.dockerfile)
            .map_err(Error::Dockerfile)?;
        let options = Options {
            build_args: request.build_args,
            target: request.target,
            platform: request.platform,
        };
        let plan = plan::plan(&file, &options)?;
        let unused = plan::unused_arguments(&file, &options);
        if !unused.is_empty() {
            let message = format!("One or more build-args {unused:?} were not consumed");
            let warning = Event::Warning {
                rule: "UnusedBuildArg",
                message,
                line: 0,
            };
            events.tell(warning).await;
        }
        if request.check {
            return Ok(Outcome {
                image: None,
                tags,
                steps: 0,
                cached: 0,
            });
        }
        let solver = Arc::new(Solver {
            given: Given {
                build_args: options.build_args,
                global: plan.global.clone(),
            },
            file,
            plan,
            platform: options.platform,
            fetch: Fetch {
                always: request.pull,
                platform: None,
                auths: request.auths,
            },
            settings: request.settings,
            no_cache: request.no_cache,
            latest: request.latest,
            registry: self.registry.clone(),
            cache: Cache::new(self.registry.clone()),
            title: match tags.first() {
                Some(tag) => format!("build of {tag}"),
                None => format!("build of {}", request.dockerfile_name),
            },
            worker: self.worker.clone(),
            context,
            events: events.clone(),
            progress: Progress::default(),
        });
        let built = solver.solve().await?;
        events.tell(Event::NeedNoMore).await;
        let image = self.export(&solver, &built, &naming, &events).await?;
        let (steps, cached) = solver.counts();
        Ok(Outcome {
            image: Some(image),
            tags,
            steps,
            cached,
        })
    }

    /// Stores the image, as a step of its own.
    async fn export(
        &self,
        solver: &Solver,
        built: &crate::solve::Built,
        naming: &Naming,
        events: &Events,
    ) -> Result<Exported> {
        let mut step = Step {
            index: solver.indexes(1),
            name: "exporting to image".to_owned(),
            state: State::Started,
            started: SystemTime::now(),
        };
        events.tell(Event::Step(step.clone())).await;
        let begun = Instant::now();
        let exported = export::export(&self.registry, built, naming).await;
        step.state = match &exported {
            Ok(_) => State::Done(begun.elapsed()),
            Err(error) => State::Failed(begun.elapsed(), error.to_string()),
        };
        events.tell(Event::Step(step)).await;
        exported
    }
}

/// A build's line in the list; one that is dropped in the middle was cancelled.
struct Recording {
    builder: Arc<Builder>,
    id: String,
    begun: Instant,
    ended: bool,
}

impl Recording {
    fn begin(builder: Arc<Builder>, id: String, name: String) -> Self {
        let mut builds = builder.lock();
        if builds.len() == REMEMBERED {
            builds.pop_front();
        }
        builds.push_back(Entry {
            id: id.clone(),
            name,
            started: SystemTime::now(),
            took: None,
            status: "running",
            counts: (0, 0),
        });
        drop(builds);
        Self {
            builder,
            id,
            begun: Instant::now(),
            ended: false,
        }
    }

    fn end(&mut self, status: &'static str, counts: (u32, u32)) {
        self.ended = true;
        let mut builds = self.builder.lock();
        if let Some(entry) = builds.iter_mut().find(|e| e.id == self.id) {
            entry.took = Some(self.begun.elapsed());
            entry.status = status;
            entry.counts = counts;
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.ended {
            self.end("canceled", (0, 0));
        }
        // No build begins while content goes. Others that run need theirs: their end is another chance.
        let alone = self.builder.running.clone().try_write_owned();
        // A service that stops drops its builds outside of the runtime: then nothing is evicted.
        if let (Ok(alone), Ok(runtime)) = (alone, tokio::runtime::Handle::try_current()) {
            let (store, keep) = (self.builder.store.clone(), self.builder.content_bytes);
            runtime.spawn_blocking(move || {
                let _alone = alone;
                match store.evict(keep) {
                    Ok((0, _)) => {}
                    Ok((files, bytes)) => {
                        tracing::info!(files, bytes, "context files were evicted")
                    }
                    Err(error) => tracing::warn!(%error, "context files could not be evicted"),
                }
            });
        }
    }
}
