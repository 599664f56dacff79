//! A folder of records, a small file of JSON each: one that is damaged is one record less, and no more.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Doing, Error};

/// What the name of a record that cannot be read goes on with.
const DAMAGED: &str = ".damaged";

/// Where a file or folder may be that was put aside: in a row, for nothing takes the place of another.
fn places(path: &Path) -> impl Iterator<Item = PathBuf> {
    let place = |number: u32| {
        let mut aside = path.as_os_str().to_owned();
        aside.push(DAMAGED);
        if number > 1 {
            aside.push(format!(".{number}"));
        }
        PathBuf::from(aside)
    };
    (1..).map(place)
}

/// Puts aside what cannot be read. Returns where it is now.
pub(super) fn put_aside(path: &Path) -> Result<PathBuf, Error> {
    let free = places(path).find(|place| !place.exists());
    let aside = free.unwrap_or_else(|| path.with_extension("damaged"));
    fs::rename(path, &aside).doing(|| format!("put {} aside", path.display()))?;
    Ok(aside)
}

/// What was put aside of a file or folder.
pub(super) fn aside_of(path: &Path) -> Vec<PathBuf> {
    places(path).take_while(|place| place.exists()).collect()
}

/// The folder.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
    /// They survive power loss when they are written; else `kill -9`.
    durable: bool,
}

impl Records {
    pub fn open(folder: PathBuf, durable: bool) -> Result<Self, Error> {
        fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        let records = Self { folder, durable };
        records
            .sync()
            .doing(|| format!("write {}", records.folder.display()))?;
        Ok(records)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// All that can be read. What cannot is put aside and told; what was being written when we ended goes.
    pub fn all<T: DeserializeOwned>(&self, id: impl Fn(&T) -> &str) -> Result<Vec<T>, Error> {
        let folder = || format!("read {}", self.folder.display());
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).doing(folder)? {
            let path = entry.doing(folder)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                Some("new") => {
                    fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
                    continue;
                }
                _ => continue,
            }
            let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
            let why = match serde_json::from_slice::<T>(&bytes) {
                Ok(record) if path == self.path(id(&record)) => {
                    all.push(record);
                    continue;
                }
                Ok(_) => "it has another's id".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::error!(path = %path.display(), why, "a record cannot be read: it is put aside");
            put_aside(&path)?;
        }
        Ok(all)
    }

    /// Those that were put aside.
    pub fn damaged(&self) -> Vec<PathBuf> {
        // A folder that cannot be read is told by whoever needs what is in it.
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let is_aside = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().contains(DAMAGED)
        };
        let mut damaged: Vec<_> = entries.map(|entry| entry.path()).filter(is_aside).collect();
        damaged.sort();
        damaged
    }

    pub fn put(&self, id: &str, record: &impl Serialize) -> Result<(), Error> {
        self.put_bytes(id, &super::encode(record, id)?)
    }

    pub fn put_bytes(&self, id: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(id);
        self.replace(&path, bytes)
            .doing(|| format!("write {}", path.display()))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        if self.durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        self.sync()
    }

    /// Forgets a record; that there is none is fine.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.sync(),
        }
    }

    /// Which names there are is on the disk, too.
    fn sync(&self) -> io::Result<()> {
        match self.durable {
            true => File::open(&self.folder)?.sync_all(),
            false => Ok(()),
        }
    }
}
