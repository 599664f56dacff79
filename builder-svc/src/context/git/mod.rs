//! Git repositories as contexts and as sources of ADD.
//!
//! `reference` and `query` what people write, `auth` who asks over http, `ssh` the way there over ssh, `protocol` the
//! conversation with a server, `pack` its answer, `tree` the files of a commit, `submodules` repositories inside of repositories, `kept` the `.git` of
//! it all, `known` what needs no pack; this file puts them together as a manifest.

mod auth;
mod kept;
mod known;
mod pack;
mod protocol;
mod query;
mod reference;
pub mod ssh;
mod submodules;
mod tree;

use std::{fmt, sync::Arc};

pub use reference::GitSource;

use super::{Fetcher, Manifest, fetch::redacted};
use crate::{
    caller::Caller,
    error::{Error, Result, Tried as _},
};
use kept::Keep;
use pack::Objects;
use protocol::Repository;
use tree::Tree;

/// An object's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 20]);

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 20];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some(Self(id))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The files of a repository at a reference, with those of its submodules, and the commit. With a checksum the
/// commit, or the tag of it, must be that one. As BuildKit keeps `.git`: not where a folder is wanted.
pub async fn manifest(
    (fetcher, caller): (&Fetcher, &Caller),
    source: &GitSource,
) -> Result<(Arc<Manifest>, String)> {
    let shown = source.shown();
    let fail = |why: String| Error::Context(format!("{shown}: {why}"));
    let mut repository = Repository::open((fetcher, caller), source).await?;
    let resolved = repository.resolve(&source.reference).await?;
    let id = resolved.commit;
    if let Some(wanted) = &source.checksum {
        let is_it = |id: &Id| id.to_string().starts_with(&wanted.to_ascii_lowercase());
        if wanted.len() < 7 || !(is_it(&id) || resolved.tag.as_ref().is_some_and(is_it)) {
            return Err(Error::Dockerfile(format!(
                "expected checksum to match {wanted}, got {id} ({shown})"
            )));
        }
    }
    let keep = source.keep_git_dir == Some(true) && source.subfolder.is_empty();
    let mut whole = Manifest::default();
    let mut top = files(&mut repository, resolved.tag.unwrap_or(id), source, keep).await?;
    let mut todo = match source.skip_submodules {
        false => submodules::of(&top.tree, source, None, keep).map_err(fail)?,
        true => Vec::new(),
    };
    if keep {
        let kept = Keep {
            references: resolved.references(&source.reference),
            remote: redacted(&source.remote),
            modules: submodules::settings(&todo),
            worktree: None,
        };
        let folder = top.git_dir(&mut repository, id, kept).await?;
        add(&mut whole, ".git", folder).map_err(fail)?;
    }
    add(&mut whole, "", top.tree.manifest).map_err(fail)?;
    let mut fetched = 0;
    while let Some(module) = todo.pop() {
        fetched += 1;
        if fetched > submodules::MOST {
            return Err(fail(format!(
                "it has more than {} submodules",
                submodules::MOST
            )));
        }
        let mut repository = Repository::open((fetcher, caller), &module.source).await?;
        let mut found = files(&mut repository, module.commit, &module.source, keep).await?;
        let more = submodules::of(&found.tree, &module.source, Some(&module), keep);
        let more = more.map_err(fail)?;
        if keep {
            let kept = Keep {
                remote: redacted(&module.source.remote),
                modules: submodules::settings(&more),
                worktree: Some(module.worktree()),
                ..Keep::default()
            };
            let folder = found.git_dir(&mut repository, module.commit, kept).await?;
            add(&mut whole, &module.git_dir, folder).map_err(fail)?;
            let link = module.link(fetcher.store()).await?;
            add(&mut whole, &module.path, link).map_err(fail)?;
        }
        todo.extend(more);
        add(&mut whole, &module.path, found.tree.manifest).map_err(fail)?;
    }
    match whole.is_empty() && !source.subfolder.is_empty() {
        true => Err(fail(format!(
            "the repository has no folder {}",
            source.subfolder
        ))),
        false => Ok((Arc::new(whole), id.to_string())),
    }
}

