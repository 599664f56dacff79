//! A build's context on the builder's side: its manifest, and its content as far as it is needed.
//!
//! The manifest comes first; one that came before is only named. Content is asked for by digest, and only what a step that is
//! not cached needs and what is not here from an earlier build: a cached build moves no content.

pub mod blocks;
pub mod capability;
pub mod content;
pub mod fetch;
pub mod git;
pub mod manifest;
pub mod offered;
pub mod remote;
pub mod tarball;

use std::{
    collections::{BTreeMap, HashMap},
    io::Read as _,
    sync::{Arc, Mutex, PoisonError},
};

use slipway_image::Digest;
use tokio::sync::{Notify, OnceCell, watch};

pub use capability::Capability;
pub use content::ContentStore;
pub use fetch::Fetcher;
use fetch::redacted;
pub use manifest::{Entry, Kind, Manifest, Match};
pub use offered::Offered;

use crate::{
    caller::Caller,
    error::{Error, Result, Tried as _},
    events::{Event, Events},
};

/// Digests that are asked for in one message: far below its limit of 4 MiB.
const NEEDS: usize = 50_000;

/// The context of one build. Cheap to clone.
#[derive(Clone)]
pub struct BuildContext {
    sources: Arc<HashMap<String, Sent>>,
    /// Gets what is elsewhere.
    pub fetcher: Arc<Fetcher>,
    /// Where content is.
    pub store: Arc<ContentStore>,
    arrivals: Arc<Arrivals>,
    events: Events,
    /// Who has the credentials for what is elsewhere.
    caller: Arc<Caller>,
}

/// What a context that is elsewhere turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// A commit.
    Git(String),
    /// What a URL gave.
    Http(Digest),
}

/// A manifest, or why there is none.
pub type Outcome = std::result::Result<Arc<Manifest>, String>;

/// Where the manifest of a context comes from.
enum Sent {
    /// From the caller, sooner or later.
    Caller(watch::Receiver<Option<Outcome>>),
    /// From elsewhere, when somebody asks for it.
    Remote(Remote, OnceCell<(Arc<Manifest>, Material)>),
}

/// A context that is elsewhere.
struct Remote {
    url: String,
    /// Of a repository whose URL does not say whether `.git` is wanted.
    keep_git_dir: bool,
}

/// Which contexts a build has; "" is the main one's name.
pub struct Announced<'a> {
    /// Those that the caller sends.
    pub sent: &'a [String],
    /// Those that are at a URL.
    pub remote: &'a BTreeMap<String, String>,
    /// `.git` of the main one is kept, if that is a repository and its URL does not say (the build argument
    /// `BUILDKIT_CONTEXT_KEEP_GIT_DIR`).
    pub keep_git_dir: bool,
}

/// What the caller's messages give.
pub struct Feed {
    /// The manifests that are to come, by name.
    pub manifests: HashMap<String, watch::Sender<Option<Outcome>>>,
    /// Content that has come.
    pub arrivals: Arc<Arrivals>,
}

/// Which content was asked for, and what has become of it.
#[derive(Default)]
pub struct Arrivals {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// None = on its way.
    asked: HashMap<Digest, Option<std::result::Result<(), String>>>,
    closed: bool,
}

impl Arrivals {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Content has come, or cannot come.
    pub fn arrived(&self, digest: &Digest, outcome: std::result::Result<(), String>) {
        // What nobody asked for is not remembered.
        if let Some(state) = self.lock().asked.get_mut(digest) {
            *state = Some(outcome);
        }
        self.changed.notify_waiters();
    }

    /// Whether this content was asked for and is awaited.
    pub fn is_awaited(&self, digest: &Digest) -> bool {
        matches!(self.lock().asked.get(digest), Some(None))
    }

    /// The caller sends no more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// Those that were not asked for yet; they are asked for from now on.
    fn ask(&self, digests: &[Digest]) -> Vec<Digest> {
        let mut state = self.lock();
        let mut new = Vec::new();
        for digest in digests {
            // What came and is not here any more is asked for again.
            if !matches!(state.asked.get(digest), Some(None)) {
                state.asked.insert(digest.clone(), None);
                new.push(digest.clone());
            }
        }
        new
    }

    async fn wait(&self, mut digests: &[Digest]) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                // What came is not looked at again: there may be very many, and each wakes us.
                while let [first, rest @ ..] = digests {
                    match state.asked.get(first) {
                        Some(Some(Err(why))) => {
                            return Err(Error::Context(format!(
                                "a file of the context could not be sent: {why}"
                            )));
                        }
                        Some(Some(Ok(()))) => digests = rest,
                        Some(None) | None => break,
                    }
                }
                if digests.is_empty() {
                    return Ok(());
                }
                if state.closed {
                    return Err(Error::Context(
                        "the caller ended before it had sent the files of its context".to_owned(),
                    ));
                }
            }
            changed.await;
        }
    }
}

