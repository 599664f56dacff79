//! One step: its key, a look into the cache, and if need be the work itself.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use slipway_image::{Digest, Platform};

use super::{Results, Solver, copy::Arrangement, mounts};
use crate::{
    cache::{Key, KeyBuilder, REPOSITORY, Record},
    error::{Error, Result},
    events::{Event, Events, State, Step as Told},
    layer::{Layer, chain},
    plan::{Action, Base, CopyAction, RunAction, StagePlan, copy::Origin, values::shortened},
    worker::{
        Entitlement, Lease, Running, Target,
        placing::{Home, Wanted},
    },
};

/// What is to be done.
pub struct Step<'a> {
    /// Number, for events.
    pub index: u32,
    /// `[2/5] RUN x`
    pub name: String,
    /// The work.
    pub action: &'a Action,
    /// The stage it belongs to.
    pub plan: &'a StagePlan,
    /// Results of other stages.
    pub results: &'a Results,
    /// Line of the history.
    pub line: &'a str,
    /// Where the step before it was done.
    pub home: &'a Home,
    /// Others will need what it makes.
    pub more: bool,
}

/// A copy with all that its key needs.
struct Source {
    /// Files that this service knows.
    files: Arc<Arrangement>,
    /// `--from` is these layers.
    layers: Option<Vec<Layer>>,
}

/// What a step made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// None = nothing changed.
    pub layer: Option<Layer>,
    /// The worker that was asked has it unpacked.
    pub at_worker: bool,
}

impl Made {
    /// By a worker, which keeps what it made.
    const fn there(layer: Option<Layer>) -> Self {
        Self {
            layer,
            at_worker: true,
        }
    }
}

impl Solver {
    /// Does a step upon these layers, or finds what it made before.
    pub(super) async fn step(&self, step: &Step<'_>, layers: &[Layer]) -> Result<Record> {
        self.progress.steps.fetch_add(1, Ordering::Relaxed);
        let mut told = Told {
            index: step.index,
            name: step.name.clone(),
            state: State::Started,
            started: SystemTime::now(),
        };
        let mut begun = None;
        let done = self.find_or_do(step, layers, &mut told, &mut begun).await;
        let took = begun.map_or(Duration::ZERO, |b: Instant| b.elapsed());
        match &done {
            Ok((_, true)) => {
                self.progress.cached.fetch_add(1, Ordering::Relaxed);
                told.state = State::Cached;
            }
            Ok((_, false)) => told.state = State::Done(took),
            Err(error) => told.state = State::Failed(took, error.to_string()),
        }
        self.events.tell(Event::Step(told)).await;
        done.map(|(record, _)| record)
    }

    async fn find_or_do(
        &self,
        step: &Step<'_>,
        layers: &[Layer],
        told: &mut Told,
        begun: &mut Option<Instant>,
    ) -> Result<(Record, bool)> {
        let source = match step.action {
            Action::Copy(copy) => Some(self.copy_source(copy, step).await?),
            _ => None,
        };
        let mounts = match step.action {
            Action::Run(run) => {
                let sources = self.mount_sources(run, step).await?;
                self.note_caches(run, &sources);
                sources
            }
            _ => Vec::new(),
        };
        let key = self.key(step.action, layers, source.as_ref(), &mounts);
        if self.uses_cache(step.plan)
            && let Some(record) = self.known(&key, step.line).await?
        {
            self.progress.note(&key, &record);
            return Ok((record, true));
        }
        // Before anything is taken that others wait for: a caller that sends slowly keeps nobody else waiting.
        let missing = self.missing(source.as_ref(), &mounts).await?;
        if !missing.is_empty() {
            self.begin(told, begun).await;
            self.context.ask_for(&missing).await?;
        }
        let turn = match self.uses_cache(step.plan) {
            false => None,
            true => {
                let turns = &self.progress.turns;
                let turn = turns.wait(&key, &self.events, told).await;
                // Somebody else may have done it while we waited.
                if let Some(record) = self.cache.find(&key).await? {
                    self.progress.note(&key, &record);
                    return Ok((record, true));
                }
                Some(turn)
            }
        };
        let events = match (&turn, step.action) {
            // What it prints may be of a secret, which is this caller's alone.
            (Some(turn), Action::Run(run)) if run.mounts.is_empty() => {
                self.events.heard_by(turn.audience())
            }
            _ => self.events.clone(),
        };
        let work = Work {
            action: step.action,
            source: source.as_ref(),
            mounts: &mounts,
            layers,
            events: &events,
            index: step.index,
            more: step.more,
        };
        let here = {
            // The semaphore is never closed.
            let _permit = self.progress.permits.acquire().await;
            self.done_here(&work, told, begun).await?
        };
        let layer = match here {
            Some(layer) => layer,
            None => self.done_elsewhere(&work, step, told, begun).await?,
        };
        let record = Record {
            layer,
            created: self.now(),
        };
        self.cache.keep(&key, &record, step.line).await?;
        self.progress.note(&key, &record);
        Ok((record, false))
    }