/// Adds a tree below a folder, or at the top.
fn add(whole: &mut Manifest, folder: &str, tree: Manifest) -> std::result::Result<(), String> {
    if folder.is_empty() && whole.is_empty() {
        *whole = tree;
        return Ok(());
    }
    for (path, entry) in tree.below("") {
        match folder {
            "" => whole.insert(path, entry.clone())?,
            folder => whole.insert(&format!("{folder}/{path}"), entry.clone())?,
        }
    }
    Ok(())
}

/// A commit whose files are here.
struct Found<'a> {
    id: Id,
    source: &'a GitSource,
    tree: Tree,
    /// Its objects; none where they are used up, or were not needed.
    objects: Option<Objects>,
}

/// The tree of a commit, or a folder of it: as it is known, or from a pack. `keep`: its objects will be wanted.
async fn files<'a>(
    repository: &mut Repository<'_>,
    id: Id,
    source: &'a GitSource,
    keep: bool,
) -> Result<Found<'a>> {
    match known_tree(repository, known::files(repository.base(), &id, source)).await {
        Some(tree) => Ok(Found {
            id,
            source,
            tree,
            objects: None,
        }),
        None => fetched(repository, id, source, keep).await,
    }
}

/// A tree that an earlier build kept.
async fn known_tree(repository: &Repository<'_>, name: String) -> Option<Tree> {
    let store = repository.store().clone();
    let finding = tokio::task::spawn_blocking(move || known::find(&store, &name));
    // Whatever keeps us from finding it: the server has it.
    finding.await.ok().flatten()
}

/// The tree of a commit, or a folder of it, from a pack.
async fn fetched<'a>(
    repository: &mut Repository<'_>,
    id: Id,
    source: &'a GitSource,
    keep: bool,
) -> Result<Found<'a>> {
    let file = repository.pack(&id).await?;
    let store = repository.store().clone();
    let name = known::files(repository.base(), &id, source);
    let folder = source.subfolder.clone();
    let shown = source.shown();
    let built = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        let objects = Objects::read(&store, file)?;
        let tree = tree::tree((&store, &objects), id, &folder, keep);
        if let Ok(tree) = &tree {
            known::keep(&store, &name, tree)?;
        }
        Ok((tree, objects))
    });
    let built = built
        .await
        .map_err(std::io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot read {shown}"))?;
    let (tree, objects) = built;
    match tree {
        Ok(tree) => Ok(Found {
            id,
            source,
            tree,
            objects: keep.then_some(objects),
        }),
        Err(why) => Err(Error::Context(format!("{shown}: {why}"))),
    }
}

impl Found<'_> {
    /// Its `.git`. What that takes of the tree is taken out of it.
    async fn git_dir(
        &mut self,
        repository: &mut Repository<'_>,
        commit: Id,
        keep: Keep,
    ) -> Result<Manifest> {
        let name = known::git_dir(repository.base(), &self.id, &keep);
        if let Some(known) = known_tree(repository, name.clone()).await {
            return Ok(known.manifest);
        }
        if self.objects.is_none() {
            *self = fetched(repository, self.id, self.source, true).await?;
        }
        let store = repository.store().clone();
        let checkout = std::mem::take(&mut self.tree.checkout);
        let objects = self.objects.take();
        let work = move || {
            let objects = objects.ok_or("its objects are used up")?;
            let manifest = kept::folder((&store, &objects), commit, checkout, &keep)?;
            let tree = Tree {
                manifest,
                ..Tree::default()
            };
            known::keep(&store, &name, &tree).map_err(|e| e.to_string())?;
            Ok(tree.manifest)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(format!("interrupted: {e}")))
            .map_err(|why| Error::Context(format!("{}: {why}", self.source.shown())))
    }
}
