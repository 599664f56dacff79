//! `docker push`: sends an image to the registry that its name says. What of it is sent is decided in `choice`.

mod choice;

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt as _, stream};
use slipway_image::{Descriptor, Digest, Manifest, Platform};
use tokio::sync::mpsc;

use super::pull::{Phase, Progress};
use crate::{
    blobs::Range,
    error::{Error, Result},
    manifests::{Stored, referrer_descriptor},
    mirror::{Client, Credentials},
    names::{ImageName, Pointer, Repository},
    registry::Registry,
};

/// Blobs that are sent at once.
const PARALLEL: usize = 3;

/// How a push goes on.
pub enum PushEvent {
    /// A line for people.
    Status(String),
    /// Bytes of one blob.
    Progress(Progress),
    /// The end.
    Done(Pushed),
}

/// What the remote has now.
pub struct Pushed {
    /// The name.
    pub reference: String,
    /// What it names there.
    pub digest: Digest,
    /// Size of that manifest, bytes.
    pub size: u64,
    /// Where it is one image of an index that is not all here.
    pub part: Option<Part>,
}

/// One image of an index, which was pushed in place of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The index.
    pub index: Digest,
    /// Of the image.
    pub platform: Platform,
    /// What of the index is not here: platforms, and digests of what is for none.
    pub missing: Vec<String>,
}

/// What to push.
#[derive(Clone, Default)]
pub struct PushRequest {
    /// docker's grammar.
    pub reference: String,
    /// Every tag of the repository.
    pub all_tags: bool,
    /// Only this platform of an index.
    pub platform: Option<Platform>,
    /// The caller's account at the remote.
    pub credentials: Option<Credentials>,
}

type Sink = mpsc::Sender<PushEvent>;

impl Registry {
    /// Pushes, telling `events` how far it is.
    pub async fn push(self: &Arc<Self>, request: PushRequest, events: &Sink) -> Result<()> {
        let name = self.own.parse_image(&request.reference)?;
        let line = format!(
            "The push refers to repository [{}]",
            name.repository.as_str()
        );
        tell(events, PushEvent::Status(line)).await?;
        let mut names = vec![name.clone()];
        if request.all_tags {
            let tags = self.index.tags_of(&name.repository, None, usize::MAX)?;
            names = tags
                .into_iter()
                .map(|(tag, _)| ImageName {
                    repository: name.repository.clone(),
                    pointer: Pointer::Tag(tag),
                })
                .collect();
        }
        if names.is_empty() {
            return Err(no_such(&name));
        }
        let named_own = request
            .reference
            .split('/')
            .next()
            .is_some_and(|host| self.own.is_own(host));
        for name in names {
            if named_own {
                // `push localhost:5000/app`: this registry is where it is already.
                let stored = self.stored(&name).await?.ok_or_else(|| no_such(&name))?;
                tell(events, done(&name, &stored, None)).await?;
                continue;
            }
            self.push_one(&request, &name, events).await?;
        }
        Ok(())
    }

    async fn push_one(
        self: &Arc<Self>,
        request: &PushRequest,
        name: &ImageName,
        events: &Sink,
    ) -> Result<()> {
        let choice = self.choose_pushed(name, request.platform.as_ref()).await?;
        let client = self
            .mirror
            .client(name.repository.host(), request.credentials.clone())?;
        // No manifest is sent before what it names: a remote never has a broken one.
        for child in &choice.below {
            self.push_content(&client, &name.repository, child, events)
                .await?;
            put(&client, name, &child.digest.to_string(), child).await?;
        }
        let top = choice.top;
        self.push_content(&client, &name.repository, &top, events)
            .await?;
        let reference = name.pointer.to_string();
        put(&client, name, &reference, &top).await?;
        self.events
            .tell("push", top.digest.to_string(), name.familiar());
        tell(events, done(name, &top, choice.part)).await
    }

