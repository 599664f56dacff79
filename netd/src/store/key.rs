//! This host's private key on networks that are encrypted: made at the first need, and kept.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::error::{Doing as _, Error};
use crate::overlay::PrivateKey;

/// Its file, which nobody else reads.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    known: Mutex<Option<PrivateKey>>,
}

impl KeyFile {
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            known: Mutex::default(),
        }
    }

    /// The key; it survives power loss when this returns.
    pub fn key(&self) -> Result<PrivateKey, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*known {
            return Ok(key.clone());
        }
        let key = match fs::read_to_string(&self.path) {
            Ok(text) => PrivateKey::from_text(&text).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is not a key: put back what it was, or remove it for another key, which every list of hosts \
                     then needs",
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(),
            Err(error) => Err(error),
        };
        let key = key.doing(|| format!("read or make {}", self.path.display()))?;
        *known = Some(key.clone());
        Ok(key)
    }

    fn make(&self) -> io::Result<PrivateKey> {
        let key = PrivateKey::random();
        let new = self.path.with_extension("new");
        // Of one that was killed while it made one.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(key.to_text().as_bytes())?;
        file.sync_all()?;
        slipway_fault::point("netd.key.written");
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().ok_or(io::ErrorKind::NotFound)?;
        File::open(folder)?.sync_all()?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        let opened = || KeyFile::at(path.clone());
        // What was left of an attempt that was cut off is nothing.
        fs::write(path.with_extension("new"), "half").unwrap();
        let key = opened().key().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(opened().key().unwrap(), key);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_ne!(
            KeyFile::at(folder.path().join("other.key")).key().unwrap(),
            key
        );
    }

    #[test]
    fn one_that_is_damaged_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        fs::write(&path, "torn").unwrap();
        let said = KeyFile::at(path.clone()).key().unwrap_err().to_string();
        assert!(said.contains("wireguard.key: it is not a key"), "{said}");
        assert!(!said.contains("torn"));
        assert_eq!(fs::read_to_string(path).unwrap(), "torn");
    }
}
