//! A build's context on the builder's side: its manifest, and its content as far as it is needed.
//!
//! The caller sends the manifest first. Content is asked for by digest, and only what a step that is
//! not cached needs and what is not here from an earlier build: a cached build moves no content.

pub mod content;
pub mod git;
pub mod manifest;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use slipway_image::Digest;
use tokio::sync::{Notify, watch};

pub use content::ContentStore;
pub use manifest::{Entry, Kind, Manifest, Match};

use crate::{
    error::{Error, Result},
    events::{Event, Events},
};

/// Digests that are asked for in one message: far below its limit of 4 MiB.
const NEEDS: usize = 50_000;

/// The context of one build. Cheap to clone.
#[derive(Clone)]
pub struct BuildContext {
    manifest: watch::Receiver<Option<Arc<Manifest>>>,
    /// Where content is.
    pub store: Arc<ContentStore>,
    arrivals: Arc<Arrivals>,
    events: Events,
}

/// What the caller's messages give.
pub struct Feed {
    /// The manifest, when it is complete.
    pub manifest: watch::Sender<Option<Arc<Manifest>>>,
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

    async fn wait(&self, digests: &[Digest]) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                let mut waiting = false;
                for digest in digests {
                    match state.asked.get(digest) {
                        Some(Some(Err(why))) => {
                            return Err(Error::Context(format!(
                                "a file of the context could not be sent: {why}"
                            )));
                        }
                        Some(Some(Ok(()))) => {}
                        Some(None) | None => waiting = true,
                    }
                }
                if !waiting {
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
    /// A context, and where the caller's messages go.
    pub fn new(store: Arc<ContentStore>, events: Events) -> (Self, Feed) {
        let (sender, manifest) = watch::channel(None);
        let arrivals = Arc::new(Arrivals::default());
        let context = Self {
            manifest,
            store,
            arrivals: arrivals.clone(),
            events,
        };
        let feed = Feed {
            manifest: sender,
            arrivals,
        };
        (context, feed)
    }

    /// The manifest, when all of it is here.
    pub async fn manifest(&self) -> Result<Arc<Manifest>> {
        let mut manifest = self.manifest.clone();
        let found = manifest.wait_for(Option::is_some).await;
        found.ok().and_then(|m| m.clone()).ok_or_else(|| {
            Error::Context("the caller ended before it had sent its context".to_owned())
        })
    }

    /// Makes sure that content is here.
    pub async fn fetch(&self, wanted: Vec<(Digest, u64)>) -> Result<()> {
        let store = self.store.clone();
        let missing = tokio::task::spawn_blocking(move || {
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
        .map_err(|e| Error::Context(format!("looking for content failed: {e}")))?;
        if missing.is_empty() {
            return Ok(());
        }
        let new = self.arrivals.ask(&missing);
        for some in new.chunks(NEEDS) {
            self.events.tell(Event::Need(some.to_vec())).await;
        }
        self.arrivals.wait(&missing).await
    }
}
