//! The mirror: what is not here is fetched from the upstream that the repository's host names, once
//! however many ask, and is served from here afterwards, also when upstream does not answer.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use slipway_image::{Descriptor, Digest};
use tracing::warn;

use crate::{
    blobs::{BlobReader, Exclusive, Range},
    config::{TAG_TTL, UpstreamConfig, default_url},
    error::{Error, Result},
    manifests::{Put, Require, Stored},
    names::{ImageName, Pointer, Repository},
    registry::{Registry, now},
    store::Origin,
};

pub mod client;
mod flight;
mod referrers;
mod trust;

pub use client::{Client, Credentials};
pub use flight::{Flight, State};
use flight::{Flights, Plan};

/// How a tag that is here already is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Upstream is asked, also about what was put here (docker pull).
    Ask,
    /// Upstream is asked when its `tag_ttl` is over; what was put here is never asked about.
    Ttl,
    /// What is here is good enough.
    Any,
}

/// A manifest, and how sure it is.
#[derive(Debug, Clone)]
pub struct Found {
    /// The manifest.
    pub stored: Stored,
    /// Why upstream could not be asked; what was here is given.
    pub stale: Option<String>,
    /// It was not here before.
    pub newer: bool,
}

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

impl Registry {
    /// Finds a manifest here or upstream.
    pub async fn find_manifest(
        &self,
        name: &ImageName,
        freshness: Freshness,
        credentials: Option<&Credentials>,
    ) -> Result<Found> {
        if let Some(found) = self.good_enough(name, freshness).await? {
            return Ok(found);
        }
        let unknown = || Error::ManifestNotFound(name.familiar());
        if !has_upstream(&name.repository) {
            return Err(unknown());
        }
        // Whoever asked at the same moment shares the answer.
        let asked_at = Instant::now();
        let turn = {
            let mut asking = lock(&self.mirror.asking);
            asking.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(asking.entry(name.clone()).or_default())
        };
        let mut answered = turn.lock().await;
        let before = self.stored(name).await?;
        let shared = answered.is_some_and(|at| at > asked_at);
        if let Some(stored) = &before
            && (shared || matches!(name.pointer, Pointer::Digest(_)))
        {
            return Ok(found(stored.clone()));
        }
        let host = name.repository.host().to_owned();
        let result = match self.mirror.rests(&host) {
            // Who asks by hand is not put off.
            Some(error) if freshness != Freshness::Ask => Err(error),
            _ => {
                let result = self.ask_upstream(name, before.as_ref(), credentials).await;
                self.mirror.note(&host, &result);
                if result.is_ok() {
                    *answered = Some(Instant::now());
                }
                result
            }
        };
        match (result, before) {
            (Err(error), Some(stored)) if error.is_upstream_down() => {
                warn!(image = %name, %error, "serving what is here");
                Ok(Found {
                    stored,
                    stale: Some(error.to_string()),
                    newer: false,
                })
            }
            // Gone upstream, but a foreign client that only wants the image gets what is here.
            (Err(error), Some(stored)) if freshness == Freshness::Ttl => Ok(Found {
                stored,
                stale: Some(error.to_string()),
                newer: false,
            }),
            (result, _) => result,
        }
    }

    async fn good_enough(&self, name: &ImageName, freshness: Freshness) -> Result<Option<Found>> {
        let Some(stored) = self.stored(name).await? else {
            return Ok(None);
        };
        let Pointer::Tag(tag) = &name.pointer else {
            return Ok(Some(found(stored)));
        };
        let enough = match freshness {
            Freshness::Any => true,
            Freshness::Ask => !has_upstream(&name.repository),
            Freshness::Ttl => {
                let local = self
                    .index
                    .tag(&name.repository, tag)?
                    .is_some_and(|t| t.origin == Origin::Local);
                let ttl = self.mirror.tag_ttl(name.repository.host()).as_millis() as u64;
                local
                    || self
                        .index
                        .checked(&name.repository, tag)?
                        .is_some_and(|checked| now().saturating_sub(checked) < ttl)
            }
        };
        Ok(enough.then(|| found(stored)))
    }

    async fn ask_upstream(
        &self,
        name: &ImageName,
        before: Option<&Stored>,
        credentials: Option<&Credentials>,
    ) -> Result<Found> {
        let client = self
            .mirror
            .client(name.repository.host(), credentials.cloned())?;
        let path = name.repository.path();
        let unknown = || Error::ManifestNotFound(name.familiar());
        let denied = |e| match e {
            Error::PullDenied(_) => Error::PullDenied(name.repository.familiar().to_owned()),
            Error::ManifestNotFound(_) => unknown(),
            other => other,
        };
        let (digest, tags, by_digest) = match &name.pointer {
            Pointer::Digest(digest) => {
                // A part of an index that is here goes with that index.
                let part = self
                    .index
                    .holders(digest)?
                    .iter()
                    .any(|(r, m)| *r == name.repository && m != digest);
                (digest.clone(), Vec::new(), !part)
            }
            Pointer::Tag(tag) => {
                let digest = client
                    .resolve(path, tag.as_str())
                    .await
                    .map_err(denied)?
                    .ok_or_else(unknown)?;
                (digest, vec![tag.clone()], false)
            }
        };
        if let Some(stored) = before.filter(|stored| stored.digest == digest) {
            for tag in &tags {
                self.index.set_checked(&name.repository, tag, now())?;
            }
            return Ok(found(stored.clone()));
        }
        let remote = client
            .manifest(path, &digest.to_string())
            .await
            .map_err(denied)?
            .ok_or_else(unknown)?;
        self.put_manifest(Put {
            repository: name.repository.clone(),
            tags: tags.clone(),
            media_type: remote.media_type,
            content: remote.content,
            expected: Some(digest.clone()),
            origin: Origin::Upstream,
            by_digest,
            require: Require::Nothing,
        })
        .await?;
        for tag in &tags {
            self.index.set_checked(&name.repository, tag, now())?;
        }
        let by_digest = ImageName {
            repository: name.repository.clone(),
            pointer: Pointer::Digest(digest),
        };
        let stored = self.stored(&by_digest).await?.ok_or_else(unknown)?;
        Ok(Found {
            stored,
            stale: None,
            newer: true,
        })
    }

