//! Manifests: here or upstream, asked for once however many want one.

use std::{sync::Arc, time::Instant};

use slipway_image::Descriptor;
use tracing::warn;

use super::{Credentials, has_upstream, lock};
use crate::{
    error::{Error, Result},
    manifests::{Put, Require, Stored},
    names::{ImageName, Pointer, Repository},
    registry::{Registry, now},
    store::Origin,
};

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
        let by_hand = freshness == Freshness::Ask;
        // A foreign client that looks before it pushes tells no upstream what is made here.
        let private = freshness == Freshness::Ttl && self.ours.has(&name.repository);
        if !has_upstream(&name.repository) || private {
            return self.stored(name).await?.map(found).ok_or_else(unknown);
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
        // Who asks by hand is not put off, and neither is who has an account of their own.
        let put_off = match by_hand || credentials.is_some() {
            true => None,
            false => self.put_off(name),
        };
        let result = match put_off {
            Some(error) => Err(error),
            None => {
                let result = self.ask_upstream(name, before.as_ref(), credentials).await;
                let result = result.map_err(|e| e.of_upstream(name.repository.host()));
                self.mirror.note(&name.repository, &result);
                if credentials.is_none() {
                    self.mirror.absent.note(name, &result);
                }
                if result.is_ok() {
                    *answered = Some(Instant::now());
                }
                result
            }
        };
        match (result, before) {
            // Gone upstream, but a foreign client that only wants the image gets what is here.
            (Err(error), Some(stored))
                if error.is_upstream_down() || freshness == Freshness::Ttl =>
            {
                warn!(image = %name, %error, "serving what is here");
                let host = self.mirror.upstreams.label(name.repository.host());
                self.mirror.counts().stale(&host);
                Ok(Found {
                    stored,
                    stale: Some(error.to_string()),
                    newer: false,
                })
            }
            (result, _) => result,
        }
    }

    /// Why upstream is not asked about a name just now.
    fn put_off(&self, name: &ImageName) -> Option<Error> {
        if let Some(error) = self.mirror.absent.recall(name) {
            let host = self.mirror.upstreams.label(name.repository.host());
            self.mirror.counts().remembered(&host);
            return Some(error);
        }
        self.mirror.rests(&name.repository)
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
            .await
            .map_err(|e| e.of_upstream(repository.host()));
        self.mirror.note(repository, &remote);
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
}

fn found(stored: Stored) -> Found {
    Found {
        stored,
        stale: None,
        newer: false,
    }
}
