//! The mounts of a RUN: what they count for in its key, and how its worker gets what they show.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use slipway_dockerfile::mount::{Kind, Mount};
use slipway_proto::runtime::v1::StepMount;
use zeroize::Zeroizing;

use super::{Solver, copy::Arrangement, step::Step};
use crate::{
    cache::{KeyBuilder, carried::MountId},
    error::{Error, Result},
    events::{Event, Events},
    layer::{Layer, chain},
    plan::{Base, CopyAction, RunAction},
    worker::{Lease, Snapshot},
};

/// Where a mount's files come from.
pub enum Source {
    /// It has none.
    Nothing,
    /// From the context: just what it shows.
    Context(Arc<Arrangement>),
    /// From these layers.
    Layers(Vec<Layer>),
}

impl Source {
    /// Files of the context that it shows.
    pub fn files(&self) -> Option<&Arc<Arrangement>> {
        match self {
            Self::Context(files) => Some(files),
            Self::Nothing | Self::Layers(_) => None,
        }
    }
}

/// What a step's mounts need while it runs.
#[derive(Default)]
pub struct Ready {
    /// As the worker is told.
    pub mounts: Vec<StepMount>,
    /// `NAME=secret`
    pub env: Vec<Zeroizing<String>>,
    _snapshots: Vec<Arc<Snapshot>>,
}

impl Solver {
    /// Finds the sources of a RUN's mounts.
    pub(super) async fn mount_sources(
        &self,
        run: &RunAction,
        step: &Step<'_>,
    ) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for mount in &run.mounts {
            let base = mount.from.as_ref().and_then(|f| step.plan.sources.get(f));
            let source = match (mount.kind, &mount.from) {
                (Kind::Bind, Some(_)) if let Some(Base::Context(name)) = base => {
                    Source::Context(self.context_mount(mount, name).await?)
                }
                (Kind::Bind | Kind::Cache, Some(from)) => {
                    Source::Layers(self.source(step.plan, step.results, from).await?)
                }
                (Kind::Bind, None) => Source::Context(self.context_mount(mount, "").await?),
                _ => Source::Nothing,
            };
            sources.push(source);
        }
        Ok(sources)
    }

    async fn context_mount(&self, mount: &Mount, context: &str) -> Result<Arc<Arrangement>> {
        let manifest = self.context.manifest(context).await?;
        // A source is one path, whatever characters it has.
        let mut found = manifest.find(&mount.source);
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(Arc::new(Arrangement::of(manifest, only))),
            _ => Err(Error::SourceMissing(format!(
                "\"{}\": not found (is it left out by .dockerignore, or outside of the context?)",
                mount.source
            ))),
        }
    }

    /// Sees to all that the mounts show.
    pub(super) async fn make_ready(
        &self,
        lease: &Arc<Lease>,
        run: &RunAction,
        sources: &[Source],
    ) -> Result<Ready> {
        let mut ready = Ready::default();
        if let Some((name, content)) = &run.script {
            // BuildKit, dockerfile2llb/convert.go: a here-document with an interpreter of its own.
            ready.mounts.push(StepMount {
                r#type: "file".to_owned(),
                target: format!("/dev/pipes/{name}"),
                secret: content.clone().into(),
                mode: 0o755,
                read_only: true,
                ..StepMount::default()
            });
        }
        let mut snapshots: HashMap<&str, Arc<Snapshot>> = HashMap::new();
        for (mount, source) in run.mounts.iter().zip(sources) {
            let mut told = StepMount {
                r#type: mount.kind.word().to_owned(),
                target: mount.target.clone(),
                source: mount.source.clone(),
                read_only: mount.read_only,
                mode: mount.mode.unwrap_or(0),
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
                size: mount.size,
                ..StepMount::default()
            };
            let from = mount.from.as_deref().unwrap_or_default();
            match source {
                Source::Nothing => {}
                Source::Context(arrangement) => {
                    let snapshot = Arc::new(lease.prepare(&[]).await?);
                    told.source = self.fill(arrangement, &snapshot).await?;
                    told.snapshot_id = snapshot.id().to_owned();
                    ready._snapshots.push(snapshot);
                }
                Source::Layers(layers) => {
                    let snapshot = match snapshots.get(from) {
                        Some(there) => there.clone(),
                        None => Arc::new(lease.prepare(layers).await?),
                    };
                    told.snapshot_id = snapshot.id().to_owned();
                    snapshots.insert(from, snapshot.clone());
                    ready._snapshots.push(snapshot);
                }
            }
            match mount.kind {
                Kind::Cache => {
                    told.cache_id.clone_from(&mount.id);
                    told.cache_base = cache_base(mount, source);
                    mount.sharing.word().clone_into(&mut told.sharing);
                }
                Kind::Secret => {
                    self.secret(mount, told, &mut ready).await?;
                    continue;
                }
                Kind::Ssh => {
                    if !self.caller.has_agent(&mount.id) {
                        if mount.required {
                            return Err(Error::Context(format!(
                                "no SSH key {:?} forwarded from the client",
                                mount.id
                            )));
                        }
                        continue;
                    }
                    told.agent.clone_from(&mount.id);
                }
                Kind::Bind | Kind::Tmpfs => {}
            }
            ready.mounts.push(told);
        }
        Ok(ready)
    }

    async fn secret(&self, mount: &Mount, mut told: StepMount, ready: &mut Ready) -> Result<()> {
        let Some(secret) = self.caller.secret(&mount.id).await? else {
            return match mount.required {
                // BuildKit, session/secrets/secrets.go.
                true => Err(Error::Context(format!("secret {}: not found", mount.id))),
                false => Ok(()),
            };
        };
        if let Some(name) = &mount.env {
            let text = std::str::from_utf8(secret.bytes());
            let text = text.ok().filter(|t| !t.contains('\0')).ok_or_else(|| {
                Error::Context(format!(
                    "secret {} is no text: it cannot be the value of {name}",
                    mount.id
                ))
            })?;
            ready.env.push(Zeroizing::new(format!("{name}={text}")));
        }
        if !mount.target.is_empty() {
            told.secret = secret.into_bytes();
            ready.mounts.push(told);
        }
        Ok(())
    }

    /// Remembers which cache mounts the build has.
    pub(super) fn note_caches(&self, run: &RunAction, sources: &[Source]) {
        let caches = run.mounts.iter().zip(sources);
        let caches = caches.filter(|(mount, _)| mount.kind == Kind::Cache);
        let mounts = self.progress.mounts.lock();
        let mut mounts = mounts.unwrap_or_else(PoisonError::into_inner);
        mounts.extend(caches.map(|(mount, source)| MountId {
            id: mount.id.clone(),
            base: cache_base(mount, source),
        }));
    }

    /// Lets cache mounts that a worker lacks begin as those that `--cache-from` has, each once. A cache may be
    /// lacking: what fails is told, and the step runs without it.
    pub(super) async fn bring_caches(
        &self,
        mounts: &[StepMount],
        lease: &Lease,
        (events, index): (&Events, u32),
    ) {
        for mount in mounts.iter().filter(|m| m.r#type == Kind::Cache.word()) {
            let id = MountId {
                id: mount.cache_id.clone(),
                base: mount.cache_base.clone(),
            };
            let Some((layer, replace)) = self.imported.mounts.get(&id) else {
                continue;
            };
            let name = id.id.strip_prefix('/').unwrap_or(&id.id).to_owned();
            let once = {
                let all = self.progress.carried.lock();
                let mut all = all.unwrap_or_else(PoisonError::into_inner);
                let key = (lease.id().to_owned(), id);
                all.entry(key).or_default().clone()
            };
            let bring = async {
                let sentence = match lease.import_cache(mount, layer, *replace).await {
                    Ok(None) => return,
                    Ok(Some(bytes)) => format!("cache mount {name}: {bytes} bytes were imported\n"),
                    Err(error) => format!("cache mount {name} begins empty: {error}\n"),
                };
                let told = Event::Log {
                    index,
                    stderr: true,
                    data: sentence.into(),
                };
                events.tell(told).await;
            };
            once.get_or_init(|| bring).await;
        }
    }

    /// Puts what a mount shows of the context into an empty snapshot; returns where it is there.
    async fn fill(&self, arrangement: &Arc<Arrangement>, snapshot: &Snapshot) -> Result<String> {
        let copy = CopyAction {
            destination: "/".to_owned(),
            ..CopyAction::default()
        };
        self.copy_files(&copy, arrangement, snapshot).await?;
        let file = arrangement.parts.first().map(|p| &p.found);
        Ok(match file.filter(|f| !f.folder) {
            Some(file) => format!("/{}", file.name),
            None => "/".to_owned(),
        })
    }
}