    /// The record of a key, from the site's cache or one that the caller named.
    async fn known(&self, key: &Key, line: &str) -> Result<Option<Record>> {
        {
            // What is found while nothing is removed, and held from before, stays.
            let _looking = self.cache.uses.looking().await;
            self.progress.held.hold(&key.to_string());
            if let Some(record) = self.cache.find(key).await? {
                self.progress.held.found(&key.to_string());
                return Ok(Some(record));
            }
        }
        let Some(record) = self.imported.records.get(&key.to_string()) else {
            return Ok(None);
        };
        // A layer that the caller sent would not stay here by itself.
        if record
            .layer
            .as_ref()
            .is_none_or(|l| l.repository == REPOSITORY)
        {
            self.cache.keep(key, record, line).await?;
        }
        Ok(Some(record.clone()))
    }

    /// RFC 3339; with SOURCE_DATE_EPOCH that.
    pub(super) fn now(&self) -> String {
        let now = jiff::Timestamp::now();
        let time = self
            .latest
            .and_then(|s| jiff::Timestamp::from_second(s).ok());
        time.unwrap_or(now).to_string()
    }

    async fn copy_source(&self, copy: &CopyAction, step: &Step<'_>) -> Result<Source> {
        // A named context is files that this service knows, like the main one.
        let (context, layers) = match &copy.from {
            None => (Some(""), None),
            Some(from) => match step.plan.sources.get(from) {
                Some(Base::Context(name)) => (Some(name.as_str()), None),
                _ => (
                    None,
                    Some(self.source(step.plan, step.results, from).await?),
                ),
            },
        };
        let files = self.arrange(copy, context).await?;
        Ok(Source {
            files: Arc::new(files),
            layers,
        })
    }

    /// Content that a step needs and this service lacks.
    async fn missing(
        &self,
        source: Option<&Source>,
        mounts: &[mounts::Source],
    ) -> Result<Vec<Digest>> {
        let mounted = mounts.iter().filter_map(mounts::Source::files);
        let copied = source.map(|source| &source.files);
        let wanted: Vec<_> = copied
            .into_iter()
            .chain(mounted)
            .flat_map(|f| f.content())
            .collect();
        match wanted.is_empty() {
            true => Ok(Vec::new()),
            false => self.context.missing(wanted).await,
        }
    }

