//! Files that are there whole or not at all, and nobody else's.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::cannot;
use crate::failure::{Failure, Outcome};

/// Puts a file there, or in another one's place, once it is on the disk.
pub fn put(path: &Path, text: &str) -> Outcome<()> {
    let part = path.with_extension(format!("part.{}", std::process::id()));
    let written = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    written().map_err(|error| {
        // What is left of it nobody reads.
        let _ = fs::remove_file(&part);
        cannot("write", path)(error)
    })?;
    sync(path.parent().unwrap_or(Path::new(".")))
}

/// Waits until the names in a folder are on the disk.
pub fn sync(folder: &Path) -> Outcome<()> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(cannot("write", folder))
}

pub fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(cannot("read", path))
}

pub fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Outcome<T> {
    serde_json::from_str(&read(path)?)
        .map_err(|e| Failure::new(format!("{} is damaged: {e}", path.display())))
}
