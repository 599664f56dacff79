//! Durable files: what was acknowledged is found again after a power cut.
//!
//! A file is written under a temporary name in the same folder, synced, renamed, and its folder is
//! synced: a rename is durable only when the folder that holds the name is (fsync(2)).

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Prefix of temporary names; never valid in a tag, a repository or a digest.
pub const TEMPORARY: &str = ".tmp-";

/// Writes a small file so that it is there whole or not at all, and stays.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(path, content)?;
    let result = fs::rename(&temporary, path)
        .and_then(|()| sync_folder(path.parent().expect("files have a folder")));
    if result.is_err() {
        // The first error is the one to report; a left-over is removed by fsck.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Writes what is to become `path` beside it, under a name that means nothing.
pub fn write_temporary(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let folder = path.parent().expect("files have a folder");
    let temporary = folder.join(format!("{TEMPORARY}{}", random_name()));
    let written = create_in(folder, &temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_data()
    });
    if let Err(error) = written {
        // As above.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

fn create_in(folder: &Path, path: &Path) -> io::Result<File> {
    for _ in 0..8 {
        create_folders(folder)?;
        match File::create_new(path) {
            // An empty folder may be pruned between the two steps.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    File::create_new(path)
}

/// Removes a file; false when it was not there.
pub fn remove_durably(path: &Path) -> io::Result<bool> {
    let removed = remove(path)?;
    if removed {
        sync_folder(path.parent().expect("files have a folder"))?;
    }
    Ok(removed)
}

/// The same, but its folder is still to be synced.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes a folder and its parents, each of them durable.
pub fn create_folders(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(folder.parent().unwrap_or(folder)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_folders(folder.parent().ok_or(e)?)?;
            create_folders(folder)
        }
        Err(e) => Err(e),
    }
}

/// Syncs a folder: the names in it are durable afterwards.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Locks a file of this name, made if need be, as long as what is returned is open; `None`: somebody else has it.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    create_folders(path.parent().expect("files have a folder"))?;
    let file = File::options().append(true).create(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes empty folders upwards from `from`, but never `until` itself.
pub fn prune_empty_folders(from: &Path, until: &Path) {
    let mut folder = from;
    while folder != until && folder.starts_with(until) {
        // Not empty, or somebody else was quicker: both mean that there is nothing more to do.
        if fs::remove_dir(folder).is_err() {
            return;
        }
        let Some(parent) = folder.parent() else {
            return;
        };
        folder = parent;
    }
}

/// 128 random bits in hex.
pub fn random_name() -> String {
    hex::encode(random())
}

/// A UUID of version 4 (RFC 9562, 5.4).
pub fn random_uuid() -> String {
    let mut bytes = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    let groups = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    groups.join("-")
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // getrandom(2) cannot fail on the kernels that we run on once the system is up.
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        write_durably(&path, b"one").unwrap();
        write_durably(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(remove_durably(&path).unwrap());
        assert!(!remove_durably(&path).unwrap());
        prune_empty_folders(path.parent().unwrap(), dir.path());
        assert!(!dir.path().join("a").exists());
    }
}