    fn key(
        &self,
        action: &Action,
        layers: &[Layer],
        source: Option<&Source>,
        mounts: &[mounts::Source],
    ) -> Key {
        let mut key = KeyBuilder::new(match action {
            Action::None => "none",
            Action::MakeFolder { .. } => "folder",
            Action::Run(_) => "run",
            Action::Copy(_) => "copy",
        });
        // A result with clamped times is another result.
        key.part(self.latest.map(|l| l.to_string()).unwrap_or_default());
        match action {
            Action::None => {}
            Action::MakeFolder { path, user } => {
                key.part(chain(layers)).part(path).part(user);
            }
            Action::Run(run) => {
                let network = self.network_of(run);
                key.part(chain(layers))
                    .list(&run.args)
                    .list(&run.env)
                    .part(&run.working_dir)
                    .part(&run.user)
                    .part(network)
                    .part(
                        run.script
                            .as_ref()
                            .map_or("", |(_, content)| content.as_str()),
                    )
                    .list(&self.settings.extra_hosts)
                    .number(self.settings.shm_size);
                for limit in &self.settings.ulimits {
                    key.part(&limit.name)
                        .part(limit.soft.to_le_bytes())
                        .part(limit.hard.to_le_bytes());
                }
                if run.insecure {
                    key.part("insecure");
                }
                mounts::add_to(&mut key, run, mounts);
            }
            Action::Copy(copy) => {
                let below = if copy.link {
                    String::new()
                } else {
                    chain(layers)
                };
                key.part(below)
                    .number(u64::from(copy.link))
                    .number(u64::from(copy.add))
                    .part(&copy.destination)
                    .part(&copy.chown);
                let Some(source) = source else {
                    return key.finish();
                };
                source.files.add_to(&mut key);
                if let Some(layers) = &source.layers {
                    key.part("layers")
                        .part(chain(layers))
                        .number(u64::from(copy.parents))
                        .list(&copy.exclude)
                        .part(format!("{:?}", copy.chmod));
                    for origin in &copy.origins {
                        if let Origin::Path(path) = origin {
                            key.part(path);
                        }
                    }
                }
            }
        }
        key.finish()
    }

    /// What a RUN may reach: its own option, or the build's.
    pub(super) fn network_of<'a>(&'a self, run: &'a RunAction) -> &'a str {
        [&run.network, &self.settings.network]
            .into_iter()
            .find(|n| !n.is_empty())
            .map_or("default", String::as_str)
    }

    /// Tells that a step begins, once. Waiting for other stages, or for room, is no part of it.
    async fn begin(&self, told: &mut Told, begun: &mut Option<Instant>) {
        if begun.is_some() {
            return;
        }
        (told.started, *begun) = (SystemTime::now(), Some(Instant::now()));
        self.events.tell(Event::Step(told.clone())).await;
    }

    /// What needs no worker: nothing, or a layer straight from files. None = it needs one.
    async fn done_here(
        &self,
        work: &Work<'_>,
        told: &mut Told,
        begun: &mut Option<Instant>,
    ) -> Result<Option<Option<Layer>>> {
        match (work.action, work.source) {
            (Action::None, _) => Ok(Some(None)),
            (Action::MakeFolder { path, .. }, _) if path == "/" => {
                self.begin(told, begun).await;
                Ok(Some(None))
            }
            (Action::Copy(copy), Some(source))
                if source.layers.is_none() && work.below(copy).is_empty() =>
            {
                self.begin(told, begun).await;
                Ok(self
                    .direct(copy, &source.files, None, work.more)
                    .await?
                    .map(|made| made.layer))
            }
            _ => Ok(None),
        }
    }

    /// Lets a worker do it, and another one when that is lost.
    async fn done_elsewhere(
        &self,
        work: &Work<'_>,
        step: &Step<'_>,
        told: &mut Told,
        begun: &mut Option<Instant>,
    ) -> Result<Option<Layer>> {
        let run = match work.action {
            Action::Run(run) => Some(run),
            _ => None,
        };
        if let Some(run) = run {
            self.check(run)?;
        }
        let wanted = Wanted {
            layers: work.layers,
            platform: run.map(|_| self.runs_on(step)),
            caches: run.map(mounts::caches).unwrap_or_default(),
            home: step.home,
        };
        let mut search = self.progress.leases.search(wanted, &self.events);
        loop {
            let placed = search.next().await?;
            self.begin(told, begun).await;
            match self.at_worker(work, &placed.lease).await {
                Ok(made) => {
                    let there = made.layer.as_ref().filter(|_| made.at_worker);
                    search.done(&placed, there);
                    return Ok(made.layer);
                }
                Err(error) => search.goes_on(placed, error).await?,
            }
        }
    }

