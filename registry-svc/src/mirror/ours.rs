//! Which repositories are this site's own: no upstream is told their names, not even after the last manifest of one
//! is gone.
//!
//! A repository is our own from the first manifest that was put here while nothing of it came from upstream; an empty
//! file (`ours/<name>/_own`) says so, which stays when the repository goes. It ends when somebody pulls that name by hand and the upstream has it: who
//! tagged `nginx:dev` here before anything else may still pull `nginx`.

use std::{fs, io, path::PathBuf, sync::Arc};

use crate::{
    blobs::staging::blocking,
    error::{Error, Result},
    files,
    names::Repository,
    registry::Registry,
    store::Origin,
};

/// Name of the file. No component of a name begins with `_`.
const FILE: &str = "_own";

/// See the module's page.
pub struct Ours {
    root: PathBuf,
}

impl Ours {
    /// Files below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, repository: &Repository) -> PathBuf {
        self.root.join(repository.as_str()).join(FILE)
    }

    /// Whether a repository is our own.
    pub fn has(&self, repository: &Repository) -> bool {
        // What cannot be looked up is: a name of ours must not get out.
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

impl Registry {
    /// Takes note of where a manifest comes from that a repository is about to get.
    pub(crate) async fn claim(&self, repository: &Repository, origin: Origin) -> Result<()> {
        if repository.is_internal() {
            return Ok(());
        }
        let (ours, index) = (Arc::clone(&self.ours), Arc::clone(&self.index));
        let repository = repository.clone();
        blocking(move || match (origin, ours.has(&repository)) {
            (Origin::Upstream, true) => ours.remove(&repository),
            (Origin::Local, false) if !index.has_from_upstream(&repository)? => {
                ours.add(&repository)
            }
            _ => Ok(()),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_looked_up_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Ours::new(dir.path().to_owned());
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