impl BuildContext {
    /// The contexts of a build, and where the caller's messages go.
    pub fn new(
        fetcher: Arc<Fetcher>,
        (events, caller): (Events, Arc<Caller>),
        announced: &Announced<'_>,
    ) -> (Self, Feed) {
        let mut sources = HashMap::new();
        let mut manifests = HashMap::new();
        for name in announced.sent {
            let (sender, manifest) = watch::channel(None);
            sources.insert(name.clone(), Sent::Caller(manifest));
            manifests.insert(name.clone(), sender);
        }
        for (name, url) in announced.remote {
            let remote = Remote {
                url: url.clone(),
                keep_git_dir: name.is_empty() && announced.keep_git_dir,
            };
            sources.insert(name.clone(), Sent::Remote(remote, OnceCell::new()));
            manifests.remove(name);
        }
        let arrivals = Arc::new(Arrivals::default());
        let context = Self {
            sources: Arc::new(sources),
            store: fetcher.store().clone(),
            fetcher,
            arrivals: arrivals.clone(),
            events,
            caller,
        };
        let feed = Feed {
            manifests,
            arrivals,
        };
        (context, feed)
    }

    /// The manifest of a context, when all of it is here; "" is the main one.
    pub async fn manifest(&self, name: &str) -> Result<Arc<Manifest>> {
        let ended = || Error::Context("the caller ended before it had sent its context".to_owned());
        match self.sources.get(name) {
            None => Err(Error::Invalid(format!(
                "there is no build context {name:?}"
            ))),
            Some(Sent::Remote(remote, manifest)) => {
                let place = (&*self.fetcher, &*self.caller);
                let found = manifest
                    .get_or_try_init(|| remote::manifest(place, &remote.url, remote.keep_git_dir));
                found.await.map(|(manifest, _)| manifest.clone())
            }
            Some(Sent::Caller(manifest)) => {
                let mut manifest = manifest.clone();
                let found = manifest.wait_for(Option::is_some).await;
                let found = found.ok().and_then(|m| m.clone()).ok_or_else(ended)?;
                found.map_err(Error::Context)
            }
        }
    }

    /// What a context that is elsewhere turned out to be, if it was asked for: its URL without a password, and
    /// what was there.
    pub fn material(&self, name: &str) -> Option<(String, Material)> {
        match self.sources.get(name)? {
            Sent::Remote(remote, manifest) => {
                Some((redacted(&remote.url), manifest.get()?.1.clone()))
            }
            Sent::Caller(_) => None,
        }
    }

    /// The content of a small file of the main context that is here already: a Dockerfile.
    pub async fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let manifest = self.manifest("").await?;
        let Some(found) = manifest.find(path).into_iter().next() else {
            return Ok(None);
        };
        let Some(Kind::File { digest, size }) = manifest.get(&found.path).map(|e| &e.kind) else {
            return Ok(None);
        };
        if *size > most as u64 {
            return Err(Error::Dockerfile(format!(
                "{path} is larger than {most} bytes"
            )));
        }
        self.fetch(vec![(digest.clone(), *size)]).await?;
        let (store, digest) = (self.store.clone(), digest.clone());
        tokio::task::spawn_blocking(move || {
            let mut content = Vec::new();
            store.read(&digest)?.read_to_end(&mut content)?;
            Ok(Some(content))
        })
        .await
        .map_err(std::io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot read {path}"))
    }

    /// Makes sure that content is here.
    pub async fn fetch(&self, wanted: Vec<(Digest, u64)>) -> Result<()> {
        let missing = self.missing(wanted).await?;
        self.ask_for(&missing).await
    }

    /// What of this content is not here, each once. What is here stays as long as the build runs.
    pub async fn missing(&self, wanted: Vec<(Digest, u64)>) -> Result<Vec<Digest>> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let mut missing: Vec<Digest> = wanted
                .into_iter()
                .filter(|(digest, size)| !store.has(digest, *size))
                .map(|(digest, _)| digest)
                .collect();
            missing.sort_unstable();
            missing.dedup();
            missing
        })
        .await
        .map_err(|e| Error::Context(format!("looking for content failed: {e}")))
    }

    /// Asks the caller for content, and waits until it is here.
    pub async fn ask_for(&self, missing: &[Digest]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let new = self.arrivals.ask(missing);
        for some in new.chunks(NEEDS) {
            self.events.tell(Event::Need(some.to_vec())).await;
        }
        self.arrivals.wait(missing).await
    }
}
