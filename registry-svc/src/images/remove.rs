//! `docker rmi` and `docker image prune`: which names go, which images go with them, and what that frees.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use slipway_image::{Digest, Manifest};

use super::{filter::Filters, list::Listed};
use crate::{
    error::{Error, Result},
    manifests::Named,
    names::{ImageName, Pointer, Repository},
    registry::Registry,
};

/// An index of its repository needs it: that one is removed, and this goes with it.
fn is_part(what: &str) -> Error {
    Error::Conflict(format!(
        "conflict: unable to delete {what} (cannot be forced) - it is part of a multi-platform image: remove that"
    ))
}

/// What was removed, in docker's words.
#[derive(Debug, Clone, Default)]
pub struct Removed {
    /// Names: `goals:latest`.
    pub untagged: Vec<String>,
    /// Image ids.
    pub deleted: Vec<String>,
    /// Bytes that became free.
    pub reclaimed: u64,
}

impl Registry {
    /// docker rmi.
    pub async fn remove_image(self: &Arc<Self>, text: &str, force: bool) -> Result<Removed> {
        if let Ok(name) = self.own.parse_image(text) {
            // The platform's own repositories hold no images: tags are simply taken away.
            if name.repository.is_internal() {
                return self.remove_internal(&name).await;
            }
            if let Pointer::Digest(digest) = &name.pointer
                && self.index.is_damaged_at(&name.repository, digest)?
            {
                return self.remove_damaged(&name, digest).await;
            }
            if let Some((top, _)) = self.lookup(&name)? {
                return match self.image_of(&name, None).await {
                    Ok(image) if self.has_all(&image.repository, &image.blobs()).await? => {
                        let listed = self.listed(&image.id).await?;
                        self.remove_by_name(&name, listed).await
                    }
                    // An artifact, or an image that was never fetched: nothing but its name is here.
                    _ => self.remove_bare(&name, &top).await,
                };
            }
        }
        let image = self.find_image(text, None).await?;
        let listed = self.listed(&image.id).await?;
        self.remove_by_id(listed, force).await
    }

    /// What cannot be read is of no use to anybody who names it.
    async fn remove_damaged(self: &Arc<Self>, name: &ImageName, top: &Digest) -> Result<Removed> {
        Ok(Removed {
            reclaimed: self.remove_manifest(&name.repository, top).await?,
            deleted: vec![top.to_string()],
            ..Removed::default()
        })
    }

    async fn remove_internal(self: &Arc<Self>, name: &ImageName) -> Result<Removed> {
        let Some((top, _)) = self.lookup(name)? else {
            return Err(Error::ImageNotFound(name.familiar()));
        };
        self.remove_bare(name, &top).await
    }

    async fn remove_bare(self: &Arc<Self>, name: &ImageName, top: &Digest) -> Result<Removed> {
        let mut removed = Removed::default();
        if let Pointer::Tag(tag) = &name.pointer {
            self.untag(&name.repository, tag).await?;
            removed.untagged.push(name.familiar());
        }
        match self.remove_named(&name.repository, top, Vec::new()).await? {
            Named::Gone(freed) => {
                removed.reclaimed = freed;
                removed.deleted.push(top.to_string());
            }
            Named::Unnamed if removed.untagged.is_empty() => removed.untagged.push(name.familiar()),
            Named::Stays if removed.untagged.is_empty() => return Err(is_part(&name.familiar())),
            Named::Unnamed | Named::Stays => {}
        }
        Ok(removed)
    }

    async fn remove_by_name(self: &Arc<Self>, name: &ImageName, listed: Listed) -> Result<Removed> {
        let mut removed = Removed::default();
        let id = listed.image.id.clone();
        let elsewhere = listed.digests.iter().any(|(r, _)| *r != name.repository);
        match &name.pointer {
            Pointer::Tag(tag) => {
                let this = (&name.repository, tag);
                let other_tags = listed.tags.iter().any(|(r, t, _, _)| (r, t) != this);
                if other_tags || elsewhere {
                    self.untag(&name.repository, tag).await?;
                    removed.untagged.push(name.familiar());
                    self.events.tell("untag", id.to_string(), name.familiar());
                    self.drop_unnamed_place(&name.repository, &listed, &mut removed)
                        .await?;
                    return Ok(removed);
                }
            }
            Pointer::Digest(digest) => {
                // As docker: with other names left, only the digest name goes.
                if !listed.tags.is_empty() || elsewhere {
                    let here = self.remove_named(&name.repository, digest, Vec::new());
                    match here.await? {
                        Named::Gone(freed) => removed.reclaimed = freed,
                        Named::Unnamed => {}
                        Named::Stays if self.names_of(&name.repository, digest)?.is_empty() => {
                            return Err(is_part(&name.familiar()));
                        }
                        // A tag leads to it: it never had a name of its own.
                        Named::Stays => {}
                    }
                    removed.untagged.push(name.familiar());
                    return Ok(removed);
                }
            }
        }
        self.delete_all(listed, &mut removed).await?;
        Ok(removed)
    }

