//! Hashes of a context's files, kept between builds so that a file which did not change is not read again.
//!
//! A file is taken for unchanged when device, inode, size, mtime and ctime are the same. One that changed
//! a moment before it was read could change again within the same tick of the file system's clock: it is
//! not remembered (git has the same rule for its index, see git's racy-git.txt).

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use sha2::{Digest as _, Sha256};

/// First bytes of a file of ours.
const MAGIC: &[u8; 8] = b"swhash01";
/// What a record takes: six numbers and a hash.
const RECORD: usize = 6 * 8 + 32;
/// Nanoseconds within which a change may go unnoticed: coarser than the clock of any usual file system.
const RACY: i128 = 2_000_000_000;
/// Most contexts that are remembered.
const CONTEXTS: usize = 100;

/// What tells a file from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp([u64; 6]);

impl Stamp {
    pub fn of(meta: &fs::Metadata) -> Self {
        let time = |seconds: i64, nanoseconds: i64| {
            (seconds as u64)
                .wrapping_mul(1_000_000_000)
                .wrapping_add(nanoseconds as u64)
        };
        Self([
            meta.dev(),
            meta.ino(),
            meta.size(),
            time(meta.mtime(), meta.mtime_nsec()),
            time(meta.ctime(), meta.ctime_nsec()),
            u64::from(meta.mode()),
        ])
    }

    fn is_racy(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos()) as i128;
        let latest = (self.0[3] as i64).max(self.0[4] as i64);
        i128::from(latest) + RACY > now
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Hashes {
    file: Option<PathBuf>,
    known: HashMap<Stamp, [u8; 32]>,
    /// Those of this build.
    next: Vec<(Stamp, [u8; 32])>,
    changed: bool,
}

impl Hashes {
    /// Those of a folder. A cache that is not there or cannot be read is empty.
    pub fn of(root: &Path) -> Self {
        let Some(folder) = folder() else {
            return Self::default();
        };
        let name = hex::encode(&Sha256::digest(root.as_os_str().as_encoded_bytes())[..16]);
        let file = folder.join(name);
        let known = fs::read(&file)
            .map(|bytes| parse(&bytes))
            .unwrap_or_default();
        Self {
            file: Some(file),
            known,
            next: Vec::new(),
            changed: false,
        }
    }

    /// The hash of a file that did not change.
    pub fn find(&mut self, stamp: Stamp) -> Option<[u8; 32]> {
        let hash = *self.known.get(&stamp)?;
        self.next.push((stamp, hash));
        Some(hash)
    }

    /// A file was read. `now` is a time before that.
    pub fn put(&mut self, stamp: Stamp, hash: [u8; 32], now: SystemTime) {
        self.changed = true;
        if !stamp.is_racy(now) {
            self.next.push((stamp, hash));
        }
    }

    /// Keeps them for the next build. Without a place to keep them the next build reads everything again.
    pub fn save(self) {
        let Some(file) = self.file else { return };
        // As long as less than a fifth of it is of no use any more it is not worth a write.
        if !self.changed && self.next.len() * 5 >= self.known.len() * 4 {
            return;
        }
        // A cache that cannot be written costs the next build time, and nothing else.
        let _ = write(&file, &self.next);
    }
}

fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("slipway/contexts"))
}

fn parse(bytes: &[u8]) -> HashMap<Stamp, [u8; 32]> {
    // The last 32 bytes are the hash of what is in front of them: half of a file is none.
    let Some((content, sum)) = bytes.split_last_chunk::<32>() else {
        return HashMap::new();
    };
    if !content.starts_with(MAGIC) || Sha256::digest(content)[..] != sum[..] {
        return HashMap::new();
    }
    content[MAGIC.len()..]
        .chunks_exact(RECORD)
        .map(|record| {
            let mut numbers = [0; 6];
            for (number, bytes) in numbers.iter_mut().zip(record.chunks_exact(8)) {
                *number = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            }
            let mut hash = [0; 32];
            hash.copy_from_slice(&record[48..]);
            (Stamp(numbers), hash)
        })
        .collect()
}

fn write(file: &Path, records: &[(Stamp, [u8; 32])]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut content = Vec::with_capacity(MAGIC.len() + records.len() * RECORD + 32);
    content.extend_from_slice(MAGIC);
    for (stamp, hash) in records {
        for number in stamp.0 {
            content.extend_from_slice(&number.to_le_bytes());
        }
        content.extend_from_slice(hash);
    }
    let sum = Sha256::digest(&content);
    content.extend_from_slice(&sum);
    let temporary = file.with_extension(format!("new{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut out| out.write_all(&content))
        .and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        // It is of no use to anybody.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    forget_oldest(folder)
}

fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort_unstable();
    for (_, path) in files.iter().take(files.len().saturating_sub(CONTEXTS)) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_changed_or_may_change_unseen_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let cache = || Hashes {
            file: Some(folder.path().join("cache/hashes")),
            ..Hashes::default()
        };
        let later = SystemTime::now() + Duration::from_secs(10);
        for (now, kept) in [(SystemTime::now(), false), (later, true)] {
            let mut hashes = cache();
            hashes.put(stamp, [7; 32], now);
            hashes.save();
            let bytes = fs::read(folder.path().join("cache/hashes")).unwrap();
            assert_eq!(parse(&bytes).get(&stamp), kept.then_some(&[7; 32]));
            assert!(parse(&bytes[..bytes.len() - 1]).is_empty());
        }
        fs::write(&path, "two").unwrap();
        let other = Stamp::of(&fs::metadata(&path).unwrap());
        assert_ne!(stamp, other);
    }
}
