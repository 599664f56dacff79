//! The ledger as small durable files, with the index in front: `repositories/<name>/_tags/<tag>`,
//! `repositories/<name>/_manifests/<algorithm>/<hex>`, and [`Links`].

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use slipway_image::Digest;

use super::{Change, Decide, Ledger, Scope, Seal};
use crate::{
    blobs::staging::blocking,
    error::{Error, Result},
    files, fsck,
    links::Links,
    manifests,
    mirror::OwnFiles,
    names::{Repository, Tag},
    store::{Index, Origin, Waiting},
    tags,
};

/// Locks that order the writers of one repository; several repositories may share one.
const STRIPES: usize = 32;

/// See the module's page.
#[derive(Clone)]
pub struct FileLedger(Arc<Inner>);

struct Inner {
    /// The folder of all repositories.
    root: PathBuf,
    index: Arc<Index>,
    links: Links,
    own: OwnFiles,
    locks: [Mutex<()>; STRIPES],
    /// Whether something says that the index has everything. Whoever changes something reads it until he is done.
    sealed: RwLock<bool>,
}

impl FileLedger {
    /// Files below `root`, the folder of all repositories. `own` is for the names of the site's own.
    pub fn new(root: PathBuf, own: OwnFiles, index: Arc<Index>) -> Self {
        let links = Links::new(root.clone(), Arc::clone(&index));
        Self(Arc::new(Inner {
            root,
            own,
            links,
            index,
            locks: std::array::from_fn(|_| Mutex::default()),
            sealed: RwLock::default(),
        }))
    }
}

impl Ledger for FileLedger {
    fn files(&self) -> Option<&Path> {
        Some(&self.0.root)
    }

    fn commit(&self, scope: Scope, mut decide: Decide) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let _open = inner.open()?;
            let lock = &inner.locks[stripe_of(&scope)];
            let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
            let changes = decide(&inner.index)?;
            // Tags that go together are in one folder, which is synced once.
            let mut runs = changes.chunk_by(|one, next| match (one, next) {
                (
                    Change::RemoveTag { repository, .. },
                    Change::RemoveTag {
                        repository: same, ..
                    },
                ) => repository == same,
                _ => false,
            });
            runs.try_for_each(|run| match run {
                [Change::RemoveTag { repository, .. }, ..] => inner.remove_tags(repository, run),
                _ => run.iter().try_for_each(|change| inner.make(change)),
            })
        })
        .boxed()
    }

    fn announce<'a>(
        &'a self,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<()>> {
        let inner = Arc::clone(&self.0);
        let (repository, digest) = (repository.clone(), digest.clone());
        blocking(move || {
            let _open = inner.open()?;
            inner.links.add(&repository, &digest)
        })
        .boxed()
    }

    fn close(&self, seal: Seal) -> BoxFuture<'_, Result<()>> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let mut sealed = inner.sealed.write().unwrap_or_else(PoisonError::into_inner);
            seal()?;
            *sealed = true;
            Ok(())
        })
        .boxed()
    }
}

impl Inner {
    /// To be kept while something is changed.
    fn open(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let sealed = self.sealed.read().unwrap_or_else(PoisonError::into_inner);
        if *sealed {
            // A request that outlasts the service's end: the next start makes the index anew.
            fsck::mark_dirty(self.root.parent().expect("it is in the service's folder"))?;
        }
        Ok(sealed)
    }

    fn make(&self, change: &Change) -> Result<()> {
        match change {
            Change::SetManifest {
                repository,
                digest,
                record,
                names,
            } => {
                let path = self.link(repository, digest);
                let link = serde_json::to_vec(record).expect("records are plain data");
                slipway_fault::fallible("registry.manifest.link")
                    .and_then(|()| files::write_durably(&path, &link))
                    .map_err(Error::io("cannot write", &path))?;
                slipway_fault::point("registry.manifest.linked");
                self.index.set_manifest(repository, digest, record, names)?;
                for child in names.references.iter().filter(|child| record.shows(child)) {
                    self.links.named(repository, child)?;
                }
                slipway_fault::point("registry.manifest.named");
                Ok(())
            }
            Change::RemoveManifest {
                repository,
                digest,
                names,
            } => {
                let removed = || slipway_fault::point("registry.delete.unlinked");
                self.remove(&self.link(repository, digest), removed)?;
                self.index
                    .remove_manifest(repository, digest, names.as_ref())
            }
            Change::SetTag {
                repository,
                tag,
                record,
            } => {
                let path = self.tag(repository, tag);
                let content = serde_json::to_vec(record).expect("records are plain data");
                slipway_fault::fallible("registry.tag.write")
                    .and_then(|()| files::write_durably(&path, &content))
                    .map_err(Error::io("cannot write", &path))?;
                slipway_fault::point("registry.tag.written");
                self.index.set_tag(repository, tag, record)
            }
            Change::RemoveTag { repository, .. } => {
                self.remove_tags(repository, std::slice::from_ref(change))
            }
            Change::Link {
                repository,
                digest,
                origin: Origin::Local,
            } => self.links.add_durably(repository, digest),
            Change::Link {
                repository,
                digest,
                origin: Origin::Upstream,
            } => self.links.add_mirrored(repository, digest),
            Change::Unlink { repository, digest } => self.links.remove(repository, digest),
            Change::Wait {
                digest,
                who: Waiting::Repository(repository),
                ..
            } => self.links.wait(repository, digest),
            Change::Held { repository, digest } => self.links.named(repository, digest),
            Change::Gone { digest } => self.links.remove_all(digest),
            Change::Own { repository } => self.own.add(repository),
            Change::NotOwn { repository } => self.own.remove(repository),
            // The folder of blobs and the leases in memory say as much when nobody else is there.
            Change::Stored { .. }
            | Change::Broken { .. }
            | Change::Wait { .. }
            | Change::Checkpoint { .. } => Ok(()),
        }
    }

