//! Content of local files on its way into the bucket, in pieces that are bounded in size and in number.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStoreExt as _, multipart::MultipartStore as _};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Bucket, failed, is_missing};
use crate::{
    blobs::staging::blocking,
    error::{Error, Result},
    files,
    work::to_its_end,
};

/// MiB of pieces in memory at once, of all who push.
pub const MEMORY: usize = 12;
/// Bytes of a piece, at least: all but the last have 5 MiB or more in S3.
const PIECE: u64 = 6 << 20;
/// Pieces of an object, at most: S3 takes 10,000.
const PIECES: u64 = 9_000;
/// Pieces of one object on their way at once.
const AT_ONCE: usize = 2;

/// A range of a local file.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Which.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// What is to be given up after a crash.
#[derive(Serialize, Deserialize)]
struct Note {
    name: String,
    id: String,
}

/// See [`Bucket::put`].
pub async fn put(
    bucket: Arc<Bucket>,
    name: String,
    content: Vec<Segment>,
    notes: PathBuf,
) -> Result<()> {
    let size: u64 = content.iter().map(|s| s.size).sum();
    if size <= PIECE {
        let (_memory, whole) = piece(&bucket, &content, 0, size).await?;
        let put = bucket.content.put(&bucket.key(&name), whole.into()).await;
        return put.map(|_| ()).map_err(|e| failed(&e));
    }
    // Also when nobody waits for it any more: what was begun is completed or given up.
    to_its_end(in_pieces(bucket, name, content, size, notes)).await
}

async fn in_pieces(
    bucket: Arc<Bucket>,
    name: String,
    content: Vec<Segment>,
    size: u64,
    notes: PathBuf,
) -> Result<()> {
    let key = bucket.key(&name);
    let id = bucket.requests.create_multipart(&key).await;
    let id = id.map_err(|e| failed(&e))?;
    slipway_fault::point("registry.bucket.begun");
    let note = notes.join(files::random_name());
    let told = Note {
        name,
        id: id.clone(),
    };
    let told = serde_json::to_vec(&told).expect("notes are plain data");
    if let Err(error) = fs::write(&note, told) {
        // What cannot be given up either is found by its age.
        let _ = bucket.requests.abort_multipart(&key, &id).await;
        return Err(Error::io("cannot write", &note)(error));
    }
    slipway_fault::point("registry.bucket.noted");
    let step = PIECE.max(size.div_ceil(PIECES).next_multiple_of(1 << 20));
    let pieces = (0..size).step_by(step as usize).enumerate();
    let sending = pieces.map(|(number, offset)| {
        let (bucket, key, id, content) = (&bucket, &key, &id, &content);
        async move {
            let (_memory, piece) = piece(bucket, content, offset, step.min(size - offset)).await?;
            let put = bucket.content.put_part(key, id, number, piece.into());
            put.await.map_err(|e| failed(&e))
        }
    });
    let sent = async {
        let parts = stream::iter(sending)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let complete = bucket.content.complete_multipart(&key, &id, parts);
        complete.await.map_err(|e| failed(&e))
    };
    let sent = sent.await;
    if sent.is_err()
        && let Err(error) = bucket.requests.abort_multipart(&key, &id).await
    {
        warn!(%error, "pieces are left in the bucket until the next start");
        return sent.map(|_| ());
    }
    fs::remove_file(&note).map_err(Error::io("cannot remove", &note))?;
    sent.map(|_| ())
}

/// Waits until there is room for it, and reads a piece.
async fn piece(
    bucket: &Bucket,
    content: &[Segment],
    offset: u64,
    size: u64,
) -> Result<(tokio::sync::OwnedSemaphorePermit, Bytes)> {
    let room = size.div_ceil(1 << 20).clamp(1, MEMORY as u64) as u32;
    let memory = Arc::clone(&bucket.memory).acquire_many_owned(room).await;
    let memory = memory.expect("the semaphore is never closed");
    let wanted = cut(content, offset, size);
    let read = blocking(move || {
        let mut piece = Vec::with_capacity(size as usize);
        for segment in wanted {
            let fail = || Error::io("cannot read", &segment.path);
            let mut file = File::open(&segment.path).map_err(fail())?;
            file.seek(SeekFrom::Start(segment.offset)).map_err(fail())?;
            file.take(segment.size)
                .read_to_end(&mut piece)
                .map_err(fail())?;
        }
        match piece.len() as u64 == size {
            true => Ok(piece.into()),
            false => Err(Error::Interrupted("a staged file is too short".to_owned())),
        }
    });
    Ok((memory, read.await?))
}

/// The segments of a range.
fn cut(content: &[Segment], offset: u64, size: u64) -> Vec<Segment> {
    let (mut at, end) = (0, offset + size);
    let mut found = Vec::new();
    for segment in content {
        let (from, to) = (offset.max(at), end.min(at + segment.size));
        if from < to {
            found.push(Segment {
                path: segment.path.clone(),
                offset: segment.offset + (from - at),
                size: to - from,
            });
        }
        at += segment.size;
    }
    found
}

/// See [`Bucket::forget_halves`].
pub async fn forget(bucket: &Bucket, notes: &Path) -> Result<()> {
    let fail = || Error::io("cannot list", notes);
    for entry in fs::read_dir(notes).map_err(fail())? {
        let path = entry.map_err(fail())?.path();
        let told = fs::read(&path).map_err(Error::io("cannot read", &path))?;
        // One that is torn was written in a moment that nothing had been sent yet.
        if let Ok(note) = serde_json::from_slice::<Note>(&told) {
            let key = bucket.key(&note.name);
            match bucket.requests.abort_multipart(&key, &note.id).await {
                Err(error) if !is_missing(&error) => return Err(failed(&error)),
                _ => {}
            }
        }
        fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
    }
    Ok(())
}
