//! Blobs as objects of a bucket that several registry-svc share: `blobs/<algorithm>/<first two digits>/<hex>/<random>`.
//!
//! Where a blob is stands in the ledger, not in its name: it is in the store when the ledger says so, and what is
//! stored again after it was removed is another object. So a removal that comes late hits what it meant. An object of
//! which the ledger knows nothing was left by a process that ended before it could say so, and goes after a day
//! (`left`). One that turns out to be broken is taken out by the ledger, too, and is kept (`broken`).
//!
//! A blob that comes in parts is one object all the same, so that anybody can read it by its address. The parts stay
//! in a folder of this process, a cache: who builds next here names them, elsewhere he sends them again.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use slipway_image::Digest;
use url::Url;

use super::{
    BlobInfo, BlobReader, BlobStore, READ_SIZE, Range, Verified,
    assembly::Assembled,
    parts::{Parts, Pin},
    staging::blocking,
};
use crate::{
    bucket::{Bucket, Segment},
    error::{Error, Result},
    files,
    ledger::{self, Change, Ledger, Scope},
    store::{Index, Object, Waiting},
    work::to_its_end,
};

mod broken;
mod left;

/// How long an object may be unknown to the ledger.
pub const STRANGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it may take to store a blob. Less than that.
const STORING: Duration = Duration::from_secs(12 * 60 * 60);

/// See the module's page.
#[derive(Clone)]
pub struct S3Store {
    bucket: Arc<Bucket>,
    ledger: Arc<dyn Ledger>,
    index: Arc<Index>,
    parts: Arc<Parts>,
    notes: PathBuf,
    redirect: bool,
    /// When it was looked for what others left.
    looked: Arc<Mutex<Option<Instant>>>,
}

impl S3Store {
    /// Opens the store; `folder` is for the cache of parts and for what is on its way.
    pub fn open(
        bucket: Arc<Bucket>,
        ledger: Arc<dyn Ledger>,
        index: Arc<Index>,
        folder: &Path,
        redirect: bool,
    ) -> Result<Self> {
        let (cache, notes) = (folder.join("cache"), folder.join("halves"));
        for folder in [&cache, &notes] {
            files::create_folders(folder).map_err(Error::io("cannot make", folder))?;
        }
        let parts = Parts::open(cache)?;
        for blob in parts.list()? {
            // Others removed it.
            if index.object(&blob.digest)?.is_none() {
                parts.delete(&blob.digest)?;
            }
        }
        Ok(Self {
            bucket,
            ledger,
            index,
            parts,
            notes,
            redirect,
            looked: Arc::default(),
        })
    }

    /// Stores content, unless somebody did. `content` is what it is made of.
    async fn store(&self, digest: &Digest, size: u64, content: Vec<Segment>) -> Result<bool> {
        if self.index.object(digest)?.is_some() && self.keep(digest).await? {
            return Ok(false);
        }
        let began = SystemTime::now();
        let hex = digest.encoded();
        let name = format!(
            "blobs/{}/{}/{hex}/{}",
            digest.algorithm().as_str(),
            &hex[..2],
            files::random_name()
        );
        self.bucket.put(name.clone(), content, &self.notes).await?;
        slipway_fault::point("registry.bucket.put");
        if began.elapsed().is_ok_and(|took| took > STORING) {
            return Err(Error::Bucket(
                "it took half a day to write to it".to_owned(),
            ));
        }
        let object = Object {
            name: name.clone(),
            size,
        };
        let (named, since) = (digest.clone(), self.ledger.now());
        let decide = move |index: &Index| {
            let digest = named.clone();
            let wait = Change::Wait {
                digest: digest.clone(),
                who: Waiting::First,
                since,
            };
            let object = object.clone();
            if index.object(&digest)?.is_some() {
                return Ok((vec![wait], false));
            }
            // One that a mirrored manifest names stays by itself, and nobody is to wait for it to go with that.
            let held = index.is_held(&digest)?;
            let stored = Change::Stored { digest, object };
            match held {
                true => Ok((vec![stored], true)),
                false => Ok((vec![stored, wait], true)),
            }
        };
        let new = ledger::commit(&*self.ledger, Scope::Blob(digest.clone()), decide).await?;
        if !new {
            // Somebody was quicker. What cannot be removed now is a stranger.
            let _ = self.bucket.delete(&name).await;
        }
        Ok(new)
    }

