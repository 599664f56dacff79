//! Room for what comes from upstreams: the largest blob, what broken transfers leave, and what stays free for others.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use slipway_image::Digest;
use slipway_service::disk::{self, Room};

use crate::{
    blobs::{Exclusive, staging::blocking},
    error::{Error, Result},
    names::Repository,
};

/// How long the beginning of a blob is kept for somebody to ask for the rest.
const EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Beginnings that are kept, at most: each costs an inode, however short it is.
const MOST: usize = 1000;

/// `[mirror]`: what upstreams may take of the disk, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorLimits {
    /// The largest blob.
    pub max_blob: u64,
    /// All beginnings of blobs together whose transfer broke off.
    pub partial: u64,
    /// What stays free on their file system. None: 1 GB, and no more than a twentieth of it.
    pub min_free: Option<u64>,
}

impl Default for MirrorLimits {
    fn default() -> Self {
        Self {
            max_blob: 100_000_000_000,
            partial: 20_000_000_000,
            min_free: None,
        }
    }
}

impl MirrorLimits {
    /// Refuses a blob of that size.
    pub fn check_size(&self, size: u64) -> Result<()> {
        match size > self.max_blob {
            true => Err(Error::TooLarge {
                what: "the blob of an upstream ([mirror] max_blob in registry.toml)",
                limit: self.max_blob,
            }),
            false => Ok(()),
        }
    }

    fn floor(&self, room: Room) -> u64 {
        let default = || 1_000_000_000.min(room.total / 20);
        self.min_free.unwrap_or_else(default)
    }
}

/// The folder of what is on its way from upstreams.
#[derive(Debug)]
pub struct Incoming {
    /// Where.
    pub folder: PathBuf,
    /// How much.
    pub limits: MirrorLimits,
}

/// The beginning of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beginning {
    /// When somebody wrote to it last.
    at: SystemTime,
    path: PathBuf,
    bytes: u64,
}

impl Incoming {
    /// Where a blob is until all of it is here. Repositories share none: see [`super::flight`].
    pub fn path(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.encoded());
        let whose = Digest::of(repository.as_str());
        let name = format!("{algorithm}-{hex}-{}", &whose.encoded()[..16]);
        self.folder.join(name)
    }

    /// Whether so many more bytes may come; where there is no room for them, beginnings that nobody works with go
    /// first, oldest first. The error is that of a full disk.
    pub async fn make_room(&self, bytes: u64) -> Result<()> {
        let Err(lacking) = self.has_room(bytes) else {
            return Ok(());
        };
        let folder = self.folder.clone();
        let mut left = blocking(move || beginnings(&folder)).await?;
        left.sort_by_key(|beginning| beginning.at);
        for beginning in left {
            blocking(move || remove(&beginning.path)).await?;
            if self.has_room(bytes).is_ok() {
                return Ok(());
            }
        }
        Err(lacking)
    }

    /// The same, and nothing is removed for it. Asked for each piece that comes: it is one question to the kernel.
    pub fn has_room(&self, bytes: u64) -> Result<()> {
        let room = disk::room(&self.folder).map_err(Error::io("cannot stat", &self.folder))?;
        let floor = self.limits.floor(room);
        if room.free >= floor.saturating_add(bytes) {
            return Ok(());
        }
        let sentence = format!(
            "{} bytes are free, and {floor} have to stay free ([mirror] min_free in registry.toml)",
            room.free
        );
        let full = io::Error::new(io::ErrorKind::StorageFull, sentence);
        Err(Error::io("cannot fetch into", &self.folder)(full))
    }

    /// Removes beginnings that are too old, and beyond what they may take together, oldest first.
    pub fn tidy(&self) -> Result<()> {
        let left = beginnings(&self.folder)?;
        for path in needless(left, self.limits.partial, SystemTime::now()) {
            remove(&path)?;
        }
        Ok(())
    }
}

/// Which go.
fn needless(mut left: Vec<Beginning>, most_bytes: u64, now: SystemTime) -> Vec<PathBuf> {
    left.sort_by_key(|beginning| std::cmp::Reverse(beginning.at));
    let (mut count, mut bytes) = (0, 0);
    left.retain(|beginning| {
        let age = now.duration_since(beginning.at).unwrap_or_default();
        count += 1;
        bytes += beginning.bytes;
        age > EXPIRY || count > MOST || bytes > most_bytes
    });
    left.into_iter().map(|beginning| beginning.path).collect()
}

fn beginnings(folder: &Path) -> Result<Vec<Beginning>> {
    let fail = || Error::io("cannot list", folder);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail())? {
        let path = entry.map_err(fail())?.path();
        // Gone meanwhile: it became a blob.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        found.push(Beginning {
            at: metadata.modified().map_err(fail())?,
            bytes: metadata.len(),
            path,
        });
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<()> {
    Exclusive::remove_unused(path).map_err(Error::io("cannot remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100 * 24 * 3600);

    fn beginning(name: &str, days: u64, bytes: u64) -> Beginning {
        let age = Duration::from_secs(days * 24 * 3600);
        Beginning {
            at: SystemTime::UNIX_EPOCH + NOW - age,
            path: name.into(),
            bytes,
        }
    }

    #[test]
    fn what_is_old_goes_and_then_what_is_too_much() {
        let now = SystemTime::UNIX_EPOCH + NOW;
        let left = vec![
            beginning("old", 8, 1),
            beginning("third", 3, 40),
            beginning("first", 1, 60),
            beginning("second", 2, 40),
        ];
        let gone = |most| needless(left.clone(), most, now);
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(gone(1000), paths(&["old"]));
        assert_eq!(gone(100), paths(&["third", "old"]));
        assert_eq!(gone(99), paths(&["second", "third", "old"]));
        let many: Vec<_> = (0..MOST + 7).map(|_| beginning("empty", 1, 0)).collect();
        assert_eq!(needless(many, 1000, now).len(), 7);
    }

    #[tokio::test]
    async fn room_is_made_of_what_nobody_works_with() {
        let folder = tempfile::tempdir().unwrap();
        let incoming = |min_free| Incoming {
            folder: folder.path().to_owned(),
            limits: MirrorLimits {
                min_free,
                ..MirrorLimits::default()
            },
        };
        let (left, used) = (folder.path().join("left"), folder.path().join("used"));
        fs::write(&left, "x").unwrap();
        let hand = Exclusive::open(used.clone()).await.unwrap();
        incoming(Some(0)).make_room(1).await.unwrap();
        incoming(None).make_room(0).await.unwrap();
        assert!(left.exists());
        let full = incoming(Some(u64::MAX)).make_room(1).await.unwrap_err();
        assert!(full.to_string().contains("min_free"), "{full}");
        assert!(!left.exists() && used.exists());
        drop(hand);
    }
}
