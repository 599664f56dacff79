//! Pointing a tag at a manifest that is here, with all that an index brings along.

use std::collections::{BTreeSet, HashSet};

use slipway_image::{Digest, Manifest};

use super::{Put, Require, Stored};
use crate::{
    error::{Error, Result},
    names::{ImageName, Pointer, Repository, Tag},
    registry::Registry,
    store::Origin,
};

impl Registry {
    /// Points a tag at a manifest of another or the same repository.
    pub async fn tag(&self, source: &ImageName, target: &Repository, tag: &Tag) -> Result<Digest> {
        let missing = || Error::ImageNotFound(source.familiar());
        let (top, _) = self.lookup(source)?.ok_or_else(missing)?;
        let parts = self.with_parts(&source.repository, &top).await?;
        // What is in hand is not collected; what went before it was in hand is not here any more.
        let mut held = Vec::new();
        for part in &parts {
            held.push(self.leases.hold(&part.digest).await);
            for named in part.parse()?.references() {
                held.push(self.leases.hold(&named.digest).await);
            }
        }
        let mut found = false;
        // An index comes after its parts.
        for part in parts.iter().rev() {
            let still = self.index.manifest(&source.repository, &part.digest)?;
            let (is_top, is_here) = (part.digest == top, still.is_some());
            let tags = if is_top {
                vec![tag.clone()]
            } else {
                Vec::new()
            };
            if is_here {
                let shown = self.shown_by(&source.repository, part)?;
                self.put_manifest(copy_of(part, target, tags, shown))
                    .await?;
            }
            found |= is_top && is_here;
        }
        found.then_some(top).ok_or_else(missing)
    }

    /// What of a manifest may be read through its repository without asking anybody.
    fn shown_by(&self, repository: &Repository, manifest: &Stored) -> Result<HashSet<Digest>> {
        let mut shown = HashSet::new();
        for named in manifest.parse()?.references() {
            if self.index.is_linked(repository, &named.digest)? {
                shown.insert(named.digest.clone());
            }
        }
        Ok(shown)
    }

    /// A manifest of a repository, and what is here of those that it names.
    pub(crate) async fn with_parts(
        &self,
        repository: &Repository,
        top: &Digest,
    ) -> Result<Vec<Stored>> {
        let mut known = BTreeSet::from([top.clone()]);
        let mut wanted = vec![top.clone()];
        let mut found = Vec::new();
        while let Some(digest) = wanted.pop() {
            let name = ImageName {
                repository: repository.clone(),
                pointer: Pointer::Digest(digest),
            };
            let Some(stored) = self.stored(&name).await? else {
                continue;
            };
            if let Manifest::Index(index) = stored.parse()? {
                let children = index.manifests.into_iter().map(|child| child.digest);
                wanted.extend(children.filter(|child| known.insert(child.clone())));
            }
            found.push(stored);
        }
        Ok(found)
    }
}

fn copy_of(
    stored: &Stored,
    repository: &Repository,
    tags: Vec<Tag>,
    shown: HashSet<Digest>,
) -> Put {
    Put {
        repository: repository.clone(),
        tags,
        media_type: stored.record.media_type.clone(),
        content: stored.content.clone(),
        expected: Some(stored.digest.clone()),
        origin: Origin::Local,
        by_digest: false,
        require: Require::Only(shown),
    }
}