/// Ids of the cache mounts of a RUN.
pub fn caches(run: &RunAction) -> Vec<&str> {
    let caches = run.mounts.iter().filter(|m| m.kind == Kind::Cache);
    caches.map(|m| m.id.as_str()).collect()
}

/// What a cache begins with, in a word: those of one id that begin differently are different ones.
fn cache_base(mount: &Mount, source: &Source) -> String {
    let mut base = match source {
        Source::Layers(layers) => chain(layers),
        _ => String::new(),
    };
    // Only where the cache's own root is mounted, as BuildKit.
    if mount.source == "/" && (mount.uid, mount.gid, mount.mode) != (None, None, None) {
        base.push_str(&format!(
            ":{}:{}:{:o}",
            mount.uid.unwrap_or(0),
            mount.gid.unwrap_or(0),
            mount.mode.unwrap_or(0o755)
        ));
    }
    base
}

/// Adds mounts to a key: ids and options of all, the content of what is bound; never the content of caches
/// and secrets.
pub fn add_to(key: &mut KeyBuilder, run: &RunAction, sources: &[Source]) {
    if run.mounts.is_empty() {
        return;
    }
    key.part("mounts").number(run.mounts.len() as u64);
    for (mount, source) in run.mounts.iter().zip(sources) {
        key.part(mount.kind.word())
            .part(&mount.id)
            .part(&mount.target)
            .number(u64::from(mount.read_only))
            .part(mount.sharing.word())
            .number(u64::from(mount.required))
            .number(mount.size)
            .part(mount.env.as_deref().unwrap_or_default());
        for number in [mount.mode, mount.uid, mount.gid] {
            key.number(number.map_or(0, |n| u64::from(n) + 1));
        }
        match source {
            Source::Nothing => {
                key.part("nothing").part(&mount.source);
            }
            Source::Context(arrangement) => arrangement.add_to(key),
            Source::Layers(layers) => {
                key.part("layers").part(chain(layers)).part(&mount.source);
            }
        }
    }
}
