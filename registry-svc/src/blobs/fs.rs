//! Blobs as files: `blobs/<algorithm>/<first two digits>/<hex>`, or as parts ([`super::parts`]).

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self},
};
use slipway_image::{Algorithm, Digest};

use super::{
    BlobInfo, BlobReader, BlobStore, Range, Verified,
    assembly::Assembled,
    parts::{Parts, Piece, Pin},
    quarantine::Quarantine,
    reading::Source,
    staging::blocking,
};
use crate::{
    error::{Error, Result},
    files,
};

/// See the module's page.
pub struct FsStore {
    root: PathBuf,
    parts: Arc<Parts>,
}

impl FsStore {
    /// Opens the store below `root`; staged files must be on the same filesystem.
    pub fn open(root: PathBuf) -> Result<Self> {
        files::create_folders(&root).map_err(Error::io("cannot make", &root))?;
        let parts = Parts::open(root.clone())?;
        Ok(Self { root, parts })
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
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(self.parts.size(digest)),
            Err(e) => Err(Error::io("cannot stat", path)(e)),
        };
        std::future::ready(result).boxed()
    }

    fn read<'a>(&'a self, digest: &'a Digest, range: Range) -> BoxFuture<'a, Result<BlobReader>> {
        let path = self.path(digest);
        async move {
            let source = match open(path, digest).await {
                Err(Error::BlobNotFound(_)) => return read_parts(&self.parts, digest, range).await,
                source => source?,
            };
            let total = source.size()?;
            let offset = range.offset.min(total);
            let length = range.length.unwrap_or(u64::MAX).min(total - offset);
            Ok(BlobReader {
                total,
                length,
                stream: source.stream(offset, length),
            })
        }
        .boxed()
    }

    fn read_small<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Bytes>> {
        let path = self.path(digest);
        async move {
            let (total, sources) = match open(path, digest).await {
                Ok(source) => {
                    let size = source.size()?;
                    (size, vec![(source, 0, size)])
                }
                Err(Error::BlobNotFound(_)) => {
                    let (total, pieces) =
                        held_pieces(&self.parts, digest, Range::default()).await?;
                    let mut sources = Vec::new();
                    for (piece, pin) in pieces.into_iter().filter(|_| total <= limit) {
                        sources.push((open_part(&pin).await?, piece.offset, piece.size));
                    }
                    (total, sources)
                }
                Err(e) => return Err(e),
            };
            if total > limit {
                return Err(too_large(limit));
            }
            let mut content = Vec::with_capacity(total as usize);
            for (source, offset, length) in sources {
                source.append_to(&mut content, offset, length).await?;
            }
            Ok(content.into())
        }
        .boxed()
    }

    fn add_part(&self, verified: Verified) -> BoxFuture<'_, Result<Pin>> {
        let parts = Arc::clone(&self.parts);
        blocking(move || parts.add(&verified)).boxed()
    }

    fn pin_part<'a>(&'a self, part: &'a Digest) -> BoxFuture<'a, Result<Option<Pin>>> {
        let parts = &self.parts;
        std::future::ready(Ok(parts.pin(part))).boxed()
    }

    fn compose(&self, assembled: Assembled) -> BoxFuture<'_, Result<bool>> {
        let (path, parts) = (self.path(&assembled.digest), Arc::clone(&self.parts));
        blocking(move || {
            let Assembled {
                digest,
                recipe,
                pins,
            } = assembled;
            if fs::metadata(&path).is_ok_and(|m| m.len() == recipe.size) {
                return settle(&path).map(|()| false);
            }
            let new = parts.put(&digest, &recipe, pins)?;
            remove_torn(&path, recipe.size)?;
            Ok(new)
        })
        .boxed()
    }

    fn adopt(&self, verified: Verified) -> BoxFuture<'_, Result<bool>> {
        let (path, parts) = (self.path(verified.digest()), Arc::clone(&self.parts));
        blocking(move || {
            let fail = || Error::io("cannot store", &path);
            // Before anybody looks whether it is here already: by how long that takes nobody learns it.
            slipway_fault::fallible("registry.store.sync")
                .and_then(|()| verified.sync())
                .map_err(fail())?;
            // A blob of the wrong size is the remains of a power cut on a filesystem that renames
            // before it writes: replaced.
            if fs::metadata(&path).is_ok_and(|m| m.len() == verified.size()) {
                return settle(&path).map(|()| false);
            }
            if parts.size(verified.digest()).is_some() {
                parts.settle(verified.digest())?;
                return remove_torn(&path, verified.size()).map(|()| false);
            }
            let folder = path.parent().expect("blobs have a folder");
            files::create_folders(folder).map_err(fail())?;
            fs::rename(verified.path(), &path).map_err(fail())?;
            slipway_fault::point("registry.store.renamed");
            settle(&path).map(|()| true)
        })
        .boxed()
    }

    fn delete<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<u64>> {
        let (path, digest) = (self.path(digest), digest.clone());
        let parts = Arc::clone(&self.parts);
        blocking(move || {
            let whole = match fs::metadata(&path) {
                Ok(metadata) => {
                    fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
                    metadata.blocks() * 512
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
                Err(e) => return Err(Error::io("cannot remove", &path)(e)),
            };
            // Two who stored it at once may have done so in both forms.
            Ok(whole + parts.delete(&digest)?)
        })
        .boxed()
    }

    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<BlobInfo>>> {
        let (path, parts) = (self.path(digest), Arc::clone(&self.parts));
        let digest = digest.clone();
        blocking(move || {
            let composed = parts.info(&digest)?;
            let whole = fs::metadata(&path).ok();
            Ok(match (whole, composed) {
                (None, composed) => composed,
                (Some(metadata), composed) => Some(BlobInfo {
                    digest,
                    size: metadata.len(),
                    // Two who stored it at once may have done so in both forms.
                    disk: metadata.blocks() * 512 + composed.as_ref().map_or(0, |c| c.disk),
                    parts: composed.map_or_else(Vec::new, |c| c.parts),
                }),
            })
        })
        .boxed()
    }

    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool>> {
        let (path, parts) = (self.path(digest), Arc::clone(&self.parts));
        let (digest, quarantine) = (digest.clone(), Quarantine::below(&self.root));
        blocking(move || {
            let file = quarantine.take_file(&path, &digest)?;
            Ok(parts.quarantine(&digest, &quarantine)? || file)
        })
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BlobInfo>>> {
        let (root, parts) = (self.root.clone(), Arc::clone(&self.parts));
        blocking(move || {
            let mut found = parts.list()?;
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
                            parts: Vec::new(),
                        });
                    }
                }
            }
            Ok(found)
        })
        .boxed()
    }
}

