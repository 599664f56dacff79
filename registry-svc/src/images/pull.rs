//! `docker pull`: makes an image present, and tells how far it is.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use slipway_image::{Descriptor, Digest, Manifest, Platform};
use tokio::sync::mpsc;

use super::Image;
use crate::{
    error::{Error, Result},
    manifests::Stored,
    mirror::{Credentials, Found, Freshness},
    names::{ImageName, Pointer, Repository, Tag},
    registry::Registry,
};

/// Layers of one image that are fetched at once.
const PARALLEL: usize = 4;

/// What to pull.
#[derive(Clone, Default)]
pub struct PullRequest {
    /// docker's grammar.
    pub reference: String,
    /// `None`: the host's.
    pub platform: Option<Platform>,
    /// Every platform that the index has.
    pub all_platforms: bool,
    /// Every tag of the repository.
    pub all_tags: bool,
    /// Whether upstream is asked.
    pub policy: Policy,
    /// The caller's account at the upstream.
    pub credentials: Option<Credentials>,
    /// Manifest and config are enough.
    pub manifest_only: bool,
}

/// Whether upstream is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// For what the tag is now.
    #[default]
    Always,
    /// When something is not here.
    Missing,
    /// Not at all.
    Never,
}

/// How a pull goes on.
pub enum PullEvent {
    /// A line for people.
    Status(String),
    /// Worth saying, but no error.
    Warning(String),
    /// Bytes of one blob.
    Progress(Progress),
    /// Manifest and config are here; layers can be read, while they arrive.
    Resolved(Box<Image>, bool),
    /// The end: name, digest, whether something changed.
    Done(String, Digest, bool),
}

/// Bytes of one blob on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which blob.
    pub digest: Digest,
    /// What happens to it.
    pub phase: Phase,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What happens to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It comes.
    Downloading,
    /// It goes.
    Uploading,
    /// It was there.
    Exists,
    /// It is there now.
    Done,
    /// The remote had it in another repository.
    Mounted,
}

type Sink = mpsc::Sender<PullEvent>;

impl Registry {
    /// Pulls, telling `events` how far it is. When the receiver is gone the pull stops.
    pub async fn pull(self: &Arc<Self>, request: PullRequest, events: &Sink) -> Result<()> {
        let name = self.own.parse_image(&request.reference)?;
        if !request.all_tags {
            return self.pull_one(&request, &name, events).await;
        }
        let client = self
            .mirror
            .client(name.repository.host(), request.credentials.clone())?;
        let tags = match request.policy {
            Policy::Never => self
                .index
                .tags_of(&name.repository, None, usize::MAX)?
                .into_iter()
                .map(|(tag, _)| tag)
                .collect(),
            _ => client
                .tags(name.repository.path())
                .await?
                .iter()
                .map(|tag| Tag::parse(tag))
                .collect::<Result<Vec<_>>>()?,
        };
        for tag in tags {
            let name = ImageName {
                repository: name.repository.clone(),
                pointer: Pointer::Tag(tag),
            };
            self.pull_one(&request, &name, events).await?;
        }
        Ok(())
    }

    async fn pull_one(
        self: &Arc<Self>,
        request: &PullRequest,
        name: &ImageName,
        events: &Sink,
    ) -> Result<()> {
        if request.policy != Policy::Always && !request.all_platforms {
            // Warm path: all is here, nobody is asked.
            if let Ok(image) = self.image_of(name, request.platform.as_ref()).await
                && (request.manifest_only || self.has_all(&name.repository, &image.blobs()).await?)
                && (request.platform.is_some()
                    || image.platform().satisfies(&Platform::host())
                    || request.policy == Policy::Never)
            {
                let top = image.top.clone();
                tell(events, PullEvent::Resolved(Box::new(image), false)).await?;
                return tell(events, PullEvent::Done(name.to_string(), top, false)).await;
            }
            if request.policy == Policy::Never {
                return Err(Error::ImageNotFound(name.familiar()));
            }
        }
        let pointer = match &name.pointer {
            Pointer::Tag(tag) => tag.to_string(),
            Pointer::Digest(digest) => digest.to_string(),
        };
        let line = format!("{pointer}: Pulling from {}", name.repository.path());
        tell(events, PullEvent::Status(line)).await?;
        let freshness = match request.policy {
            Policy::Always => Freshness::Ask,
            Policy::Missing | Policy::Never => Freshness::Any,
        };
        let credentials = request.credentials.as_ref();
        // A local image that upstream does not know is no reason to fail a pull of what is here... but
        // docker fails, and so do we: the caller asked for upstream's.
        let found = self.find_manifest(name, freshness, credentials).await?;
        self.uses.note(&name.repository, &found.stored.digest);
        if let Some(reason) = &found.stale {
            let line = format!("{reason}; serving what is here");
            tell(events, PullEvent::Warning(line)).await?;
        }
        let mut moved = found.newer;
        for manifest in self.manifests_to_pull(request, name, &found).await? {
            moved |= self
                .pull_manifest(request, name, &found, manifest, events)
                .await?;
        }
        self.keep_proofs(&name.repository).await?;
        let digest = found.stored.digest.clone();
        self.events
            .tell("pull", digest.to_string(), name.familiar());
        tell(events, PullEvent::Done(name.to_string(), digest, moved)).await
    }

