//! Which repositories are this site's own: no upstream is told their names, not even after the last manifest of one
//! is gone.
//!
//! A repository is our own from the first manifest that was put here while nothing of it came from upstream, and stays
//! so when the repository goes. It ends when somebody pulls that name by hand and the upstream has it: who tagged
//! `nginx:dev` here before anything else may still pull `nginx`.
//!
//! The ledger says so, together with the manifest: in files of their own (`ours/<name>/_own`, empty), or in the journal,
//! where all who share it see it at once.

use std::{fs, io, path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Result},
    files,
    ledger::Change,
    names::Repository,
    store::{Index, Origin},
};

/// Name of the file. No component of a name begins with `_`.
const FILE: &str = "_own";

/// See the module's page.
pub enum Ours {
    /// In files.
    Files(OwnFiles),
    /// In the index, which the journal made.
    Index(Arc<Index>),
}

impl Ours {
    /// Whether a repository is our own.
    pub fn has(&self, repository: &Repository) -> bool {
        match self {
            Self::Files(files) => files.has(repository),
            // What cannot be looked up is: a name of ours must not get out.
            Self::Index(index) => index.is_own(repository).unwrap_or(true),
        }
    }

    /// What is to be said of a repository that is about to get a manifest from there.
    pub fn change(
        &self,
        index: &Index,
        repository: &Repository,
        origin: Origin,
    ) -> Result<Option<Change>> {
        if repository.is_internal() {
            return Ok(None);
        }
        let named = || repository.clone();
        Ok(match (origin, self.has(repository)) {
            (Origin::Upstream, true) => Some(Change::NotOwn {
                repository: named(),
            }),
            (Origin::Local, false) if !index.has_from_upstream(repository)? => Some(Change::Own {
                repository: named(),
            }),
            _ => None,
        })
    }
}

/// The files that say so.
#[derive(Debug, Clone)]
pub struct OwnFiles {
    root: PathBuf,
}

impl OwnFiles {
    /// Files below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, repository: &Repository) -> PathBuf {
        self.root.join(repository.as_str()).join(FILE)
    }

    fn has(&self, repository: &Repository) -> bool {
        // As above.
        !matches!(
            fs::symlink_metadata(self.path(repository)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        )
    }

    /// It is ours from now on, also after a power cut.
    pub fn add(&self, repository: &Repository) -> Result<()> {
        let path = self.path(repository);
        if self.has(repository) {
            return Ok(());
        }
        files::write_durably(&path, b"").map_err(Error::io("cannot write", &path))
    }

    /// It is not only ours any more.
    pub fn remove(&self, repository: &Repository) -> Result<()> {
        let path = self.path(repository);
        if self.has(repository) {
            files::remove_durably(&path).map_err(Error::io("cannot remove", &path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_looked_up_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let ours = OwnFiles::new(dir.path().to_owned());
        let repository = |name| Repository::new("docker.io", name).unwrap();
        ours.add(&repository("team/app")).unwrap();
        for (name, is) in [
            ("team/app", true),
            ("team/app/below", false),
            ("other", false),
        ] {
            assert_eq!(ours.has(&repository(name)), is, "{name}");
        }
        // A folder that leads nowhere (ELOOP), and a file in a folder's place, where nothing can be below.
        let below = dir.path().join("docker.io");
        std::os::unix::fs::symlink("loop", below.join("loop")).unwrap();
        fs::write(below.join("file"), "").unwrap();
        assert!(ours.has(&repository("loop/app")));
        assert!(!ours.has(&repository("file/app")));
    }
}