    /// Sends the blobs that a manifest names and the remote does not have.
    async fn push_content(
        self: &Arc<Self>,
        client: &Arc<Client>,
        repository: &Repository,
        manifest: &Stored,
        events: &Sink,
    ) -> Result<()> {
        let manifest = manifest.parse()?;
        if let Manifest::Index(_) = manifest {
            return Ok(());
        }
        let mut seen = HashSet::new();
        let blobs: Vec<Descriptor> = manifest
            .references()
            .into_iter()
            .filter(|d| seen.insert(d.digest.clone()))
            .cloned()
            .collect();
        let mut sends = stream::iter(blobs)
            .map(|blob| self.push_blob(client, repository, blob, events))
            .buffer_unordered(PARALLEL);
        while let Some(sent) = sends.next().await {
            sent?;
        }
        Ok(())
    }

    async fn push_blob(
        self: &Arc<Self>,
        client: &Arc<Client>,
        repository: &Repository,
        blob: Descriptor,
        events: &Sink,
    ) -> Result<()> {
        let progress = |phase, current| {
            PushEvent::Progress(Progress {
                digest: blob.digest.clone(),
                phase,
                current,
                total: blob.size,
            })
        };
        let path = repository.path();
        if client.has_blob(path, &blob.digest).await? {
            return tell(events, progress(Phase::Exists, blob.size)).await;
        }
        // Another repository of the same remote may have it: then it need not be sent.
        let other = self
            .index
            .holders(&blob.digest)?
            .into_iter()
            .map(|(holder, _)| holder)
            .find(|holder| holder.host() == repository.host() && holder != repository);
        let mount = other.as_ref().map(|other| (&blob.digest, other.path()));
        let Some(location) = client.start_upload(path, mount).await? else {
            return tell(events, progress(Phase::Mounted, blob.size)).await;
        };
        tell(events, progress(Phase::Uploading, 0)).await?;
        let reader = self
            .open_blob_for(repository, &blob.digest, Range::default())
            .await?;
        let sink = events.clone();
        let (digest, total) = (blob.digest.clone(), blob.size);
        let mut sent = 0;
        let body = reader.stream.map(move |piece| {
            if let Ok(piece) = &piece {
                sent += piece.len() as u64;
                // Progress may be lost when the listener is slow; the end is told for certain.
                let _ = sink.try_send(PushEvent::Progress(Progress {
                    digest: digest.clone(),
                    phase: Phase::Uploading,
                    current: sent,
                    total,
                }));
            }
            piece
        });
        client
            .upload(path, location, &blob.digest, blob.size, body)
            .await?;
        tell(events, progress(Phase::Done, blob.size)).await
    }
}

async fn put(client: &Client, name: &ImageName, reference: &str, stored: &Stored) -> Result<()> {
    let path = name.repository.path();
    let media_type = &stored.record.media_type;
    let lists = client
        .put_manifest(path, reference, media_type, stored.content.clone())
        .await?;
    let parsed = stored.parse()?;
    if let (false, Some(subject)) = (lists, parsed.subject())
        && let Some(descriptor) = referrer_descriptor(&stored.digest, &stored.record, &parsed)
    {
        client
            .list_referrer(path, &subject.digest, descriptor)
            .await?;
    }
    Ok(())
}

fn done(name: &ImageName, top: &Stored, part: Option<Part>) -> PushEvent {
    PushEvent::Done(Pushed {
        reference: name.to_string(),
        digest: top.digest.clone(),
        size: top.record.size,
        part,
    })
}

fn no_such(name: &ImageName) -> Error {
    Error::ImageNotFound(format!(
        "{}: an image does not exist locally with that tag",
        name.familiar()
    ))
}

async fn tell(events: &Sink, event: PushEvent) -> Result<()> {
    events
        .send(event)
        .await
        .map_err(|_| Error::Interrupted("the caller went away".to_owned()))
}