async fn open(path: PathBuf, digest: &Digest) -> Result<Source> {
    Source::open(path.clone())
        .await
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::BlobNotFound(digest.clone()),
            _ => Error::io("cannot open", path)(e),
        })
}

async fn open_part(pin: &Pin) -> Result<Source> {
    let path = pin.path();
    let opened = Source::open(path.clone()).await;
    opened.map_err(Error::io("cannot open", path))
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<io::Result<_>>()
            .map_err(Error::io("cannot list", folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("cannot list", folder)(e)),
    }
}

const fn too_large(limit: u64) -> Error {
    Error::TooLarge {
        what: "a blob that is read as a whole",
        limit,
    }
}

/// Waits until the name of a file is durable, whoever gave it that name: another one may wait for it still. Of
/// nothing is it said before that it is here.
pub(super) fn settle(path: &Path) -> Result<()> {
    let folder = path.parent().expect("blobs have a folder");
    slipway_fault::fallible("registry.store.named")
        .and_then(|()| files::sync_folder(folder))
        .map_err(Error::io("cannot store", path))
}

/// Takes away what a power cut left of a file that is there in another form.
fn remove_torn(path: &Path, size: u64) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() != size => {
            fs::remove_file(path).map_err(Error::io("cannot remove", path))
        }
        _ => Ok(()),
    }
}

/// The pieces of a range of a blob that is made of parts, each held, and the blob's size.
fn pieces(parts: &Arc<Parts>, digest: &Digest, range: Range) -> Result<(u64, Vec<(Piece, Pin)>)> {
    let gone = || Error::BlobNotFound(digest.clone());
    let recipe = parts.recipe(digest)?.ok_or_else(gone)?;
    let length = range.length.unwrap_or(u64::MAX);
    let offset = range.offset.min(recipe.size);
    let pieces = recipe.range(offset, length.min(recipe.size - offset));
    let held = pieces.into_iter().map(|piece| {
        // Deleted meanwhile.
        let pin = parts.pin(&piece.part).ok_or_else(gone)?;
        Ok((piece, pin))
    });
    Ok((recipe.size, held.collect::<Result<_>>()?))
}

async fn held_pieces(
    parts: &Arc<Parts>,
    digest: &Digest,
    range: Range,
) -> Result<(u64, Vec<(Piece, Pin)>)> {
    let (parts, digest) = (Arc::clone(parts), digest.clone());
    blocking(move || pieces(&parts, &digest, range)).await
}

async fn read_parts(parts: &Arc<Parts>, digest: &Digest, range: Range) -> Result<BlobReader> {
    let (total, pieces) = held_pieces(parts, digest, range).await?;
    let length = pieces.iter().map(|(piece, _)| piece.size).sum();
    let stream = stream::iter(pieces).then(async |(piece, pin): (Piece, Pin)| {
        // An open file needs no pin.
        let source = open_part(&pin).await?;
        Ok::<_, Error>(source.stream(piece.offset, piece.size))
    });
    Ok(BlobReader {
        total,
        length,
        stream: stream.try_flatten().boxed(),
    })
}

#[cfg(test)]
mod tests;
