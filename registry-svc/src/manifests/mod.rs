//! Manifests: a blob each, and a link file in every repository that has it
//! (`repositories/<name>/_manifests/<algorithm>/<hex>`): put, read, point tags at, remove.

mod remove;
mod tag;

pub(crate) use remove::Named;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use serde_json::json;
use slipway_image::{Digest, Manifest, manifest::MAX_SIZE, media_type};

use crate::{
    blobs::{
        Staged,
        staging::{blocking, digest_of},
    },
    error::{Error, Result},
    large::LARGE,
    ledger::Change,
    names::{ImageName, Pointer, Repository, Tag},
    registry::{Registry, now},
    store::{ManifestRecord, Names, Origin, TagRecord},
};

/// Name of the folder of a repository's manifest links.
pub const FOLDER: &str = "_manifests";

/// A manifest on its way in.
#[derive(Debug, Clone)]
pub struct Put {
    /// Where.
    pub repository: Repository,
    /// Tags that are to name it.
    pub tags: Vec<Tag>,
    /// As it was sent with.
    pub media_type: String,
    /// Its bytes, kept as they are.
    pub content: Bytes,
    /// The digest that the sender gave, if any.
    pub expected: Option<Digest>,
    /// Where it comes from.
    pub origin: Origin,
    /// It is kept without a tag because somebody asked for it by digest.
    pub by_digest: bool,
    /// What must be here before it.
    pub require: Require,
}

/// What must be here before a manifest is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Require {
    /// All that it names, in the same repository: a foreign client may only name what it may read.
    Repository,
    /// All that it names, anywhere in the store.
    Site,
    /// Nothing: its content is fetched from upstream when it is needed.
    Nothing,
    /// Nothing, and it makes nothing readable but this: whoever wrote it may have named what he never saw.
    Only(HashSet<Digest>),
}

impl Require {
    /// It may name what is not here.
    const fn is_lenient(&self) -> bool {
        matches!(self, Self::Nothing | Self::Only(_))
    }
}

/// A manifest that is here.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// What is known of it.
    pub record: ManifestRecord,
    /// Its bytes.
    pub content: Bytes,
}

impl Stored {
    /// Its parsed form. What is stored was parsed before.
    pub fn parse(&self) -> Result<Manifest> {
        let mut parsed = parse(&self.record.media_type, &self.content)?;
        parsed.hold_only(|named| self.record.held.contains(&named.digest));
        Ok(parsed)
    }
}

/// What a manifest names.
pub fn names_in(digest: &Digest, record: &ManifestRecord, parsed: &Manifest) -> Names {
    let references = parsed.references().into_iter();
    Names {
        references: references.map(|named| named.digest.clone()).collect(),
        subject: parsed.subject().map(|subject| subject.digest.clone()),
        referrer: referrer_descriptor(digest, record, parsed),
    }
}

/// The manifest's entry in the referrers list of its subject (distribution-spec, "Listing Referrers").
pub(crate) fn referrer_descriptor(
    digest: &Digest,
    record: &ManifestRecord,
    parsed: &Manifest,
) -> Option<serde_json::Value> {
    parsed.subject()?;
    let (artifact_type, annotations) = match parsed {
        Manifest::Image(m) => (&m.artifact_type, &m.annotations),
        Manifest::Index(i) => (&i.artifact_type, &i.annotations),
        Manifest::Other(o) => (&o.artifact_type, &o.annotations),
    };
    let mut artifact_type = artifact_type.as_ref().filter(|t| !t.is_empty());
    if let Manifest::Image(m) = parsed {
        artifact_type = artifact_type.or(Some(&m.config.media_type));
    }
    let mut descriptor = json!({
        "mediaType": record.media_type,
        "digest": digest.to_string(),
        "size": record.size,
    });
    if let Some(artifact_type) = artifact_type {
        descriptor["artifactType"] = artifact_type.clone().into();
    }
    if !annotations.is_empty() {
        descriptor["annotations"] = json!(annotations);
    }
    Some(descriptor)
}

/// What is missing of a manifest, as far as it is told.
const MISSING: usize = 100;

/// Parses a manifest's bytes by its media type.
pub fn parse(media_type: &str, content: &[u8]) -> Result<Manifest> {
    Manifest::parse(media_type, content).map_err(|e| Error::ManifestInvalid(e.to_string()))
}

