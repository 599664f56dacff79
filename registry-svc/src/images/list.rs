//! All images that are here, grouped by id as `docker images` shows them.

use std::collections::{BTreeMap, HashMap, HashSet};

use slipway_image::{Digest, Manifest};

use super::Image;
use crate::{
    error::{Error, Result},
    names::{ImageName, Pointer, Repository, Tag},
    registry::Registry,
};

/// An image and all its names.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The image, as found through one of its names.
    pub image: Image,
    /// Repository, tag, what the tag names, when it was put (Unix milliseconds).
    pub tags: Vec<(Repository, Tag, Digest, u64)>,
    /// `name@digest`.
    pub digests: Vec<(Repository, Digest)>,
    /// Every place that a manifest of this image is, with or without a name.
    pub places: Vec<(Repository, Digest)>,
}

impl Listed {
    /// No name leads to it: what `docker image prune` takes.
    pub fn is_dangling(&self) -> bool {
        self.tags.is_empty() && self.digests.is_empty()
    }

    /// When one of its names was last put, Unix milliseconds.
    pub fn last_tagged(&self) -> Option<u64> {
        self.tags.iter().map(|(_, _, _, at)| *at).max()
    }
}

impl Registry {
    /// All images, those of the platform's own repositories left out.
    pub async fn images(&self) -> Result<Vec<Listed>> {
        let mut listed: BTreeMap<String, Listed> = BTreeMap::new();
        let mut covered: HashSet<(Repository, Digest)> = HashSet::new();
        let mut by_top: HashMap<(Repository, Digest), Option<String>> = HashMap::new();
        for (repository, tag, record) in self.index.all_tags()? {
            if repository.is_internal() {
                continue;
            }
            let name = ImageName {
                repository: repository.clone(),
                pointer: Pointer::Tag(tag.clone()),
            };
            let top = (repository.clone(), record.digest.clone());
            if !by_top.contains_key(&top) {
                let id = self
                    .note(&mut listed, &mut covered, name, &record.digest)
                    .await?;
                by_top.insert(top.clone(), id);
            }
            if let Some(entry) = by_top[&top].as_ref().and_then(|id| listed.get_mut(id)) {
                let digest = (repository.clone(), record.digest.clone());
                if !entry.digests.contains(&digest) {
                    entry.digests.push(digest);
                }
                entry
                    .tags
                    .push((repository, tag, record.digest, record.tagged));
            }
        }
        for (repository, digest, record) in self.index.all_manifests()? {
            if repository.is_internal() || covered.contains(&(repository.clone(), digest.clone())) {
                continue;
            }
            // What an index holds is part of that index, unless somebody asked for it by digest.
            let held = self
                .index
                .holders(&digest)?
                .iter()
                .any(|(r, m)| *r == repository && *m != digest);
            if held && !record.by_digest {
                continue;
            }
            let name = ImageName {
                repository: repository.clone(),
                pointer: Pointer::Digest(digest.clone()),
            };
            let id = self.note(&mut listed, &mut covered, name, &digest).await?;
            let entry = id.and_then(|id| listed.get_mut(&id));
            if let Some(entry) = entry.filter(|_| record.by_digest) {
                entry.digests.push((repository, digest));
            }
        }
        Ok(listed.into_values().collect())
    }

    /// Adds the image that a name leads to; `None` when it is no image or not here.
    async fn note(
        &self,
        listed: &mut BTreeMap<String, Listed>,
        covered: &mut HashSet<(Repository, Digest)>,
        name: ImageName,
        top: &Digest,
    ) -> Result<Option<String>> {
        let repository = name.repository.clone();
        covered.insert((repository.clone(), top.clone()));
        // All manifests of an index are covered by it.
        let stored = ImageName {
            repository: repository.clone(),
            pointer: Pointer::Digest(top.clone()),
        };
        if let Some(Manifest::Index(index)) = self
            .stored(&stored)
            .await?
            .and_then(|stored| stored.parse().ok())
        {
            covered.extend(
                index
                    .manifests
                    .iter()
                    .map(|child| (repository.clone(), child.digest.clone())),
            );
        }
        let image = match self.image_of(&name, None).await {
            Ok(image) => image,
            // Artifacts, and images that were begun to be mirrored and never fetched.
            Err(
                Error::ImageNotFound(_)
                | Error::ManifestInvalid(_)
                | Error::PlatformNotFound { .. },
            ) => return Ok(None),
            Err(e) => return Err(e),
        };
        // Begun to be pulled and not done, or only looked at by a build: not here yet, as for docker.
        if !self.has_all(&image.repository, &image.blobs()).await? {
            return Ok(None);
        }
        let id = image.id.to_string();
        let entry = listed.entry(id.clone()).or_insert_with(|| Listed {
            image,
            tags: Vec::new(),
            digests: Vec::new(),
            places: Vec::new(),
        });
        entry.places.push((repository, top.clone()));
        Ok(Some(id))
    }

    /// The listed form of one image.
    pub async fn listed(&self, id: &Digest) -> Result<Listed> {
        self.images()
            .await?
            .into_iter()
            .find(|listed| listed.image.id == *id)
            .ok_or_else(|| Error::ImageNotFound(id.to_string()))
    }
}
