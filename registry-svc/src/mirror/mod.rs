//! The mirror: what is not here is fetched from the upstream that the repository's host names, once
//! however many ask, and is served from here afterwards, also when upstream does not answer.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    blobs::Exclusive,
    config::{TAG_TTL, UpstreamConfig, default_url},
    error::{Error, Result},
    names::{ImageName, Repository},
};

pub mod client;
mod fetch;
mod find;
mod flight;
mod referrers;

pub use client::{Client, Credentials};
pub use find::{Found, Freshness};
use flight::Flights;
pub use flight::{Flight, State};

/// How long an upstream that did not answer is not asked again.
const REST: Duration = Duration::from_secs(5);

/// How long the beginning of a blob is kept for somebody to ask for the rest.
const PARTIAL_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whose turn it is to ask about a name, and when the last answer came.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// See the module's page.
pub struct Mirror {
    configured: Vec<UpstreamConfig>,
    clients: Mutex<HashMap<String, Arc<Client>>>,
    asking: Mutex<HashMap<ImageName, Turn>>,
    flights: Flights,
    referrers: referrers::Answers,
    partial: PathBuf,
    troubles: Mutex<HashMap<String, (String, Instant)>>,
}

impl Mirror {
    /// With these upstreams configured; partial transfers are kept in `partial`.
    pub fn new(configured: Vec<UpstreamConfig>, partial: PathBuf) -> Self {
        Self {
            configured,
            clients: Mutex::default(),
            asking: Mutex::default(),
            flights: Flights::default(),
            referrers: referrers::Answers::default(),
            partial,
            troubles: Mutex::default(),
        }
    }

    /// The client for a host; credentials of a call are used for that call's client only.
    pub fn client(&self, host: &str, credentials: Option<Credentials>) -> Result<Arc<Client>> {
        let make = |credentials: Option<Credentials>| {
            let config = self.configured.iter().find(|c| c.host == host);
            let url = match config {
                Some(config) => config.url.clone(),
                None => default_url(host).ok_or_else(|| Error::InvalidReference {
                    text: host.to_owned(),
                    reason: "that is not a host name".to_owned(),
                })?,
            };
            let own = config.and_then(|c| c.credentials.clone());
            let own = own.map(|(user, password)| Credentials::Basic(user, password));
            Client::new(host, url, credentials.or(own)).map(Arc::new)
        };
        if credentials.is_some() {
            return make(credentials);
        }
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(host) {
            return Ok(Arc::clone(client));
        }
        // Names come from whoever may ask: the table must not grow without end.
        if clients.len() >= 64 {
            clients.clear();
        }
        let client = make(None)?;
        clients.insert(host.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    fn tag_ttl(&self, host: &str) -> Duration {
        self.configured
            .iter()
            .find(|c| c.host == host)
            .map_or(TAG_TTL, |c| c.tag_ttl)
    }

    /// What is wrong with upstreams now, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let troubles = lock(&self.troubles);
        troubles
            .values()
            .map(|(trouble, _)| trouble.clone())
            .collect()
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

    /// Upstreams by name and place, and what is wrong with them now.
    pub fn report(&self) -> Vec<(String, String)> {
        let troubles = lock(&self.troubles);
        let mut report: Vec<_> = self
            .configured
            .iter()
            .map(|c| (c.host.clone(), c.url.to_string()))
            .collect();
        for (host, (trouble, _)) in troubles.iter() {
            match report.iter_mut().find(|(h, _)| h == host) {
                Some((_, state)) => *state = format!("{state} ({trouble})"),
                None => report.push((host.clone(), trouble.clone())),
            }
        }
        report
    }

    /// The host did not answer a moment ago: it is left in peace, and nobody waits for it again.
    fn rests(&self, host: &str) -> Option<Error> {
        let troubles = lock(&self.troubles);
        let (message, at) = troubles.get(host)?;
        (at.elapsed() < REST).then(|| Error::UpstreamUnavailable {
            host: host.to_owned(),
            message: format!("a moment ago: {message}"),
        })
    }

    fn note<T>(&self, host: &str, result: &Result<T>) {
        let mut troubles = lock(&self.troubles);
        match result {
            Err(e) if e.is_upstream_down() => {
                if troubles.len() < 64 {
                    troubles.insert(host.to_owned(), (e.to_string(), Instant::now()));
                }
            }
            _ => {
                troubles.remove(host);
            }
        }
    }
}

/// What this registry asks upstream about: not its own repositories.
fn has_upstream(repository: &Repository) -> bool {
    !repository.is_internal()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
