//! How a manifest goes, and what goes with it.

use std::sync::Arc;

use slipway_image::{Digest, Manifest};

use super::names_in;
use crate::{
    error::Result,
    ledger::Change,
    names::{ImageName, Pointer, Repository},
    registry::{Registry, now},
    store::{Index, Waiting},
    work::to_its_end,
};

/// Says whether a manifest is to go.
type Judge = Box<dyn FnMut(&Index) -> Result<bool> + Send>;

impl Registry {
    /// Removes a manifest from a repository with the tags that name it, what only an index of it held,
    /// and content that nothing names any more. Returns the bytes that became free.
    pub async fn remove_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64> {
        let removed = self.remove(repository, digest, None).await?;
        Ok(removed.unwrap_or(0))
    }

    /// The same, if nobody has it in hand and `judge` agrees, who looks while nobody changes the repository.
    /// `None`: it stays.
    pub(crate) async fn remove_manifest_if(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        judge: impl FnMut(&Index) -> Result<bool> + Send + 'static,
    ) -> Result<Option<u64>> {
        self.remove(repository, digest, Some(Box::new(judge))).await
    }

    async fn remove(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        judge: Option<Judge>,
    ) -> Result<Option<u64>> {
        let (registry, repository) = (Arc::clone(self), repository.clone());
        let top = digest.clone();
        to_its_end(async move {
            let taken = registry.take_out(&repository, &top, judge).await?;
            let Some(mut released) = taken else {
                return Ok(None);
            };
            let mut next = 0;
            // What an index held may be an index too.
            while let Some((digest, was_in_index)) = released.get(next).cloned() {
                next += 1;
                if was_in_index {
                    let (repo, child) = (repository.clone(), digest.clone());
                    let judge: Judge = Box::new(move |index| is_orphan(index, &repo, &child));
                    let taken = registry.take_out(&repository, &digest, Some(judge)).await?;
                    released.extend(taken.unwrap_or_default());
                }
            }
            let mut released: Vec<_> = released.into_iter().map(|(digest, _)| digest).collect();
            released.push(top);
            registry.release(released).await.map(Some)
        })
        .await
    }

    /// Takes a manifest out of a repository; with a judge, only if that one agrees and nobody has it in hand.
    /// Returns what it named, and whether as an index; `None`: it stays.
    async fn take_out(
        &self,
        repository: &Repository,
        digest: &Digest,
        judge: Option<Judge>,
    ) -> Result<Option<Vec<(Digest, bool)>>> {
        // Whoever is to name it waits, and finds that it is gone.
        let doomed = self.leases.doom(digest);
        if judge.is_some() && doomed.is_none() {
            return Ok(None);
        }
        let name = ImageName {
            repository: repository.clone(),
            pointer: Pointer::Digest(digest.clone()),
        };
        let (parsed, names) = match self.stored(&name).await? {
            Some(stored) => {
                let parsed = stored.parse().ok();
                let names = parsed
                    .as_ref()
                    .map(|parsed| names_in(digest, &stored.record, parsed, &stored.content));
                (parsed, names)
            }
            None => (None, None),
        };
        let named = |parsed: &Manifest| {
            let is_index = matches!(parsed, Manifest::Index(_));
            let children = parsed.references().into_iter();
            children.map(|c| (c.digest.clone(), is_index)).collect()
        };
        let children = parsed.as_ref().map_or_else(Vec::new, named);
        let leases = Arc::clone(&self.leases);
        let (repo, gone) = (repository.clone(), digest.clone());
        let mut judge = judge;
        let taken = self.change(repository, move |index| {
            if let Some(judge) = &mut judge
                && !judge(index)?
            {
                return Ok((Vec::new(), false));
            }
            let tags = index.tags_naming(&repo, &gone)?.into_iter();
            let mut changes: Vec<Change> = tags
                .map(|tag| Change::RemoveTag {
                    repository: repo.clone(),
                    tag,
                })
                .collect();
            // What a client was told of while this manifest held it outlives a restart, too.
            let children = names.iter().flat_map(|names| &names.references);
            let promised = children.filter(|child| leases.is_promised(child, &repo));
            changes.extend(promised.map(|child| Change::Wait {
                digest: child.clone(),
                who: Waiting::Repository(repo.clone()),
                since: now(),
            }));
            changes.push(Change::RemoveManifest {
                repository: repo.clone(),
                digest: gone.clone(),
                names: names.clone(),
            });
            Ok((changes, true))
        });
        Ok(taken.await?.then_some(children))
    }
}

/// A manifest that only an index named, which is gone.
fn is_orphan(index: &Index, repository: &Repository, digest: &Digest) -> Result<bool> {
    let Some(record) = index.manifest(repository, digest)? else {
        return Ok(false);
    };
    let named = index
        .holders(digest)?
        .iter()
        .any(|(r, m)| r == repository && m != digest);
    Ok(!record.by_digest && !named && index.tags_naming(repository, digest)?.is_empty())
}