    /// What a step's programs are of.
    fn runs_on(&self, step: &Step<'_>) -> Platform {
        let wanted = step.plan.platform.as_ref().or(self.platform.as_ref());
        wanted.cloned().unwrap_or_else(Platform::host)
    }

    async fn at_worker(&self, work: &Work<'_>, lease: &Arc<Lease>) -> Result<Made> {
        match (work.action, work.source) {
            (Action::MakeFolder { path, user }, _) => {
                let snapshot = lease.prepare(work.layers).await?;
                // An apply without entries makes its target folder.
                let target = Target {
                    folder: path.clone(),
                    owner: user.clone(),
                    ..Target::default()
                };
                let (send, receive) = tokio::sync::mpsc::channel(1);
                drop(send);
                snapshot.apply(&target, receive).await?;
                let made = snapshot.commit(REPOSITORY, self.latest).await?;
                Ok(Made::there(made))
            }
            (Action::Run(run), _) => self.run(run, work, lease).await.map(Made::there),
            (Action::Copy(copy), Some(source)) => {
                let snapshot = lease.prepare(work.below(copy)).await?;
                if source.layers.is_none()
                    && let Some(made) = self
                        .direct(copy, &source.files, Some(&snapshot), work.more)
                        .await?
                {
                    return Ok(made);
                }
                if let Some(from) = &source.layers {
                    self.copy_layers(copy, from, &snapshot, lease).await?;
                }
                if source.layers.is_none() || !source.files.parts.is_empty() {
                    self.copy_files(copy, &source.files, &snapshot).await?;
                }
                let made = snapshot.commit(REPOSITORY, self.latest).await?;
                Ok(Made::there(made))
            }
            (Action::None | Action::Copy(_), _) => Ok(Made::default()),
        }
    }

    /// A Dockerfile alone must not reach what listens on a worker's loopback, or become its root.
    fn check(&self, run: &RunAction) -> Result<()> {
        if run.network == "host" {
            self.settings.check(Entitlement::NetworkHost)?;
        }
        if run.insecure {
            self.settings.check(Entitlement::SecurityInsecure)?;
        }
        Ok(())
    }

    async fn run(
        &self,
        run: &RunAction,
        work: &Work<'_>,
        lease: &Arc<Lease>,
    ) -> Result<Option<Layer>> {
        let snapshot = lease.prepare(work.layers).await?;
        let ready = self.make_ready(lease, run, work.mounts).await?;
        self.bring_caches(&ready.mounts, lease, (work.events, work.index))
            .await;
        let running = Running {
            action: run,
            settings: &self.settings,
            mounts: ready.mounts.clone(),
            env: &ready.env,
            caller: &self.caller,
        };
        let code = snapshot.run(running, work.events, work.index).await?;
        drop(ready);
        if code != 0 {
            return Err(Error::Exit {
                // A script may be any length; the line is shown, too.
                command: shortened(&run.args.join(" ")),
                code,
            });
        }
        snapshot.commit(REPOSITORY, self.latest).await
    }
}

/// A step's work with all that it needs, wherever it is done.
struct Work<'a> {
    action: &'a Action,
    source: Option<&'a Source>,
    mounts: &'a [mounts::Source],
    layers: &'a [Layer],
    events: &'a Events,
    index: u32,
    more: bool,
}

impl Work<'_> {
    /// The layers that a copy is upon.
    fn below(&self, copy: &CopyAction) -> &[Layer] {
        if copy.link { &[] } else { self.layers }
    }
}