    /// When the last name of an image in this repository is gone but others have it, its manifests
    /// there are no dangling image: they go.
    async fn drop_unnamed_place(
        self: &Arc<Self>,
        repository: &Repository,
        listed: &Listed,
        removed: &mut Removed,
    ) -> Result<()> {
        for (place, top) in &listed.places {
            if place == repository
                && self.names_of(place, top)?.is_empty()
                && let Named::Gone(freed) = self.remove_named(place, top, Vec::new()).await?
            {
                removed.reclaimed += freed;
            }
        }
        Ok(())
    }

    async fn remove_by_id(self: &Arc<Self>, listed: Listed, force: bool) -> Result<Removed> {
        let tagged = listed.tags.iter().map(|(r, ..)| r);
        let repositories: BTreeSet<&Repository> = tagged
            .chain(listed.digests.iter().map(|(r, _)| r))
            .collect();
        let short = listed.image.id.short().to_owned();
        if (listed.tags.len() > 1 || repositories.len() > 1) && !force {
            return Err(Error::Conflict(format!(
                "conflict: unable to delete {short} (must be forced) - image is referenced in multiple \
                 repositories"
            )));
        }
        let mut removed = Removed::default();
        self.delete_all(listed, &mut removed).await?;
        match removed.untagged.is_empty() && removed.deleted.is_empty() {
            true => Err(is_part(&short)),
            false => Ok(removed),
        }
    }

    /// Takes away all names of an image, and the image unless an index needs it or somebody gave it another name.
    async fn delete_all(self: &Arc<Self>, listed: Listed, removed: &mut Removed) -> Result<()> {
        let id = listed.image.id.to_string();
        let places = listed
            .places
            .iter()
            .map(|(repository, top)| (repository, top));
        let mut left: BTreeSet<_> = places.collect();
        // An index may name what is in another place: that one goes after it.
        loop {
            let mut stay = BTreeSet::new();
            for &(repository, top) in &left {
                let here = listed
                    .tags
                    .iter()
                    .filter(|(r, _, d, _)| (r, d) == (repository, top));
                let seen = here.map(|(_, tag, _, _)| tag.clone()).collect();
                match self.remove_named(repository, top, seen).await? {
                    Named::Gone(freed) => removed.reclaimed += freed,
                    Named::Unnamed | Named::Stays => drop(stay.insert((repository, top))),
                }
            }
            if stay.is_empty() || stay.len() == left.len() {
                left = stay;
                break;
            }
            left = stay;
        }
        for (repository, tag, _, _) in &listed.tags {
            if self.index.tag(repository, tag)?.is_none() {
                let name = format!("{}:{tag}", repository.familiar());
                self.events.tell("untag", &id, &name);
                removed.untagged.push(name);
            }
        }
        for (repository, digest) in &listed.digests {
            let tagged = listed
                .tags
                .iter()
                .any(|(r, _, d, _)| (r, d) == (repository, digest));
            let gone = self.index.manifest(repository, digest)?.is_none();
            if gone || (!tagged && !self.is_named(repository, digest)?) {
                removed
                    .untagged
                    .push(format!("{}@{digest}", repository.familiar()));
            }
        }
        if left.is_empty() {
            self.events.tell("delete", &id, "");
            removed.deleted.push(id);
        }
        Ok(())
    }

    /// A tag leads to it, or somebody asked for it by its digest.
    fn is_named(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let record = self.index.manifest(repository, digest)?;
        let Some(record) = record else {
            return Ok(false);
        };
        Ok(record.by_digest || !self.names_of(repository, digest)?.is_empty())
    }

    /// docker image prune: dangling images, or with `all` every image that no container uses.
    pub async fn prune_images(
        self: &Arc<Self>,
        all: bool,
        filters: &Filters,
        in_use: &HashSet<String>,
        dry_run: bool,
    ) -> Result<Removed> {
        let mut removed = Removed::default();
        let everything = all || filters.dangling() == Some(false);
        for mut listed in self.images().await? {
            let id = listed.image.id.to_string();
            if !(everything || listed.is_dangling()) || self.is_used(&listed, in_use).await? {
                continue;
            }
            let whole = listed.clone();
            let ignoring_dangling = filters.without_dangling();
            if !ignoring_dangling.apply(&mut listed) {
                continue;
            }
            if dry_run {
                removed.reclaimed += whole.image.size();
                removed.deleted.push(id);
            } else {
                self.delete_all(whole, &mut removed).await?;
            }
        }
        if !dry_run {
            removed.reclaimed += self.sweep().await?;
        }
        Ok(removed)
    }

    /// A container was made of it: of the image for one platform or another.
    async fn is_used(&self, listed: &Listed, in_use: &HashSet<String>) -> Result<bool> {
        let is_among = |digest: &Digest| {
            in_use.contains(&digest.to_string()) || in_use.contains(digest.encoded())
        };
        if is_among(&listed.image.id) || is_among(&listed.image.manifest.digest) {
            return Ok(true);
        }
        for (repository, top) in &listed.places {
            if is_among(top) {
                return Ok(true);
            }
            for part in self.with_parts(repository, top).await? {
                if let Manifest::Image(image) = part.parse()?
                    && (is_among(&image.config.digest) || is_among(&part.digest))
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
