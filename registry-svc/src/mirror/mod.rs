//! The mirror: what is not here is fetched from the upstream that the repository's host names, once
//! however many ask, and is served from here afterwards, also when upstream does not answer.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
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
mod listing;
mod metrics;
mod ours;
mod proof;
mod referrers;
mod rest;
mod room;
mod transfer;
mod upstreams;

pub use client::{Client, Credentials};
pub use find::{Found, Freshness};
use flight::Flights;
pub use flight::{Flight, State};
pub use metrics::Counts;
pub use ours::{Ours, OwnFiles};
pub use referrers::{Page, Wanted};
pub use rest::Scope;
use room::Incoming;
pub use room::MirrorLimits;
use upstreams::Upstreams;

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
    proving: proof::Proving,
    incoming: Arc<Incoming>,
}

impl Mirror {
    /// With these upstreams configured; partial transfers are kept in `partial`.
    pub fn new(configured: Vec<UpstreamConfig>, partial: PathBuf, limits: MirrorLimits) -> Self {
        let incoming = Incoming {
            folder: partial,
            limits,
        };
        Self {
            upstreams: Upstreams::new(configured),
            asking: Mutex::default(),
            flights: Flights::default(),
            referrers: referrers::Answers::default(),
            absent: absent::Absent::default(),
            rests: rest::Rests::default(),
            proving: proof::Proving::default(),
            incoming: Arc::new(incoming),
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

    /// Removes what broken transfers left and nobody resumed for a week, and what is too much of it.
    pub fn expire(&self) -> Result<()> {
        self.incoming.tidy()
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
