//! One step: its key, a look into the cache, and if need be the work itself.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime},
};

use super::{Results, Solver, copy::Arrangement, mounts};
use crate::{
    cache::{Key, KeyBuilder, REPOSITORY, Record},
    error::{Error, Result},
    events::{Event, Events, State, Step as Told},
    layer::{Layer, chain},
    plan::{Action, Base, CopyAction, RunAction, StagePlan, copy::Origin},
    worker::{Entitlement, Running, Target},
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
}

/// A copy with all that its key needs.
struct Source {
    /// Files that this service knows.
    files: Arc<Arrangement>,
    /// `--from` is these layers.
    layers: Option<Vec<Layer>>,
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
        let mut begun = Instant::now();
        let done = self.find_or_do(step, layers, &mut told, &mut begun).await;
        match &done {
            Ok((_, true)) => {
                self.progress.cached.fetch_add(1, Ordering::Relaxed);
                told.state = State::Cached;
            }
            Ok((_, false)) => told.state = State::Done(begun.elapsed()),
            Err(error) => told.state = State::Failed(begun.elapsed(), error.to_string()),
        }
        self.events.tell(Event::Step(told)).await;
        done.map(|(record, _)| record)
    }

    async fn find_or_do(
        &self,
        step: &Step<'_>,
        layers: &[Layer],
        told: &mut Told,
        begun: &mut Instant,
    ) -> Result<(Record, bool)> {
        let source = match step.action {
            Action::Copy(copy) => Some(self.copy_source(copy, step).await?),
            _ => None,
        };
        let mounts = match step.action {
            Action::Run(run) => self.mount_sources(run, step).await?,
            _ => Vec::new(),
        };
        let key = self.key(step.action, layers, source.as_ref(), &mounts);
        if self.uses_cache(step.plan)
            && let Some(record) = self.known(&key, step.line).await?
        {
            self.progress.note(&key, &record);
            return Ok((record, true));
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
        // The semaphore is never closed.
        let _permit = self.progress.permits.acquire().await;
        // Waiting for other stages is no part of the work.
        (told.started, *begun) = (SystemTime::now(), Instant::now());
        self.events.tell(Event::Step(told.clone())).await;
        let events = match (&turn, step.action) {
            // What it prints may be of a secret, which is this caller's alone.
            (Some(turn), Action::Run(run)) if run.mounts.is_empty() => {
                self.events.heard_by(turn.audience())
            }
            _ => self.events.clone(),
        };
        let layer = match (step.action, &source) {
            (Action::None, _) => None,
            (Action::MakeFolder { path, user }, _) => self.make_folder(path, user, layers).await?,
            (Action::Run(run), _) => {
                self.run(run, &mounts, layers, (&events, step.index))
                    .await?
            }
            (Action::Copy(copy), Some(source)) => self.copy(copy, source, layers).await?,
            (Action::Copy(_), None) => None,
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
        let Some(record) = self.imported.get(&key.to_string()) else {
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

    async fn make_folder(&self, path: &str, user: &str, layers: &[Layer]) -> Result<Option<Layer>> {
        if path == "/" {
            return Ok(None);
        }
        let snapshot = self.lease().await?.prepare(layers).await?;
        // An apply without entries makes its target folder.
        let target = Target {
            folder: path.to_owned(),
            owner: user.to_owned(),
            ..Target::default()
        };
        let (send, receive) = tokio::sync::mpsc::channel(1);
        drop(send);
        snapshot.apply(&target, receive).await?;
        snapshot.commit(REPOSITORY, self.latest).await
    }

    async fn run(
        &self,
        run: &RunAction,
        sources: &[mounts::Source],
        layers: &[Layer],
        (events, index): (&Events, u32),
    ) -> Result<Option<Layer>> {
        // A Dockerfile alone must not reach what listens on the worker's loopback, or become its root.
        if run.network == "host" {
            self.settings.check(Entitlement::NetworkHost)?;
        }
        if run.insecure {
            self.settings.check(Entitlement::SecurityInsecure)?;
        }
        let lease = self.lease().await?;
        let snapshot = lease.prepare(layers).await?;
        let ready = self.make_ready(lease, run, sources).await?;
        let running = Running {
            action: run,
            settings: &self.settings,
            mounts: ready.mounts.clone(),
            env: &ready.env,
            caller: &self.caller,
        };
        let code = snapshot.run(running, events, index).await?;
        drop(ready);
        if code != 0 {
            return Err(Error::Exit {
                command: run.args.join(" "),
                code,
            });
        }
        snapshot.commit(REPOSITORY, self.latest).await
    }

    async fn copy(
        &self,
        copy: &CopyAction,
        source: &Source,
        layers: &[Layer],
    ) -> Result<Option<Layer>> {
        let below = if copy.link { &[] } else { layers };
        if below.is_empty()
            && source.layers.is_none()
            && let Some(layer) = self.direct(copy, &source.files).await?
        {
            return Ok(Some(layer));
        }
        let snapshot = self.lease().await?.prepare(below).await?;
        if let Some(from) = &source.layers {
            self.copy_layers(copy, from, &snapshot).await?;
        }
        if source.layers.is_none() || !source.files.parts.is_empty() {
            self.copy_files(copy, &source.files, &snapshot).await?;
        }
        snapshot.commit(REPOSITORY, self.latest).await
    }
}
