//! `docker system df`: what is on disk, and for whom.
//!
//! Every block below the service's folder belongs to exactly one of the sums. A blob, and a part of blobs,
//! belongs to the images that have it, else to what else names it. Of an image all that it has is told, and how
//! much of it others have too, as docker does.

use std::collections::{HashMap, HashSet};

use slipway_image::Digest;
use slipway_service::disk;

use super::list::Listed;
use crate::{
    blobs::{BlobInfo, staging::blocking},
    error::{Error, Result},
    names::{ImageName, Pointer, Repository, Tag},
    registry::Registry,
};

/// How much there is, in bytes on disk.
#[derive(Debug, Default)]
pub struct Usage {
    /// Each image, newest first.
    pub images: Vec<ImageUsage>,
    /// Blobs of images, each once.
    pub size: u64,
    /// Those of them that go with the images that no container uses.
    pub reclaimable: u64,
    /// Blobs that only the platform's own repositories have.
    pub internal: u64,
    /// Blobs of what else has a manifest.
    pub artifacts: u64,
    /// Blobs that nothing names, or not yet.
    pub unneeded: u64,
    /// What is on its way in.
    pub transfers: u64,
    /// Names, the index, folders.
    pub records: u64,
    /// Each tag of the repository that was asked for.
    pub tags: Vec<TagUsage>,
}

/// An image's bytes.
#[derive(Debug)]
pub struct ImageUsage {
    /// Which.
    pub listed: Listed,
    /// Of all that its blobs are made of.
    pub size: u64,
    /// Of that what other images have too.
    pub shared: u64,
    /// Containers that use it.
    pub containers: u32,
}

/// A tag's bytes.
#[derive(Debug)]
pub struct TagUsage {
    /// Which.
    pub tag: Tag,
    /// Of all that its blobs are made of.
    pub size: u64,
    /// Of that what images have too.
    pub shared: u64,
}

/// What is on disk by itself: a blob, or a part that several may have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit<'a> {
    Blob(&'a Digest),
    Part(&'a Digest),
}

/// What is here: what it takes, and how many images have it.
#[derive(Default)]
struct Units<'a> {
    /// What each blob is made of.
    blobs: HashMap<&'a Digest, Vec<Unit<'a>>>,
    disk: HashMap<Unit<'a>, u64>,
    images: HashMap<Unit<'a>, u32>,
}

impl<'a> Units<'a> {
    fn of(listed: &'a [BlobInfo]) -> Self {
        let mut units = Self::default();
        for blob in listed {
            let made_of = units.blobs.entry(&blob.digest).or_default();
            let own = Unit::Blob(&blob.digest);
            // Two who stored it at once may have done so in both forms.
            *units.disk.entry(own).or_default() += blob.disk;
            made_of.push(own);
            for (part, disk) in &blob.parts {
                units.disk.insert(Unit::Part(part), *disk);
                made_of.push(Unit::Part(part));
            }
        }
        units
    }

    /// What these blobs are made of, each once.
    fn made_of(&self, blobs: &HashSet<Digest>) -> HashSet<Unit<'a>> {
        let known = blobs.iter().filter_map(|blob| self.blobs.get(blob));
        known.flatten().copied().collect()
    }

    fn sum(&self, units: &HashSet<Unit<'a>>) -> u64 {
        units.iter().filter_map(|unit| self.disk.get(unit)).sum()
    }

    /// Of those that more than so many images have.
    fn sum_shared(&self, units: &HashSet<Unit<'a>>, more_than: u32) -> u64 {
        let shared = |unit: &&Unit<'a>| self.images.get(*unit).is_some_and(|n| *n > more_than);
        let shared = units.iter().filter(shared);
        shared.filter_map(|unit| self.disk.get(unit)).sum()
    }
}