impl Registry {
    /// Stores a manifest and points tags at it: afterwards all of it survives a power cut.
    pub async fn put_manifest(&self, put: Put) -> Result<Digest> {
        self.put_with_subject(put).await.map(|(digest, _)| digest)
    }

    /// As [`Self::put_manifest`]; also says what it is about.
    pub async fn put_with_subject(&self, put: Put) -> Result<(Digest, Option<Digest>)> {
        if put.content.len() > MAX_SIZE {
            return Err(Error::TooLarge {
                what: "the manifest",
                limit: MAX_SIZE as u64,
            });
        }
        let kind = put.media_type.split(';').next().unwrap_or_default().trim();
        let (mut parsed, digest) = self.parse_and_hash(kind, &put).await?;
        let subject = parsed.subject().map(|subject| subject.digest.clone());
        if let Some(expected) = put.expected.clone().filter(|e| *e != digest) {
            return Err(Error::DigestMismatch {
                expected,
                actual: digest,
            });
        }
        // From here until the index knows the references, nothing that it names is collected.
        let mut leases = vec![self.leases.hold(&digest).await];
        for child in parsed.references() {
            leases.push(self.leases.hold(&child.digest).await);
        }
        let held = self.hold_what_is_here(&put, &mut parsed).await?;
        self.check_children(&put, &parsed).await?;
        // Should the caller be gone before the manifest names it.
        self.index.set_pending(&digest)?;
        self.put_small_blob(&digest, put.content.clone()).await?;
        slipway_fault::point("registry.manifest.stored");
        let tag_record = TagRecord {
            digest: digest.clone(),
            origin: put.origin,
            tagged: now(),
        };
        let ours = Arc::clone(&self.ours);
        let children: Vec<Digest> = parsed
            .references()
            .iter()
            .map(|d| d.digest.clone())
            .collect();
        let (media_type, key) = (kind.to_owned(), put.repository.clone());
        let (named, shared) = (digest.clone(), self.ledger.is_shared());
        let ended = children.clone();
        self.change(&key, move |index| {
            // In hand also when nobody waits for it any more.
            let _held = &leases;
            // Looked at when nobody else changes the repository.
            let before = index.manifest(&put.repository, &named)?;
            if shared {
                // Leases keep this process's own sweep away; another one's stands in the journal.
                let wanted = children.iter().filter(|_| !put.require.is_lenient());
                let digests = index.without_object(wanted.chain([&named]))?;
                if !digests.is_empty() {
                    return Err(Error::ManifestBlobUnknown { digests });
                }
            }
            let mut unproven = Vec::new();
            if let Require::Only(shown) = &put.require {
                for child in children.iter().filter(|child| !shown.contains(child)) {
                    if !index.is_linked(&put.repository, child)? {
                        unproven.push(child.clone());
                    }
                }
            }
            let record = ManifestRecord {
                media_type: media_type.clone(),
                size: put.content.len() as u64,
                origin: put.origin,
                unproven,
                stored: before.as_ref().map_or_else(now, |b| b.stored),
                by_digest: put.by_digest || before.as_ref().is_some_and(|b| b.by_digest),
                held: held.clone(),
            };
            let own = ours.change(index, &put.repository, put.origin)?;
            let mut changes: Vec<Change> = own.into_iter().collect();
            if before.as_ref() != Some(&record) {
                changes.push(Change::SetManifest {
                    repository: put.repository.clone(),
                    digest: named.clone(),
                    names: names_in(&named, &record, &parsed),
                    record,
                });
            } else if shared {
                changes.extend(children.iter().map(|child| Change::Held {
                    repository: put.repository.clone(),
                    digest: child.clone(),
                }));
            }
            changes.extend(put.tags.iter().map(|tag| Change::SetTag {
                repository: put.repository.clone(),
                tag: tag.clone(),
                record: tag_record.clone(),
            }));
            Ok((changes, ()))
        })
        .await?;
        for child in &ended {
            self.leases.end_grace(child, &key);
        }
        Ok((digest, subject))
    }

    /// A large one apart from what others wait for.
    async fn parse_and_hash(&self, kind: &str, put: &Put) -> Result<(Manifest, Digest)> {
        if put.content.len() <= LARGE {
            let parsed = parse(kind, &put.content)?;
            return Ok((parsed, digest_of(&put.content, put.expected.as_ref())));
        }
        let _turn = self.large.parse().await;
        let (kind, content, like) = (kind.to_owned(), put.content.clone(), put.expected.clone());
        blocking(move || Ok((parse(&kind, &content)?, digest_of(&content, like.as_ref())))).await
    }

