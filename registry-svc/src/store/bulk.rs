//! Many entries at once, for an index that is made anew. They are written in the order of their keys: each page of
//! a tree is then changed once, and not again and again while others push it out of memory.

use slipway_image::Digest;

use super::{Index, ManifestRecord, Names, TagRecord, key, tags};
use crate::{
    error::Result,
    names::{Repository, Tag},
};

/// Entries that are kept before they are written: some 6 MB.
const MOST: usize = 20_000;

/// Where an entry goes. In this order they are written: whoever sees a manifest may rely on its blobs being held,
/// and whoever sees a tag on the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Refs,
    Links,
    Linked,
    Referrers,
    Manifests,
    Tagged,
    Tags,
    Waiting,
    Pending,
    Damaged,
}

/// An entry of the index: where, its key, its value.
pub(super) type Entry = (Place, Vec<u8>, Vec<u8>);

/// See the module's page.
#[derive(Default)]
pub struct Bulk(Vec<Entry>);

impl Bulk {
    /// A manifest, and what it names.
    pub fn manifest(
        &mut self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        names: &Names,
    ) {
        self.0
            .extend(of_manifest(repository, digest, record, names));
    }

    /// A manifest that cannot be read.
    pub fn damaged(&mut self, repository: &Repository, digest: &Digest) {
        let key = key(&[repository.as_str(), &digest.to_string()]);
        self.0.push((Place::Damaged, key, Vec::new()));
    }

    /// What a tag names; it named nothing before.
    pub fn tag(&mut self, repository: &Repository, tag: &Tag, record: &TagRecord) {
        let tagged = tags::tagged_key(repository, &record.digest, tag.as_str());
        self.0.push((Place::Tagged, tagged, Vec::new()));
        let tag = tags::tag_key(repository, tag.as_str());
        self.0.push((Place::Tags, tag, json(record)));
    }

    /// A blob that may be read through a repository.
    pub fn link(&mut self, repository: &Repository, digest: &Digest) {
        let (repository, digest) = (repository.as_str(), digest.to_string());
        let link = key(&[repository, &digest]);
        self.0.push((Place::Links, link, Vec::new()));
        let linked = key(&[&digest, repository]);
        self.0.push((Place::Linked, linked, Vec::new()));
    }

    /// The same, and it waits for a manifest of the repository.
    pub fn waiting(&mut self, repository: &Repository, digest: &Digest) {
        self.link(repository, digest);
        let link = key(&[repository.as_str(), &digest.to_string()]);
        self.0.push((Place::Waiting, link, Vec::new()));
    }

    /// A blob that the sweep is to look at.
    pub fn pending(&mut self, digest: &str) {
        let key = digest.as_bytes().to_vec();
        self.0.push((Place::Pending, key, Vec::new()));
    }

    /// What another one has, too.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// It is to be written before more comes.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }
}

impl Index {
    /// Writes all of it.
    pub fn write(&self, bulk: Bulk) -> Result<()> {
        let mut entries = bulk.0;
        entries.sort_unstable();
        for (place, key, value) in entries {
            self.tree(place).insert(key, value)?;
        }
        Ok(())
    }

    pub(super) const fn tree(&self, place: Place) -> &sled::Tree {
        match place {
            Place::Refs => &self.refs,
            Place::Links => &self.links,
            Place::Linked => &self.linked,
            Place::Referrers => &self.referrers,
            Place::Manifests => &self.manifests,
            Place::Tagged => &self.tagged,
            Place::Tags => &self.tags,
            Place::Waiting => &self.waiting,
            Place::Pending => &self.pending,
            Place::Damaged => &self.damaged,
        }
    }
}

/// What the index says of a manifest; itself comes last.
pub(super) fn of_manifest(
    repository: &Repository,
    digest: &Digest,
    record: &ManifestRecord,
    names: &Names,
) -> Vec<Entry> {
    let (repo, name) = (repository.as_str(), digest.to_string());
    let mut entries = Vec::with_capacity(3 * names.references.len() + 5);
    for child in std::iter::once(digest).chain(&names.references) {
        let readable = child == digest || record.shows(child);
        let child = &child.to_string();
        entries.push((Place::Refs, key(&[child, repo, &name]), Vec::new()));
        if readable {
            entries.push((Place::Links, key(&[repo, child]), Vec::new()));
            entries.push((Place::Linked, key(&[child, repo]), Vec::new()));
        }
    }
    if let (Some(subject), Some(referrer)) = (&names.subject, &names.referrer) {
        let key = key(&[repo, &subject.to_string(), &name]);
        entries.push((Place::Referrers, key, json(referrer)));
    }
    entries.push((Place::Manifests, key(&[repo, &name]), json(record)));
    entries
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are plain data")
}