    /// Says that a blob is needed, if it is there.
    async fn keep(&self, digest: &Digest) -> Result<bool> {
        let (named, since) = (digest.clone(), self.ledger.now());
        let decide = move |index: &Index| {
            let wait = Change::Wait {
                digest: named.clone(),
                who: Waiting::First,
                since,
            };
            match index.object(&named)?.is_some() {
                true => Ok((vec![wait], true)),
                false => Ok((Vec::new(), false)),
            }
        };
        ledger::commit(&*self.ledger, Scope::Blob(digest.clone()), decide).await
    }

    fn object(&self, digest: &Digest) -> Result<Object> {
        let object = self.index.object(digest)?;
        object.ok_or_else(|| Error::BlobNotFound(digest.clone()))
    }

    /// Opens part of the object of a blob: that, how many bytes it is, and these. [`Error::Damaged`] when there is no
    /// such object, or one of another size.
    async fn open_at(
        &self,
        digest: &Digest,
        range: Range,
    ) -> Result<(Object, u64, BoxStream<'static, Result<Bytes>>)> {
        let mut object = self.object(digest)?;
        loop {
            let offset = range.offset.min(object.size);
            let length = range.length.unwrap_or(u64::MAX).min(object.size - offset);
            let damaged = |why| Error::Damaged {
                digest: digest.clone(),
                why,
            };
            match self
                .bucket
                .read(&object.name, offset..offset + length)
                .await?
            {
                Some(found) if found.size == object.size => {
                    return Ok((object, length, found.content));
                }
                Some(found) => {
                    return Err(damaged(format!(
                        "its object has {} bytes, not {}",
                        found.size, object.size
                    )));
                }
                None => {
                    // Removed since, and perhaps stored again.
                    self.ledger.refresh().await?;
                    let known = self.object(digest)?;
                    if known == object {
                        return Err(damaged("its object is gone from the bucket".to_owned()));
                    }
                    object = known;
                }
            }
        }
    }
}

impl BlobStore for S3Store {
    fn stat<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>>> {
        let object = self.index.object(digest);
        std::future::ready(object.map(|object| object.map(|o| o.size))).boxed()
    }

    fn read<'a>(&'a self, digest: &'a Digest, range: Range) -> BoxFuture<'a, Result<BlobReader>> {
        async move {
            let (object, length, content) = self.open_at(digest, range).await?;
            let content = content.map_ok(|piece| stream::iter(cut(piece)).map(Ok));
            Ok(BlobReader {
                total: object.size,
                length,
                stream: content.try_flatten().boxed(),
            })
        }
        .boxed()
    }