    /// A manifest of a form that is not known may name what is somewhere else, or refer to it. It keeps what is
    /// here, and makes nothing readable that was not.
    async fn hold_what_is_here(&self, put: &Put, parsed: &mut Manifest) -> Result<Vec<Digest>> {
        let Manifest::Other(other) = &*parsed else {
            return Ok(Vec::new());
        };
        let mut held = Vec::new();
        for named in &other.descriptors {
            // A mirrored one is as it is at its upstream, and so is what it names.
            if put.origin == Origin::Upstream
                || self.index.is_linked(&put.repository, &named.digest)?
                    && self.blobs.stat(&named.digest).await? == Some(named.size)
            {
                held.push(named.digest.clone());
            }
        }
        parsed.hold_only(|named| held.contains(&named.digest));
        Ok(held)
    }

    async fn check_children(&self, put: &Put, parsed: &Manifest) -> Result<()> {
        if put.require.is_lenient() {
            return Ok(());
        }
        let mut missing = Vec::new();
        for child in parsed.references() {
            let visible = match (&put.require, parsed) {
                (Require::Site | Require::Nothing | Require::Only(_), _) => true,
                (Require::Repository, Manifest::Index(_))
                    if media_type::is_manifest(&child.media_type) =>
                {
                    let found = self.index.manifest(&put.repository, &child.digest)?;
                    found.is_some()
                }
                (Require::Repository, _) => self.index.is_linked(&put.repository, &child.digest)?,
            };
            match self.blobs.stat(&child.digest).await? {
                Some(size) if visible && size == child.size => {}
                Some(size) if visible => {
                    return Err(Error::ManifestInvalid(format!(
                        "{} has {size} bytes, not {}",
                        child.digest, child.size
                    )));
                }
                _ => missing.push(child.digest.clone()),
            }
            if missing.len() == MISSING {
                break;
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::ManifestBlobUnknown { digests: missing }),
        }
    }

    /// Stores content that is in memory; the caller holds a lease. What is here already is stored as all else: whoever
    /// brought it may still wait for the disk, and only the store knows how to wait with him.
    pub(crate) async fn put_small_blob(&self, digest: &Digest, content: Bytes) -> Result<()> {
        let staged = Staged::create(&self.staging, digest.algorithm()).await?;
        staged.write(vec![content]).await?;
        let verified = staged.finish(Some(digest), None).await?;
        self.blobs.adopt(verified).await?;
        self.index.touch(digest);
        Ok(())
    }

    /// What a tag or digest names in a repository, if it is here.
    pub fn lookup(&self, name: &ImageName) -> Result<Option<(Digest, ManifestRecord)>> {
        let digest = match &name.pointer {
            Pointer::Digest(digest) => digest.clone(),
            Pointer::Tag(tag) => match self.index.tag(&name.repository, tag)? {
                Some(record) => record.digest,
                None => return Ok(None),
            },
        };
        let record = self.index.manifest(&name.repository, &digest)?;
        Ok(record.map(|record| (digest, record)))
    }

    /// The manifest that a tag or digest names in a repository, if it is here.
    pub async fn stored(&self, name: &ImageName) -> Result<Option<Stored>> {
        let Some((digest, record)) = self.lookup(name)? else {
            return Ok(None);
        };
        let _turn = match record.size > LARGE as u64 && self.cached(&digest).is_none() {
            true => Some(self.large.read().await),
            false => None,
        };
        match self.small_blob(&digest).await {
            Ok(content) => Ok(Some(Stored {
                digest,
                record,
                content,
            })),
            Err(Error::BlobNotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes a tag away. The manifest stays, also when nothing names it any more.
    pub async fn untag(&self, repository: &Repository, tag: &Tag) -> Result<bool> {
        let (repo, tag) = (repository.clone(), tag.clone());
        self.change(repository, move |index| {
            let existed = index.tag(&repo, &tag)?.is_some();
            let (repository, tag) = (repo.clone(), tag.clone());
            Ok((vec![Change::RemoveTag { repository, tag }], existed))
        })
        .await
    }

    /// Tags of a repository that name this digest.
    pub fn tags_naming(&self, repository: &Repository, digest: &Digest) -> Result<Vec<Tag>> {
        self.index.tags_naming(repository, digest)
    }
}
