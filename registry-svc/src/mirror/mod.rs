//! The mirror: what is not here is fetched from the upstream that the repository's host names, once
//! however many ask, and is served from here afterwards, also when upstream does not answer.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    blobs::Exclusive,
    config::{TAG_TTL, UpstreamConfig},
    error::{Error, Result},
    names::{ImageName, Repository},
};

mod absent;
pub mod client;
mod fetch;
mod figures;
mod find;
mod flight;
mod metrics;
mod ours;
mod referrers;
mod rest;
mod transfer;
mod upstreams;

pub use client::{Client, Credentials};
pub use find::{Found, Freshness};
use flight::Flights;
pub use flight::{Flight, State};
pub use metrics::Counts;
pub use ours::Ours;
pub use rest::Scope;
use upstreams::Upstreams;

/// How long the beginning of a blob is kept for somebody to ask for the rest.
const PARTIAL_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whose turn it is to ask about a name, and when the last answer came.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// See the module's page.
pub struct Mirror {
    upstreams: Upstreams,
    asking: Mutex<HashMap<ImageName, Turn>>,
    flights: Flights,
    referrers: referrers::Answers,
    absent: absent::Absent,
    rests: rest::Rests,
    partial: PathBuf,
}

impl Mirror {
    /// With these upstreams configured; partial transfers are kept in `partial`.
    pub fn new(configured: Vec<UpstreamConfig>, partial: PathBuf) -> Self {
        Self {
            upstreams: Upstreams::new(configured),
            asking: Mutex::default(),
            flights: Flights::default(),
            referrers: referrers::Answers::default(),
            absent: absent::Absent::default(),
            rests: rest::Rests::default(),
            partial,
        }
    }

    /// The client for a host; credentials of a call are used for that call's client only.
    pub fn client(&self, host: &str, credentials: Option<Credentials>) -> Result<Arc<Client>> {
        self.upstreams.client(host, credentials)
    }

    /// What is counted.
    pub fn counts(&self) -> &Counts {
        self.upstreams.counts()
    }

    fn tag_ttl(&self, host: &str) -> Duration {
        self.upstreams.config(host).map_or(TAG_TTL, |c| c.tag_ttl)
    }

    /// What is wrong with upstreams now, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let troubles = self.rests.troubles().into_iter();
        troubles.map(|(_, trouble)| trouble).collect()
    }

    /// Removes what broken transfers left and nobody resumed for a week.
    pub fn expire(&self) -> Result<()> {
        let fail = || Error::io("cannot clean", &self.partial);
        for entry in std::fs::read_dir(&self.partial).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            let age = entry.metadata().and_then(|m| m.modified()).ok();
            if age.is_some_and(|at| at.elapsed().is_ok_and(|age| age > PARTIAL_EXPIRY)) {
                Exclusive::remove_unused(&entry.path()).map_err(fail())?;
            }
        }
        Ok(())
    }

    /// Upstreams by name: their place, what they say of their limits, and what is wrong with them now.
    pub fn report(&self) -> BTreeMap<String, String> {
        let mut report = self.upstreams.report();
        for (host, trouble) in self.rests.troubles() {
            let state = report.entry(host).or_default();
            *state = match state.as_str() {
                "" => trouble,
                state => format!("{state} ({trouble})"),
            };
        }
        report
    }

    /// The host did not answer a moment ago: it is left in peace, and nobody waits for it again.
    fn rests(&self, repository: &Repository) -> Option<Error> {
        let error = self.rests.manifests(repository)?;
        self.counts()
            .put_off(&self.upstreams.label(repository.host()));
        Some(error)
    }

    /// Takes note of how a question about manifests ended.
    fn note<T>(&self, repository: &Repository, result: &Result<T>) {
        let rest = self.rests.note_manifests(repository, result);
        let label = self.upstreams.label(repository.host());
        self.counts()
            .rest(&label, rest.map_or(0, |rest| rest.as_secs().max(1)));
    }
}

/// What this registry asks upstream about: not its own repositories.
fn has_upstream(repository: &Repository) -> bool {
    !repository.is_internal()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