    async fn manifests_to_pull(
        &self,
        request: &PullRequest,
        name: &ImageName,
        found: &Found,
    ) -> Result<Vec<Stored>> {
        let Manifest::Index(index) = found.stored.parse()? else {
            return Ok(vec![found.stored.clone()]);
        };
        let credentials = request.credentials.as_ref();
        let children: Vec<&Descriptor> = if request.all_platforms {
            index.manifests.iter().collect()
        } else {
            let wanted = request.platform.clone().unwrap_or_else(Platform::host);
            let child = index
                .select(&wanted)
                .ok_or_else(|| Error::PlatformNotFound {
                    name: name.familiar(),
                    platform: wanted.to_string(),
                })?;
            vec![child]
        };
        let mut manifests = Vec::new();
        for child in children {
            manifests.push(
                self.find_child(&name.repository, child, credentials)
                    .await?,
            );
        }
        Ok(manifests)
    }

    /// Fetches what one manifest names; true when something had to be moved.
    async fn pull_manifest(
        self: &Arc<Self>,
        request: &PullRequest,
        name: &ImageName,
        found: &Found,
        manifest: Stored,
        events: &Sink,
    ) -> Result<bool> {
        let parsed = manifest.parse()?;
        let blobs: Vec<Descriptor> = parsed.references().into_iter().cloned().collect();
        let credentials = request.credentials.as_ref();
        let whole = self.has_all(&name.repository, &blobs).await?;
        let mut moved = false;
        let mut layers = &blobs[..];
        if let Manifest::Image(image) = &parsed
            && image.is_image()
        {
            // The config first and alone: with it the caller can begin.
            let config = &image.config;
            layers = &blobs[1..];
            if let Some(flight) = self
                .fetch_blob(
                    &name.repository,
                    &config.digest,
                    Some(config.size),
                    credentials,
                )
                .await?
            {
                flight.done().await?;
                moved = true;
            }
            let top = found.stored.digest.clone();
            let image = self
                .image_from(&name.repository, Some(name.clone()), top, manifest)
                .await?;
            // `select` takes what fits at all; a single manifest may be of another platform.
            if let Some(wanted) = request.platform.as_ref().filter(|_| !request.all_platforms)
                && !image.platform().satisfies(wanted)
            {
                return Err(Error::PlatformNotFound {
                    name: name.familiar(),
                    platform: wanted.to_string(),
                });
            }
            let stale = found.stale.is_some();
            tell(events, PullEvent::Resolved(Box::new(image), stale)).await?;
        }
        // Of an image that is here docker tells no layers.
        if request.manifest_only || whole {
            return Ok(moved);
        }
        let mut fetches = stream::iter(layers.to_vec())
            .map(|layer| self.pull_blob(name, layer, credentials, events))
            .buffer_unordered(PARALLEL);
        while let Some(fetched) = fetches.next().await {
            moved |= fetched?;
        }
        Ok(moved)
    }

    async fn pull_blob(
        self: &Arc<Self>,
        name: &ImageName,
        blob: Descriptor,
        credentials: Option<&Credentials>,
        events: &Sink,
    ) -> Result<bool> {
        let progress = |phase, current| {
            PullEvent::Progress(Progress {
                digest: blob.digest.clone(),
                phase,
                current,
                total: blob.size,
            })
        };
        let Some(flight) = self
            .fetch_blob(&name.repository, &blob.digest, Some(blob.size), credentials)
            .await?
        else {
            tell(events, progress(Phase::Exists, blob.size)).await?;
            return Ok(false);
        };
        let mut state = flight.watch();
        loop {
            let (written, ended) = {
                let state = state.borrow_and_update();
                (state.written, state.outcome.is_some())
            };
            if ended {
                break;
            }
            tell(events, progress(Phase::Downloading, written)).await?;
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = events.closed() => {
                    return Err(Error::Interrupted("the caller went away".to_owned()));
                }
            }
        }
        flight.done().await?;
        tell(events, progress(Phase::Done, blob.size)).await?;
        Ok(true)
    }

    /// All of these are here, and are the repository's.
    pub async fn has_all(&self, repository: &Repository, blobs: &[Descriptor]) -> Result<bool> {
        for blob in blobs {
            if !self.index.is_linked(repository, &blob.digest)?
                || self.blobs.stat(&blob.digest).await?.is_none()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fetches what a manifest that is to be stored names and only an upstream of ours has: the layers
    /// of a base image that nobody unpacked yet.
    pub async fn fetch_missing(self: &Arc<Self>, media_type: &str, content: &[u8]) -> Result<()> {
        let parsed = crate::manifests::parse(media_type, content)?;
        for child in parsed.references() {
            if self.blobs.stat(&child.digest).await?.is_some() {
                continue;
            }
            for (holder, _) in self.index.holders(&child.digest)? {
                if let Some((source, size)) = self.source_of(&holder, &child.digest).await? {
                    if let Some(flight) =
                        self.fetch_blob(&source, &child.digest, size, None).await?
                    {
                        flight.done().await?;
                    }
                    break;
                }
            }
        }
        Ok(())
    }
}

async fn tell(events: &Sink, event: PullEvent) -> Result<()> {
    events
        .send(event)
        .await
        .map_err(|_| Error::Interrupted("the caller went away".to_owned()))
}
