//! Blobs that may be read through a repository for another reason than that a manifest which was put there names them:
//! an empty file each (`repositories/<name>/<folder>/<algorithm>/<hex>`).
//!
//! - `_blobs`: they were pushed, and no manifest names them yet. So a client that was told "it is here" may go on with
//!   its manifest whatever becomes of this service meanwhile.
//! - `_mirrored`: the repository's upstream has them. That its manifests name them says nothing ([`crate::mirror`]).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use slipway_image::Digest;

use crate::{
    error::{Error, Result},
    files,
    names::Repository,
    store::Index,
};

/// Name of the folder of a repository's links to blobs. No component of a name begins with `_`.
pub const FOLDER: &str = "_blobs";

/// The same for what its upstream has.
pub const MIRRORED: &str = "_mirrored";

/// See the module's page.
pub struct Links {
    root: PathBuf,
    index: Arc<Index>,
}

impl Links {
    /// Links below `root`, the folder of all repositories.
    pub fn new(root: PathBuf, index: Arc<Index>) -> Self {
        Self { root, index }
    }

    /// Lets a blob be read through a repository. Nothing is synced: whoever makes the blob itself durable
    /// afterwards makes this so too, since file systems with a journal keep the order of what is done to names
    /// (elsewhere a power cut may take the link, and the client sends the blob again).
    pub fn add(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        // Also when a manifest of the repository names it: that one may be deleted before the next comes.
        self.wait(repository, digest)?;
        self.index.link(repository, digest)
    }

    /// The blob waits for a manifest of the repository from now on.
    pub fn wait(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.make(&self.path(FOLDER, repository, digest))?;
        self.index.set_waiting(repository, digest)
    }

    /// The same for a blob that is here already: it waits for the disk.
    pub fn add_durably(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.add(repository, digest)?;
        let path = self.path(FOLDER, repository, digest);
        let folder = path.parent().expect("links have a folder");
        match files::sync_folder(folder) {
            // A manifest of the repository names it by now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(Error::io("cannot write", folder)),
        }
    }

    /// The repository's upstream has it. Nothing is synced but at the end of a pull: if a power cut takes it, the
    /// upstream is asked again.
    pub fn add_mirrored(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.make(&self.path(MIRRORED, repository, digest))?;
        self.index.link(repository, digest)
    }

    fn make(&self, path: &Path) -> Result<()> {
        let folder = path.parent().expect("links have a folder");
        let create = || {
            files::create_folders(folder)?;
            fs::File::create(path)
        };
        // An empty folder may be pruned between the two steps.
        (0..8)
            .map(|_| create())
            .find(|made| !matches!(made, Err(e) if e.kind() == io::ErrorKind::NotFound))
            .unwrap_or_else(create)
            .map_err(Error::io("cannot write", path))?;
        Ok(())
    }

    /// A manifest of the repository names the blob now: its own link says all.
    pub fn named(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.index.clear_waiting(repository, digest)?;
        self.take_away(&self.path(FOLDER, repository, digest))
    }

    fn take_away(&self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(Error::io("cannot remove", path))?,
        }
        files::prune_empty_folders(path.parent().expect("links have a folder"), &self.root);
        Ok(())
    }

    /// Takes a blob out of a repository.
    pub fn remove(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.named(repository, digest)?;
        self.take_away(&self.path(MIRRORED, repository, digest))?;
        self.index.unlink(repository, digest)?;
        Ok(())
    }

    /// Takes a blob that is gone out of all repositories.
    pub fn remove_all(&self, digest: &Digest) -> Result<()> {
        for repository in self.index.linked_in(digest) {
            self.remove(&repository?, digest)?;
        }
        Ok(())
    }

    fn path(&self, folder: &str, repository: &Repository, digest: &Digest) -> PathBuf {
        self.root
            .join(repository.as_str())
            .join(folder)
            .join(digest.algorithm().as_str())
            .join(digest.encoded())
    }
}
