//! How a manifest goes, and what goes with it.

use std::sync::Arc;

use slipway_image::{Digest, Manifest};

use crate::{
    error::Result,
    names::{ImageName, Pointer, Repository},
    registry::Registry,
};

impl Registry {
    /// Removes a manifest from a repository with the tags that name it, what only an index of it held,
    /// and content that nothing names any more. Returns the bytes that became free.
    pub async fn remove_manifest(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        let mut released = Vec::new();
        let mut doomed = vec![digest.clone()];
        while let Some(digest) = doomed.pop() {
            let name = ImageName {
                repository: repository.clone(),
                pointer: Pointer::Digest(digest.clone()),
            };
            let parsed = match self.stored(&name).await? {
                Some(stored) => stored.parse().ok(),
                None => None,
            };
            let tags = self.tags_naming(repository, &digest)?;
            let (manifests, tag_files) = (Arc::clone(&self.manifests), Arc::clone(&self.tags));
            let (repo, gone, known) = (repository.clone(), digest.clone(), parsed.clone());
            self.change(repository, move || {
                for tag in &tags {
                    tag_files.remove(&repo, tag)?;
                }
                manifests.remove(&repo, &gone, known.as_ref())
            })
            .await?;
            for child in parsed.iter().flat_map(|m| m.references()) {
                if matches!(parsed, Some(Manifest::Index(_)))
                    && self.is_orphan(repository, &child.digest)?
                {
                    doomed.push(child.digest.clone());
                }
                released.push(child.digest.clone());
            }
            released.push(digest);
        }
        self.release(released).await
    }

    /// A manifest that only an index named, which is gone.
    fn is_orphan(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let Some(record) = self.index.manifest(repository, digest)? else {
            return Ok(false);
        };
        let named = self
            .index
            .holders(digest)?
            .iter()
            .any(|(r, m)| r == repository && m != digest);
        Ok(!record.by_digest && !named && self.tags_naming(repository, digest)?.is_empty())
    }
}
