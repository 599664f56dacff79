//! `docker rmi` and `docker image prune`: which names go, which images go with them, and what that frees.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use slipway_image::Digest;

use super::{filter::Filters, list::Listed};
use crate::{
    error::{Error, Result},
    names::{ImageName, Pointer, Repository},
    registry::Registry,
};

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
                return self.remove_bare(&name, digest).await;
            }
            if let Some((top, _)) = self.lookup(&name)? {
                return match self.image_of(&name, None).await {
                    Ok(image) if self.has_all(&image.blobs()).await? => {
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
        if self.names_of(&name.repository, top)?.is_empty() {
            removed.reclaimed = self.remove_manifest(&name.repository, top).await?;
            removed.deleted.push(top.to_string());
        }
        Ok(removed)
    }

    async fn remove_by_name(self: &Arc<Self>, name: &ImageName, listed: Listed) -> Result<Removed> {
        let mut removed = Removed::default();
        let id = listed.image.id.clone();
        match &name.pointer {
            Pointer::Tag(tag) => {
                let others = listed
                    .tags
                    .iter()
                    .filter(|(r, t, _, _)| (r, t) != (&name.repository, tag))
                    .count();
                if others > 0 {
                    self.untag(&name.repository, tag).await?;
                    removed.untagged.push(name.familiar());
                    self.events.tell("untag", id.to_string(), name.familiar());
                    self.drop_unnamed_place(&name.repository, &listed, &mut removed)
                        .await?;
                    return Ok(removed);
                }
            }
            Pointer::Digest(digest) => {
                // As docker: with tags left, only the digest name goes.
                if !listed.tags.is_empty() {
                    removed.untagged.push(name.familiar());
                    let tagged = listed
                        .tags
                        .iter()
                        .any(|(r, _, d, _)| (r, d) == (&name.repository, digest));
                    if !tagged {
                        removed.reclaimed = self.remove_manifest(&name.repository, digest).await?;
                    }
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
            if place == repository && self.names_of(place, top)?.is_empty() {
                removed.reclaimed += self.remove_manifest(place, top).await?;
            }
        }
        Ok(())
    }

    async fn remove_by_id(self: &Arc<Self>, listed: Listed, force: bool) -> Result<Removed> {
        let repositories: BTreeSet<&Repository> = listed.tags.iter().map(|(r, ..)| r).collect();
        if (listed.tags.len() > 1 || repositories.len() > 1) && !force {
            return Err(Error::Conflict(format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
                 repositories",
                listed.image.id.short()
            )));
        }
        let mut removed = Removed::default();
        self.delete_all(listed, &mut removed).await?;
        Ok(removed)
    }

    async fn delete_all(self: &Arc<Self>, listed: Listed, removed: &mut Removed) -> Result<()> {
        let id = listed.image.id.to_string();
        for (repository, tag, _, _) in &listed.tags {
            let name = format!("{}:{tag}", repository.familiar());
            self.events.tell("untag", &id, &name);
            removed.untagged.push(name);
        }
        for (repository, digest) in &listed.digests {
            removed
                .untagged
                .push(format!("{}@{digest}", repository.familiar()));
        }
        let mut gone = HashSet::new();
        for (repository, top) in &listed.places {
            if gone.insert((repository, top)) {
                removed.reclaimed += self.remove_manifest(repository, top).await?;
            }
        }
        self.events.tell("delete", &id, "");
        removed.deleted.push(id);
        Ok(())
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
            let used = in_use.contains(&id)
                || in_use.contains(listed.image.id.encoded())
                || in_use.contains(&listed.image.manifest.digest.to_string())
                || in_use.contains(&listed.image.top.to_string());
            if used || !(everything || listed.is_dangling()) {
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
}