    /// Removes tags of one repository.
    fn remove_tags(&self, repository: &Repository, changes: &[Change]) -> Result<()> {
        let mut folder = None;
        for change in changes {
            let Change::RemoveTag { tag, .. } = change else {
                continue;
            };
            let path = self.tag(repository, tag);
            if files::remove(&path).map_err(Error::io("cannot remove", &path))? {
                folder = path.parent().map(Path::to_owned);
            }
            slipway_fault::point("registry.untag.removed");
            self.index.remove_tag(repository, tag)?;
        }
        if let Some(folder) = folder {
            files::sync_folder(&folder).map_err(Error::io("cannot sync", &folder))?;
            files::prune_empty_folders(&folder, &self.root);
        }
        Ok(())
    }

    fn remove(&self, path: &Path, removed: impl FnOnce()) -> Result<()> {
        files::remove_durably(path).map_err(Error::io("cannot remove", path))?;
        removed();
        files::prune_empty_folders(path.parent().expect("files have a folder"), &self.root);
        Ok(())
    }

    fn link(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.root
            .join(repository.as_str())
            .join(manifests::FOLDER)
            .join(digest.algorithm().as_str())
            .join(digest.encoded())
    }

    fn tag(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.root
            .join(repository.as_str())
            .join(tags::FOLDER)
            .join(tag.as_str())
    }
}

fn stripe_of(scope: &Scope) -> usize {
    let mut hasher = DefaultHasher::new();
    match scope {
        Scope::Repository(repository) => repository.hash(&mut hasher),
        Scope::Blob(digest) => digest.hash(&mut hasher),
        Scope::Nothing => {}
    }
    (hasher.finish() % STRIPES as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::store::{Origin, TagRecord};

    fn set(tag: &str) -> Vec<Change> {
        let record = TagRecord {
            digest: Digest::of("manifest"),
            origin: Origin::Local,
            tagged: 1,
        };
        vec![Change::SetTag {
            repository: Repository::new("docker.io", "team/app").unwrap(),
            tag: Tag::parse(tag).unwrap(),
            record,
        }]
    }

    #[tokio::test]
    async fn what_is_being_changed_at_the_end_is_waited_for_and_what_comes_later_takes_the_seal_back()
     {
        let folder = tempfile::tempdir().unwrap();
        let repositories = folder.path().join("repositories");
        files::create_folders(&repositories).unwrap();
        let index = Arc::new(Index::open(&folder.path().join("index")).unwrap());
        let own = OwnFiles::new(folder.path().join("ours"));
        let ledger = FileLedger::new(repositories, own, Arc::clone(&index));
        let repository = Repository::new("docker.io", "team/app").unwrap();
        let scope = Scope::Repository(repository.clone());
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let mut begun = Some(begun);
        let slow: Decide = Box::new(move |_| {
            let _ = begun.take().map(|begun| begun.send(()));
            wait.recv().unwrap();
            Ok(set("slow"))
        });
        let changing = tokio::spawn({
            let (ledger, scope) = (ledger.clone(), scope.clone());
            async move { ledger.commit(scope, slow).await }
        });
        has_begun.await.unwrap();
        let root = folder.path().to_owned();
        let (seal, at_the_end) = (root.clone(), Arc::clone(&index));
        let mut closing = tokio::spawn({
            let ledger = ledger.clone();
            let seal: Seal = Box::new(move || fsck::mark_clean(&at_the_end, &seal));
            async move { ledger.close(seal).await }
        });
        // Longer than it takes when nothing is being changed.
        let early = tokio::time::timeout(Duration::from_millis(300), &mut closing);
        assert!(early.await.is_err());
        let mark = root.join("index.clean");
        assert!(!mark.exists());
        go_on.send(()).unwrap();
        changing.await.unwrap().unwrap();
        closing.await.unwrap().unwrap();
        assert!(mark.exists());
        let known = |tag| index.tag(&repository, &Tag::parse(tag).unwrap()).unwrap();
        assert!(known("slow").is_some());
        let late: Decide = Box::new(|_| Ok(set("late")));
        ledger.commit(scope, late).await.unwrap();
        assert!(!mark.exists());
        let seal: Seal = Box::new(move || fsck::mark_clean(&index, &root));
        ledger.close(seal).await.unwrap();
        assert!(mark.exists());
        ledger
            .announce(&repository, &Digest::of("blob"))
            .await
            .unwrap();
        assert!(!mark.exists());
    }
}
