//! How a manifest goes, and what goes with it.

use std::{collections::HashMap, sync::Arc};

use slipway_image::{Digest, Manifest};

use super::names_in;
use crate::{
    error::Result,
    leases::Doomed,
    ledger::Change,
    names::{ImageName, Pointer, Repository, Tag},
    registry::{Registry, now},
    store::{Index, Waiting},
    work::to_its_end,
};

/// Says whether a manifest is to go.
type Judge = Box<dyn FnMut(&Index) -> Result<bool> + Send>;

/// On what terms a manifest goes.
enum Terms {
    /// Whatever names it.
    Always,
    /// If this one agrees.
    If(Judge),
    /// If this one agrees, and nobody has it in hand.
    IfUnused(Judge),
}

/// What became of a manifest whose names were taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// It is gone; bytes that became free.
    Gone(u64),
    /// It is there without the names.
    Unnamed,
    /// It is there as it was.
    Stays,
}

impl Registry {
    /// Removes a manifest from a repository with the tags that name it, what only an index of it held,
    /// and content that nothing names any more. Returns the bytes that became free.
    pub async fn remove_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64> {
        let removed = self.remove(repository, digest, Terms::Always).await?;
        Ok(removed.unwrap_or(0))
    }

    /// The same as a user of images means it: only the names that he saw go, and the manifest stays as long as an
    /// index of the repository names it or somebody has tagged it since.
    pub(crate) async fn remove_named(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        seen: Vec<Tag>,
    ) -> Result<Named> {
        let (repo, named, tags) = (repository.clone(), digest.clone(), seen.clone());
        let judge = move |index: &Index| {
            let now = index.tags_naming(&repo, &named)?;
            Ok(now.iter().all(|tag| tags.contains(tag)) && !is_held(index, &repo, &named)?)
        };
        let terms = Terms::If(Box::new(judge));
        if let Some(freed) = self.remove(repository, digest, terms).await? {
            return Ok(Named::Gone(freed));
        }
        let name = ImageName {
            repository: repository.clone(),
            pointer: Pointer::Digest(digest.clone()),
        };
        let stored = self.stored(&name).await?;
        let (repo, named) = (repository.clone(), digest.clone());
        let unname = move |index: &Index| {
            let mut changes = Vec::new();
            for tag in index.tags_naming(&repo, &named)? {
                if seen.contains(&tag) {
                    let repository = repo.clone();
                    changes.push(Change::RemoveTag { repository, tag });
                }
            }
            // Nobody wants it by its digest any more.
            if let (Some(stored), Some(mut record)) = (&stored, index.manifest(&repo, &named)?)
                && record.by_digest
            {
                record.by_digest = false;
                let parsed = stored.parse()?;
                changes.push(Change::SetManifest {
                    repository: repo.clone(),
                    digest: named.clone(),
                    names: names_in(&named, &record, &parsed),
                    record,
                });
            }
            let kept = match changes.is_empty() {
                true => Named::Stays,
                false => Named::Unnamed,
            };
            Ok((changes, kept))
        };
        self.change(repository, unname).await
    }

    /// The same, if nobody has it in hand and `judge` agrees, who looks while nobody changes the repository.
    /// `None`: it stays.
    pub(crate) async fn remove_manifest_if(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        judge: impl FnMut(&Index) -> Result<bool> + Send + 'static,
    ) -> Result<Option<u64>> {
        let terms = Terms::IfUnused(Box::new(judge));
        self.remove(repository, digest, terms).await
    }

    async fn remove(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        terms: Terms,
    ) -> Result<Option<u64>> {
        let (registry, repository) = (Arc::clone(self), repository.clone());
        let top = digest.clone();
        to_its_end(async move {
            let taken = registry.take_out(&repository, &top, terms).await?;
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
                    let terms = Terms::IfUnused(judge);
                    let taken = registry.take_out(&repository, &digest, terms).await?;
                    released.extend(taken.unwrap_or_default());
                }
            }
            let mut released: Vec<_> = released.into_iter().map(|(digest, _)| digest).collect();
            released.push(top);
            registry.release(released).await.map(Some)
        })
        .await
    }

    /// Takes a manifest out of a repository. Returns what it named, and whether as an index; `None`: it stays.
    async fn take_out(
        &self,
        repository: &Repository,
        digest: &Digest,
        terms: Terms,
    ) -> Result<Option<Vec<(Digest, bool)>>> {
        if !matches!(terms, Terms::IfUnused(_)) {
            // Whoever was told of it is told by this that it is gone.
            self.leases.end_grace(digest, repository);
        }
        // Whoever is to name it waits, and finds that it is gone.
        let doomed = self.leases.doom(digest);
        let mut judge = match terms {
            Terms::IfUnused(_) if doomed.is_none() => return Ok(None),
            Terms::IfUnused(judge) | Terms::If(judge) => Some(judge),
            Terms::Always => None,
        };
        let name = ImageName {
            repository: repository.clone(),
            pointer: Pointer::Digest(digest.clone()),
        };
        let (parsed, names) = match self.stored(&name).await? {
            Some(stored) => {
                let parsed = stored.parse().ok();
                let names = parsed
                    .as_ref()
                    .map(|parsed| names_in(digest, &stored.record, parsed));
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
        // What nobody has in hand is not to be read through the repository afterwards, unless something else of it
        // names it.
        let named = names.iter().flat_map(|names| &names.references);
        let free = named.filter_map(|d| Some((d.clone(), leases.doom(d)?)));
        let free: HashMap<Digest, Doomed> = free.collect();
        let since = now().saturating_sub(leases.period().as_millis() as u64);
        let unlinked = (doomed.is_some()).then(|| gone.clone()).into_iter();
        let unlinked: Vec<Digest> = unlinked.chain(free.keys().cloned()).collect();
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
            for digest in &unlinked {
                let held = index.holders(digest)?;
                let held = held.iter().any(|(r, m)| *r == repo && *m != gone);
                if !held && (*digest == gone || !index.is_promised(digest, since)?) {
                    let (repository, digest) = (repo.clone(), digest.clone());
                    changes.push(Change::Unlink { repository, digest });
                }
            }
            Ok((changes, true))
        });
        let taken = taken.await?;
        drop(free);
        Ok(taken.then_some(children))
    }
}

/// A manifest that only an index named, which is gone.
fn is_orphan(index: &Index, repository: &Repository, digest: &Digest) -> Result<bool> {
    let Some(record) = index.manifest(repository, digest)? else {
        return Ok(false);
    };
    Ok(!record.by_digest
        && !is_held(index, repository, digest)?
        && index.tags_naming(repository, digest)?.is_empty())
}

/// An index of the repository names it.
fn is_held(index: &Index, repository: &Repository, digest: &Digest) -> Result<bool> {
    let holders = index.holders(digest)?;
    Ok(holders.iter().any(|(r, m)| r == repository && m != digest))
}
