//! What is here, as [`super::plan`] wants it: manifests, who names whom, and what goes when the last one goes.

use std::collections::HashMap;

use slipway_image::Digest;

use super::Uses;
use crate::{
    blobs::BlobInfo,
    error::Result,
    names::{Repository, Tag},
    store::{Index, Origin},
};

/// All that is in the repositories with a rule, and what holds their blobs elsewhere.
#[derive(Debug, Default)]
pub struct Content {
    /// In the order of their repositories and digests.
    pub manifests: Vec<Manifest>,
    /// Blobs that they name.
    pub blobs: Vec<Blob>,
    /// Parts of those blobs.
    pub parts: Vec<Part>,
}

/// A manifest in a repository.
#[derive(Debug)]
pub struct Manifest {
    /// Where.
    pub repository: Repository,
    /// Its digest.
    pub digest: Digest,
    /// Where it came from.
    pub origin: Origin,
    /// When it came, Unix milliseconds.
    pub stored: u64,
    /// When it was used last, Unix milliseconds.
    pub used: u64,
    /// It is kept without a tag.
    pub by_digest: bool,
    /// The tags that name it: where each came from, and when, Unix milliseconds.
    pub tags: Vec<(Tag, Origin, u64)>,
    /// Manifests of an index.
    pub children: Vec<usize>,
    /// Indexes in the same repository that name it.
    pub parents: usize,
    /// What it is about is here.
    pub has_subject: bool,
    /// Manifests that are about it.
    pub referrers: Vec<usize>,
    /// Itself and the blobs that it names.
    pub blobs: Vec<usize>,
}

/// A blob.
#[derive(Debug)]
pub struct Blob {
    /// Bytes on disk, without its parts.
    pub disk: u64,
    /// Manifests of any repository that name it, each once a repository.
    pub holders: usize,
    /// What it is made of besides.
    pub parts: Vec<usize>,
}

/// A part that several blobs may have.
#[derive(Debug)]
pub struct Part {
    /// Bytes on disk.
    pub disk: u64,
    /// Blobs that have it.
    pub blobs: usize,
}

impl Content {
    /// Of the repositories that are wanted. `listed` are all blobs.
    pub fn load(
        index: &Index,
        uses: &Uses,
        listed: &[BlobInfo],
        wanted: impl Fn(&Repository) -> bool,
    ) -> Result<Self> {
        let mut content = Self::default();
        let (mut last, mut is_wanted) = (None, false);
        index.each_manifest(|repository, digest, record| {
            if last.as_ref() != Some(&repository) {
                is_wanted = wanted(&repository);
                last = Some(repository.clone());
            }
            if !is_wanted {
                return Ok(());
            }
            content.manifests.push(Manifest {
                used: uses.last(&repository, &digest)?,
                origin: record.origin,
                stored: record.stored,
                by_digest: record.by_digest,
                tags: Vec::new(),
                children: Vec::new(),
                parents: 0,
                has_subject: false,
                referrers: Vec::new(),
                blobs: Vec::new(),
                repository,
                digest,
            });
            Ok(())
        })?;
        index.each_tag(|repository, tag, record| {
            let digest = &record.digest;
            let digest = (digest.algorithm().as_str(), digest.encoded());
            if let Some(number) = content.find(repository.as_str(), digest) {
                let tags = &mut content.manifests[number].tags;
                tags.push((tag, record.origin, record.tagged));
            }
            Ok(())
        })?;
        let sizes = content.measure(listed);
        // They come in the order of their blobs.
        let mut known: (String, Option<usize>) = (String::new(), None);
        index.each_reference(|blob, repository, manifest| {
            if known.0 != blob {
                let digest = blob.parse::<Digest>().ok();
                let size = digest.and_then(|digest| sizes.get(&digest).copied());
                known = (blob.to_owned(), size);
            }
            let size = known.1;
            if let Some(size) = size {
                content.blobs[size].holders += 1;
            }
            let Some(number) = content.number_of(repository, manifest) else {
                return;
            };
            content.manifests[number].blobs.extend(size);
            if blob != manifest
                && let Some(child) = content.number_of(repository, blob)
            {
                content.manifests[number].children.push(child);
                content.manifests[child].parents += 1;
            }
        })?;
        index.each_referrer(|repository, subject, referrer| {
            if let (Some(subject), Some(referrer)) = (
                content.number_of(repository, subject),
                content.number_of(repository, referrer),
            ) {
                content.manifests[subject].referrers.push(referrer);
                content.manifests[referrer].has_subject = true;
            }
        })?;
        Ok(content)
    }

    /// By the texts of the index.
    fn number_of(&self, repository: &str, digest: &str) -> Option<usize> {
        self.find(repository, digest.split_once(':')?)
    }

    fn find(&self, repository: &str, digest: (&str, &str)) -> Option<usize> {
        let order = |it: &Manifest| {
            let own = (it.digest.algorithm().as_str(), it.digest.encoded());
            (it.repository.as_str(), own).cmp(&(repository, digest))
        };
        self.manifests.binary_search_by(order).ok()
    }

    /// Takes sizes over. Returns the number of each blob.
    fn measure<'a>(&mut self, listed: &'a [BlobInfo]) -> HashMap<&'a Digest, usize> {
        let mut parts: HashMap<&Digest, usize> = HashMap::new();
        let mut numbers = HashMap::new();
        for blob in listed {
            let mut made_of = Vec::new();
            for (part, disk) in &blob.parts {
                let number = *parts.entry(part).or_insert_with(|| {
                    let part = Part {
                        disk: *disk,
                        blobs: 0,
                    };
                    self.parts.push(part);
                    self.parts.len() - 1
                });
                self.parts[number].blobs += 1;
                made_of.push(number);
            }
            match numbers.get(&blob.digest) {
                // Two who stored it at once may have done so in both forms.
                Some(&known) => {
                    let known: &mut Blob = &mut self.blobs[known];
                    known.disk += blob.disk;
                    known.parts.extend(made_of);
                }
                None => {
                    numbers.insert(&blob.digest, self.blobs.len());
                    self.blobs.push(Blob {
                        disk: blob.disk,
                        holders: 0,
                        parts: made_of,
                    });
                }
            }
        }
        numbers
    }
}