impl Registry {
    /// What is on disk. `in_use` has the image of each container; `tags_of` is a repository whose tags are
    /// told one by one.
    pub async fn disk_usage(
        &self,
        in_use: &[String],
        tags_of: Option<&Repository>,
    ) -> Result<Usage> {
        let mut usage = Usage::default();
        let listed = self.blobs.list().await?;
        let mut units = Units::of(&listed);
        let mut images = self.images().await?;
        images.sort_by(|a, b| {
            (b.image.created(), &b.image.id).cmp(&(a.image.created(), &a.image.id))
        });
        let mut of_images = Vec::new();
        for listed in images {
            let mut has = HashSet::new();
            for (repository, top) in &listed.places {
                has.extend(self.closure(repository, top).await?);
            }
            let has = units.made_of(&has);
            for unit in &has {
                *units.images.entry(*unit).or_default() += 1;
            }
            of_images.push((listed, has));
        }
        let mut used = HashSet::new();
        for (listed, has) in of_images {
            let id = listed.image.id.to_string();
            let containers = in_use.iter().filter(|i| **i == id).count() as u32;
            if containers > 0 {
                used.extend(has.iter().copied());
            }
            usage.images.push(ImageUsage {
                size: units.sum(&has),
                shared: units.sum_shared(&has, 1),
                containers,
                listed,
            });
        }
        let (mut internal, mut artifacts) = (HashSet::new(), HashSet::new());
        for (repository, digest, _) in self.index.all_manifests()? {
            let has = units.made_of(&self.closure(&repository, &digest).await?);
            match repository.is_internal() {
                true => internal.extend(has),
                false => artifacts.extend(has),
            }
        }
        for (unit, bytes) in &units.disk {
            if units.images.contains_key(unit) {
                usage.size += bytes;
                if !used.contains(unit) {
                    usage.reclaimable += bytes;
                }
            } else if artifacts.contains(unit) {
                usage.artifacts += bytes;
            } else if internal.contains(unit) {
                usage.internal += bytes;
            } else {
                usage.unneeded += bytes;
            }
        }
        if let Some(repository) = tags_of {
            for (tag, record) in self.index.tags_of(repository, None, usize::MAX)? {
                let has = units.made_of(&self.closure(repository, &record.digest).await?);
                usage.tags.push(TagUsage {
                    tag,
                    size: units.sum(&has),
                    shared: units.sum_shared(&has, 0),
                });
            }
        }
        self.measure_rest(&mut usage, units.disk.values().sum())
            .await?;
        Ok(usage)
    }

    /// What is below the folder besides blobs.
    async fn measure_rest(&self, usage: &mut Usage, blobs: u64) -> Result<()> {
        let root = self.root.clone();
        let measured = blocking(move || {
            let size = |path: &std::path::Path| {
                disk::usage(path).map_err(Error::io("cannot measure", path))
            };
            let mut transfers = 0;
            for name in ["tmp", "partial", "uploads"] {
                let folder = root.join(name);
                let own = disk::of_folder(&folder).map_err(Error::io("cannot measure", &folder))?;
                transfers += size(&folder)?.saturating_sub(own);
            }
            Ok((size(&root)?, transfers))
        });
        let (all, transfers) = measured.await?;
        usage.transfers = transfers;
        usage.records = all.saturating_sub(transfers + blobs);
        Ok(())
    }

    /// A manifest and everything that it names in its repository.
    async fn closure(&self, repository: &Repository, top: &Digest) -> Result<HashSet<Digest>> {
        let mut has = HashSet::new();
        let mut left = vec![top.clone()];
        while let Some(digest) = left.pop() {
            if !has.insert(digest.clone()) || self.index.manifest(repository, &digest)?.is_none() {
                continue;
            }
            let name = ImageName {
                repository: repository.clone(),
                pointer: Pointer::Digest(digest),
            };
            if let Some(parsed) = self.stored(&name).await?.and_then(|s| s.parse().ok()) {
                left.extend(parsed.references().iter().map(|d| d.digest.clone()));
            }
        }
        Ok(has)
    }
}
