//! What tags name, and which tags name a manifest.

use std::ops::Bound;

use slipway_image::Digest;

use super::{Index, TagRecord, get, key, put, split};
use crate::{
    error::Result,
    names::{Repository, Tag},
};

impl Index {
    /// What a tag names.
    pub fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<TagRecord>> {
        get(&self.tags, &tag_key(repository, tag.as_str()))
    }

    /// Points a tag. One at a time changes the tags of a repository.
    pub fn set_tag(&self, repository: &Repository, tag: &Tag, record: &TagRecord) -> Result<()> {
        self.untag(repository, tag)?;
        self.tagged
            .insert(tagged_key(repository, &record.digest, tag.as_str()), &[])?;
        put(&self.tags, &tag_key(repository, tag.as_str()), record)
    }

    /// Forgets a tag.
    pub fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<()> {
        self.untag(repository, tag)?;
        self.tags.remove(tag_key(repository, tag.as_str()))?;
        self.checked
            .remove(key(&[repository.as_str(), tag.as_str()]))?;
        Ok(())
    }

    fn untag(&self, repository: &Repository, tag: &Tag) -> Result<()> {
        if let Some(before) = self.tag(repository, tag)? {
            self.tagged
                .remove(tagged_key(repository, &before.digest, tag.as_str()))?;
        }
        Ok(())
    }

    /// Tags of a repository in lexical order, whatever the case of their letters (distribution-spec, "Listing
    /// Tags"), after `last`, at most `limit`.
    pub fn tags_of(
        &self,
        repository: &Repository,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Tag, TagRecord)>> {
        let prefix = key(&[repository.as_str(), ""]);
        let from = match last {
            Some(last) => Bound::Excluded(tag_key(repository, last)),
            None => Bound::Included(prefix.clone()),
        };
        let mut found = Vec::new();
        for entry in self.tags.range((from, Bound::Unbounded)) {
            let (k, v) = entry?;
            if !k.starts_with(&prefix) || found.len() >= limit {
                break;
            }
            let (Some([_, _, tag]), Ok(record)) = (split(&k), serde_json::from_slice(&v)) else {
                continue;
            };
            found.push((Tag::parse(tag)?, record));
        }
        Ok(found)
    }

    /// Tags of a repository that name this digest.
    pub fn tags_naming(&self, repository: &Repository, digest: &Digest) -> Result<Vec<Tag>> {
        let mut found = Vec::new();
        let prefix = tagged_key(repository, digest, "");
        for k in self.tagged.scan_prefix(prefix).keys() {
            if let Some([_, _, tag]) = split(&k?) {
                found.push(Tag::parse(tag)?);
            }
        }
        Ok(found)
    }

    /// All tags of all repositories.
    pub fn all_tags(&self) -> Result<Vec<(Repository, Tag, TagRecord)>> {
        let mut found = Vec::new();
        self.each_tag(|repository, tag, record| {
            found.push((repository, tag, record));
            Ok(())
        })?;
        Ok(found)
    }

    /// When upstream last confirmed the tag, Unix milliseconds.
    pub fn checked(&self, repository: &Repository, tag: &Tag) -> Result<Option<u64>> {
        get(&self.checked, &key(&[repository.as_str(), tag.as_str()]))
    }

    /// Upstream confirmed the tag now.
    pub fn set_checked(&self, repository: &Repository, tag: &Tag, at: u64) -> Result<()> {
        put(
            &self.checked,
            &key(&[repository.as_str(), tag.as_str()]),
            &at,
        )
    }
}

/// Key of a tag. Letters of either case first, so that they are in order together.
pub(super) fn tag_key(repository: &Repository, tag: &str) -> Vec<u8> {
    key(&[repository.as_str(), &tag.to_ascii_lowercase(), tag])
}

pub(super) fn tagged_key(repository: &Repository, digest: &Digest, tag: &str) -> Vec<u8> {
    key(&[repository.as_str(), &digest.to_string(), tag])
}

#[cfg(test)]
mod tests {
    use super::{super::Origin, *};

    #[test]
    fn the_tags_of_a_manifest_are_those_that_name_it_now() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(folder.path()).unwrap();
        let [one, other] = ["one", "other"].map(|name| Repository::new("docker.io", name).unwrap());
        let [first, second] = ["first", "second"].map(Digest::of);
        let point = |repository: &Repository, tag: &str, digest: &Digest| {
            let record = TagRecord {
                digest: digest.clone(),
                origin: Origin::Local,
                tagged: 0,
            };
            let tag = Tag::parse(tag).unwrap();
            index.set_tag(repository, &tag, &record).unwrap();
        };
        let naming = |repository: &Repository, digest: &Digest| -> Vec<String> {
            let tags = index.tags_naming(repository, digest).unwrap();
            tags.iter().map(|tag| tag.as_str().to_owned()).collect()
        };
        for tag in ["B", "a", "c"] {
            point(&one, tag, &first);
        }
        point(&other, "a", &first);
        point(&one, "c", &second);
        point(&one, "c", &second);
        assert_eq!(naming(&one, &first), ["B", "a"]);
        assert_eq!(naming(&one, &second), ["c"]);
        for tag in ["c", "missing"] {
            index.remove_tag(&one, &Tag::parse(tag).unwrap()).unwrap();
        }
        assert_eq!(naming(&one, &second), [""; 0]);
        assert_eq!(naming(&other, &first), ["a"]);
        index.clear().unwrap();
        assert_eq!(naming(&other, &first), [""; 0]);
        point(&other, "a", &first);
        let index = index.cleared().unwrap();
        assert!(index.tags_naming(&other, &first).unwrap().is_empty());
        assert!(index.tags_of(&other, None, 9).unwrap().is_empty());
    }
}