    fn read_small<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            if self.object(digest)?.size > limit {
                return Err(Error::TooLarge {
                    what: "a blob that is read as a whole",
                    limit,
                });
            }
            let (object, _, mut content) = self.open_at(digest, Range::default()).await?;
            let mut whole = BytesMut::with_capacity(object.size as usize);
            while let Some(piece) = content.try_next().await? {
                whole.extend_from_slice(&piece);
            }
            match whole.len() as u64 == object.size {
                true => Ok(whole.freeze()),
                false => Err(Error::Bucket(format!("{} came in part only", object.name))),
            }
        }
        .boxed()
    }

    fn adopt(&self, verified: Verified) -> BoxFuture<'_, Result<bool>> {
        let store = self.clone();
        // Also when nobody waits for it any more: who read along while it came is gone by now.
        to_its_end(async move {
            let content = vec![Segment {
                path: verified.path().to_owned(),
                offset: 0,
                size: verified.size(),
            }];
            store
                .store(verified.digest(), verified.size(), content)
                .await
        })
        .boxed()
    }

    fn add_part(&self, verified: Verified) -> BoxFuture<'_, Result<Pin>> {
        let parts = Arc::clone(&self.parts);
        blocking(move || parts.add(&verified)).boxed()
    }

    fn pin_part<'a>(&'a self, part: &'a Digest) -> BoxFuture<'a, Result<Option<Pin>>> {
        std::future::ready(Ok(self.parts.pin(part))).boxed()
    }

    fn compose(&self, assembled: Assembled) -> BoxFuture<'_, Result<bool>> {
        async move {
            let Assembled {
                digest,
                recipe,
                pins,
            } = assembled;
            let content = recipe.pieces.iter().map(|piece| Segment {
                path: self.parts.place(&piece.part),
                offset: piece.offset,
                size: piece.size,
            });
            let new = self.store(&digest, recipe.size, content.collect()).await?;
            let parts = Arc::clone(&self.parts);
            blocking(move || parts.put(&digest, &recipe, pins)).await?;
            Ok(new)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<u64>> {
        async move {
            // Whoever decided that it goes said so in the ledger. What is there since then is another one's.
            let leaving = self.index.take_leaving(digest)?;
            if leaving.is_none() && self.index.object(digest)?.is_some() {
                let named = digest.clone();
                let decide = move |_: &Index| {
                    let digest = named.clone();
                    Ok((vec![Change::Gone { digest }], ()))
                };
                ledger::commit(&*self.ledger, Scope::Blob(digest.clone()), decide).await?;
            }
            let (parts, named) = (Arc::clone(&self.parts), digest.clone());
            blocking(move || parts.delete(&named)).await?;
            let leaving = match leaving {
                None => self.index.take_leaving(digest)?,
                leaving => leaving,
            };
            let Some(object) = leaving else { return Ok(0) };
            slipway_fault::point("registry.bucket.gone");
            // After a failure it is a stranger.
            self.bucket.delete(&object.name).await?;
            Ok(object.size)
        }
        .boxed()
    }

    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<BlobInfo>>> {
        let object = self.index.object(digest);
        let info = object.map(|object| {
            object.map(|object| BlobInfo {
                digest: digest.clone(),
                size: object.size,
                disk: object.size,
                parts: Vec::new(),
            })
        });
        std::future::ready(info).boxed()
    }

    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool>> {
        self.take_out_if_broken(digest).boxed()
    }

    fn quarantined(&self) -> BoxFuture<'_, Result<u64>> {
        self.bytes_aside().boxed()
    }

    fn address<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Url>>> {
        async move {
            match self.index.object(digest)?.filter(|_| self.redirect) {
                Some(object) => self.bucket.signed(&object.name).await.map(Some),
                None => Ok(None),
            }
        }
        .boxed()
    }

    fn tidy(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.bucket.look_at_the_clock().await?;
            self.remove_left(STRANGE).await
        }
        .boxed()
    }

    fn left_overs(&self, remove: bool) -> BoxFuture<'_, Result<Vec<String>>> {
        self.strangers(STRANGE, remove).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BlobInfo>>> {
        let all = self.index.objects().map(|object| {
            let (digest, object) = object?;
            Ok(BlobInfo {
                digest,
                size: object.size,
                disk: object.size,
                parts: Vec::new(),
            })
        });
        std::future::ready(all.collect()).boxed()
    }
}

/// Pieces of at most [`READ_SIZE`].
fn cut(mut piece: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(piece.len().div_ceil(READ_SIZE));
    while piece.len() > READ_SIZE {
        pieces.push(piece.split_to(READ_SIZE));
    }
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests;
