//! Blobs as files: `blobs/<algorithm>/<first two digits>/<hex>`.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self},
};
use slipway_image::{Algorithm, Digest};

use super::{BlobInfo, BlobReader, BlobStore, READ_SIZE, Range, Verified, staging::blocking};
use crate::{
    error::{Error, Result},
    files,
};

/// See the module's page.
pub struct FsStore {
    root: PathBuf,
}

impl FsStore {
    /// Opens the store below `root`; staged files must be on the same filesystem.
    pub fn open(root: PathBuf) -> Result<Self> {
        files::create_folders(&root).map_err(Error::io("cannot make", &root))?;
        Ok(Self { root })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.encoded();
        self.root
            .join(digest.algorithm().as_str())
            .join(&hex[..2])
            .join(hex)
    }
}

impl BlobStore for FsStore {
    fn stat<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>>> {
        let path = self.path(digest);
        // Metadata of one file: faster done than handed to another thread.
        let result = match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("cannot stat", path)(e)),
        };
        std::future::ready(result).boxed()
    }

    fn read<'a>(&'a self, digest: &'a Digest, range: Range) -> BoxFuture<'a, Result<BlobReader>> {
        let path = self.path(digest);
        let digest = digest.clone();
        blocking(move || {
            let mut file = open(&path, &digest)?;
            let total = file
                .metadata()
                .map_err(Error::io("cannot stat", &path))?
                .len();
            let offset = range.offset.min(total);
            let length = range.length.unwrap_or(u64::MAX).min(total - offset);
            file.seek(SeekFrom::Start(offset))
                .map_err(Error::io("cannot read", &path))?;
            // The first piece comes along: most blobs that clients ask for are small.
            let first = read_piece(&mut file, &path, length)?;
            Ok(BlobReader {
                total,
                length,
                stream: stream_file(file, path, first, length),
            })
        })
        .boxed()
    }

    fn read_small<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Bytes>> {
        let path = self.path(digest);
        let digest = digest.clone();
        blocking(move || {
            let file = open(&path, &digest)?;
            let mut content = Vec::new();
            file.take(limit + 1)
                .read_to_end(&mut content)
                .map_err(Error::io("cannot read", &path))?;
            if content.len() as u64 > limit {
                return Err(Error::TooLarge {
                    what: "a blob that is read as a whole",
                    limit,
                });
            }
            Ok(content.into())
        })
        .boxed()
    }

    fn adopt(&self, verified: Verified) -> BoxFuture<'_, Result<bool>> {
        let path = self.path(verified.digest());
        blocking(move || {
            // A blob of the wrong size is the remains of a power cut on a filesystem that renames
            // before it writes: replaced.
            if fs::metadata(&path).is_ok_and(|m| m.len() == verified.size()) {
                return Ok(false);
            }
            let folder = path.parent().expect("blobs have a folder");
            let fail = || Error::io("cannot store", &path);
            files::create_folders(folder).map_err(fail())?;
            File::open(verified.path())
                .and_then(|file| file.sync_data())
                .map_err(fail())?;
            fs::rename(verified.path(), &path).map_err(fail())?;
            files::sync_folder(folder).map_err(fail())?;
            Ok(true)
        })
        .boxed()
    }

    fn delete<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<u64>> {
        let path = self.path(digest);
        blocking(move || match fs::metadata(&path) {
            Ok(metadata) => {
                fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
                Ok(metadata.blocks() * 512)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(Error::io("cannot remove", &path)(e)),
        })
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BlobInfo>>> {
        let root = self.root.clone();
        blocking(move || {
            let mut found = Vec::new();
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                for folder in entries(&root.join(algorithm.as_str()))? {
                    for file in entries(&folder)? {
                        let name = file.file_name().unwrap_or_default().to_string_lossy();
                        // Whatever is not named by a digest is none of ours.
                        let Ok(digest) = format!("{}:{name}", algorithm.as_str()).parse() else {
                            continue;
                        };
                        let Ok(metadata) = fs::metadata(&file) else {
                            continue; // deleted meanwhile
                        };
                        found.push(BlobInfo {
                            digest,
                            size: metadata.len(),
                            disk: metadata.blocks() * 512,
                        });
                    }
                }
            }
            Ok(found)
        })
        .boxed()
    }
}

fn open(path: &Path, digest: &Digest) -> Result<File> {
    File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::BlobNotFound(digest.clone()),
        _ => Error::io("cannot open", path)(e),
    })
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<io::Result<_>>()
            .map_err(Error::io("cannot list", folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("cannot list", folder)(e)),
    }
}

fn read_piece(file: &mut File, path: &Path, left: u64) -> Result<Bytes> {
    let want = left.min(READ_SIZE as u64);
    let mut piece = Vec::with_capacity(want as usize);
    file.take(want)
        .read_to_end(&mut piece)
        .map_err(Error::io("cannot read", path))?;
    if (piece.len() as u64) < want {
        return Err(Error::Interrupted(format!(
            "{} is shorter than it was",
            path.display()
        )));
    }
    Ok(piece.into())
}

/// Reads one piece ahead of the consumer; no thread waits for a slow one.
fn stream_file(file: File, path: PathBuf, first: Bytes, length: u64) -> super::BlobStream {
    let left = length - first.len() as u64;
    let head = stream::iter((!first.is_empty()).then_some(Ok(first)));
    if left == 0 {
        return head.boxed();
    }
    let next = |mut file: File, path: PathBuf, left: u64| {
        tokio::task::spawn_blocking(move || {
            let piece = read_piece(&mut file, &path, left)?;
            Ok::<_, Error>((file, path, piece))
        })
    };
    let ahead = next(file, path, left);
    let rest = stream::unfold(Some((ahead, left)), move |state| async move {
        let (ahead, left) = state?;
        match ahead.await {
            Ok(Ok((file, path, piece))) => {
                let left = left - piece.len() as u64;
                let state = (left > 0).then(|| (next(file, path, left), left));
                Some((Ok(piece), state))
            }
            Ok(Err(e)) => Some((Err(e), None)),
            Err(e) => Some((Err(Error::Interrupted(e.to_string())), None)),
        }
    });
    head.chain(rest).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_filesystem_store_is_a_blob_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = FsStore::open(dir.path().join("blobs")).unwrap();
        super::super::conformance::run(&store, dir.path()).await;
    }
}