    /// The manifest that an index names for a platform; fetched when it is not here.
    pub async fn find_child(
        &self,
        repository: &Repository,
        child: &Descriptor,
        credentials: Option<&Credentials>,
    ) -> Result<Stored> {
        let name = ImageName {
            repository: repository.clone(),
            pointer: Pointer::Digest(child.digest.clone()),
        };
        if let Some(stored) = self.stored(&name).await? {
            return Ok(stored);
        }
        let client = self
            .mirror
            .client(repository.host(), credentials.cloned())?;
        let unknown = || Error::ManifestNotFound(name.familiar());
        if !has_upstream(repository) {
            return Err(unknown());
        }
        let remote = client
            .manifest(repository.path(), &child.digest.to_string())
            .await;
        self.mirror.note(repository.host(), &remote);
        let remote = remote?.ok_or_else(unknown)?;
        self.put_manifest(Put {
            repository: repository.clone(),
            tags: Vec::new(),
            media_type: child.media_type.clone(),
            content: remote.content,
            expected: Some(child.digest.clone()),
            origin: Origin::Upstream,
            // Held by its index.
            by_digest: false,
            require: Require::Nothing,
        })
        .await?;
        self.stored(&name).await?.ok_or_else(unknown)
    }

    /// The transfer of a blob that some manifest of a mirrored repository names; `None` when it is
    /// here already.
    pub async fn fetch_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        size: Option<u64>,
        credentials: Option<&Credentials>,
    ) -> Result<Option<Arc<Flight>>> {
        let lease = self.leases.hold(digest).await;
        if self.blobs.stat(digest).await?.is_some() {
            self.index.link(repository, digest)?;
            return Ok(None);
        }
        if !has_upstream(repository) {
            return Err(Error::BlobNotFound(digest.clone()));
        }
        let client = self
            .mirror
            .client(repository.host(), credentials.cloned())?;
        let partial = format!("{}-{}", digest.algorithm().as_str(), digest.encoded());
        let plan = Plan {
            digest: digest.clone(),
            size,
            repository: repository.path().to_owned(),
            client,
            partial: self.mirror.partial.join(partial),
            blobs: Arc::clone(&self.blobs),
        };
        let registry = Arc::clone(self);
        let (repo, named) = (repository.clone(), digest.clone());
        Ok(Some(self.mirror.flights.join(plan, move || {
            registry.arrived(&repo, &named)?;
            drop(lease);
            Ok(())
        })))
    }

    /// Opens a blob: from here, or from upstream while it arrives.
    pub async fn open_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        range: Range,
    ) -> Result<BlobReader> {
        match self.blobs.read(digest, range).await {
            Err(Error::BlobNotFound(_)) => {}
            other => return other,
        }
        // Only what a manifest of that repository names: a client cannot make us ask for anything else.
        let Some((repository, size)) = self.source_of(repository, digest).await? else {
            return Err(Error::BlobNotFound(digest.clone()));
        };
        let Some(flight) = self.fetch_blob(&repository, digest, size, None).await? else {
            return self.blobs.read(digest, range).await;
        };
        match Arc::clone(&flight).read(range).await {
            // It arrived between two steps and has its final name now.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                flight.done().await?;
                self.blobs.read(digest, range).await
            }
            other => other,
        }
    }

    /// From which repository a blob that is not here can be fetched, and its size: the given one when
    /// a manifest of it names the blob, else any other with an upstream that does.
    pub async fn source_of(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<(Repository, Option<u64>)>> {
        let mut holders = self.index.holders(digest)?;
        holders.sort_by_key(|(r, _)| r != repository);
        for (holder, manifest) in holders {
            let record = self.index.manifest(&holder, &manifest)?;
            if !has_upstream(&holder) || record.is_none_or(|r| r.origin != Origin::Upstream) {
                continue;
            }
            let name = ImageName {
                repository: holder.clone(),
                pointer: Pointer::Digest(manifest),
            };
            let Some(stored) = self.stored(&name).await? else {
                continue;
            };
            let size = stored
                .parse()?
                .references()
                .iter()
                .find(|d| d.digest == *digest)
                .map(|d| d.size);
            return Ok(Some((holder, size)));
        }
        Ok(None)
    }
}

fn found(stored: Stored) -> Found {
    Found {
        stored,
        stale: None,
        newer: false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
