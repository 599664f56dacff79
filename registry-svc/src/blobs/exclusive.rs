//! A file that one at a time writes.
//!
//! Work on files goes on when whoever began it is gone: a call that is cut off leaves a write, a sync or a rename
//! behind that is still to happen. So the next one who wants the file waits until the last of that has ended, and
//! everything that is done to it by its name is done by whoever has it.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::staging::blocking;
use crate::error::{Error, Result};

/// A file that is locked (flock(2)) as long as this lives.
pub struct Exclusive {
    file: File,
    path: PathBuf,
}

impl Exclusive {
    /// Opens a file to read and to append, made if need be, when nobody else has it any more.
    pub async fn open(path: PathBuf) -> Result<Self> {
        let mut pause = Duration::from_millis(1);
        loop {
            let wanted = path.clone();
            let opened = blocking(move || Self::try_open(wanted));
            if let Some(file) = opened.await? {
                return Ok(file);
            }
            // The lock tells nobody that it is free, and a thread that waited in it might be the one that the work
            // of whoever has it is waiting for.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// None: somebody has it.
    fn try_open(mut path: PathBuf) -> Result<Option<Self>> {
        loop {
            let file = File::options()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)
                .map_err(Error::io("cannot open", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(Error::io("cannot lock", path)(e)),
            }
            let opened = Self { file, path };
            // Whoever had it may have renamed or removed it since it was opened.
            if opened.has_its_name() {
                return Ok(Some(opened));
            }
            path = opened.path;
        }
    }

    /// Removes a file, unless somebody has it.
    pub fn remove_unused(path: &Path) -> io::Result<()> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        let path = path.to_owned();
        Self { file, path }.remove()
    }

    /// The file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it has its name still: another file may have that since this one was renamed or removed.
    pub fn remove(&self) -> io::Result<()> {
        match self.has_its_name() {
            true => fs::remove_file(&self.path),
            false => Ok(()),
        }
    }

    /// Only who has a file takes its name away, so it stays so until then.
    fn has_its_name(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(own), Ok(named)) => (own.dev(), own.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than a file that nobody has takes to open.
    const MOMENT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn who_wants_a_file_gets_what_has_its_name_when_it_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        let first = Exclusive::open(path.clone()).await.unwrap();
        fs::write(&path, "first").unwrap();
        let mut second = tokio::spawn(Exclusive::open(path.clone()));
        assert!(tokio::time::timeout(MOMENT, &mut second).await.is_err());
        Exclusive::remove_unused(&path).unwrap();
        fs::rename(&path, &other).unwrap();
        drop(first);
        let second = second.await.unwrap().unwrap();
        assert_eq!(second.file().metadata().unwrap().len(), 0);
        assert_eq!(fs::read(&other).unwrap(), b"first");
        // What has another name, or none, is nobody's to remove.
        fs::rename(&path, &other).unwrap();
        fs::write(&path, "third").unwrap();
        second.remove().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        Exclusive::remove_unused(&path).unwrap();
        Exclusive::remove_unused(&path).unwrap();
        assert!(!path.exists() && other.exists());
    }
}
