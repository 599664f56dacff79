//! Blobs as objects of a bucket that several registry-svc share: `blobs/<algorithm>/<first two digits>/<hex>/<random>`.
//!
//! Where a blob is stands in the ledger, not in its name: it is in the store when the ledger says so, and what is
//! stored again after it was removed is another object. So a removal that comes late hits what it meant. An object of
//! which the ledger knows nothing was left by a process that ended before it could say so, and goes after a day
//! ([`S3Store::remove_strangers`]).
//!
//! A blob that comes in parts is one object all the same, so that anybody can read it by its address. The parts stay
//! in a folder of this process, a cache: who builds next here names them, elsewhere he sends them again.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self},
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
    registry::now,
    store::{Index, Object, Waiting},
    work::to_its_end,
};

/// How long an object may be unknown to the ledger.
pub const STRANGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often such are looked for.
const EVERY: Duration = Duration::from_secs(6 * 60 * 60);
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
    looked: Arc<Mutex<Instant>>,
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
            looked: Arc::new(Mutex::new(Instant::now())),
        })
    }

    /// Removes objects that the ledger did not know for so long. Returns how many.
    pub async fn remove_strangers(&self, age: Duration) -> Result<usize> {
        let mut removed = 0;
        let mut listed = self.bucket.list("blobs", None);
        while let Some(object) = listed.try_next().await? {
            let old = SystemTime::now().duration_since(object.made);
            let strange = || -> Result<bool> {
                let Some(digest) = digest_in(&object.name) else {
                    return Ok(false);
                };
                let known = self.index.object(&digest)?;
                Ok(known.is_none_or(|known| known.name != object.name))
            };
            if old.is_ok_and(|old| old >= age) && strange()? {
                self.bucket.delete(&object.name).await?;
                removed += 1;
            }
        }
        Ok(removed)
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
        if began.elapsed().is_ok_and(|took| took > STORING) {
            return Err(Error::Bucket(
                "it took half a day to write to it".to_owned(),
            ));
        }
        let object = Object {
            name: name.clone(),
            size,
        };
        let (named, since) = (digest.clone(), now());
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
        let (named, since) = (digest.clone(), now());
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
}

impl BlobStore for S3Store {
    fn stat<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>>> {
        let object = self.index.object(digest);
        std::future::ready(object.map(|object| object.map(|o| o.size))).boxed()
    }

    fn read<'a>(&'a self, digest: &'a Digest, range: Range) -> BoxFuture<'a, Result<BlobReader>> {
        async move {
            let object = self.object(digest)?;
            let offset = range.offset.min(object.size);
            let length = range.length.unwrap_or(u64::MAX).min(object.size - offset);
            let stream = match length {
                0 => stream::empty().boxed(),
                _ => {
                    let read = self.bucket.read(&object.name, offset..offset + length);
                    let read = read.await?;
                    // Removed since.
                    let read = read.ok_or_else(|| Error::BlobNotFound(digest.clone()))?;
                    read.map_ok(|piece| stream::iter(cut(piece)).map(Ok))
                        .try_flatten()
                        .boxed()
                }
            };
            Ok(BlobReader {
                total: object.size,
                length,
                stream,
            })
        }
        .boxed()
    }

    fn read_small<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            let object = self.object(digest)?;
            if object.size > limit {
                return Err(Error::TooLarge {
                    what: "a blob that is read as a whole",
                    limit,
                });
            }
            let content = self.bucket.get(&object.name).await?;
            content.ok_or_else(|| Error::BlobNotFound(digest.clone()))
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
            if self.index.object(digest)?.is_some() {
                let named = digest.clone();
                let decide = move |_: &Index| {
                    let digest = named.clone();
                    Ok((vec![Change::Gone { digest }], ()))
                };
                ledger::commit(&*self.ledger, Scope::Blob(digest.clone()), decide).await?;
            }
            let (parts, named) = (Arc::clone(&self.parts), digest.clone());
            blocking(move || parts.delete(&named)).await?;
            let Some(object) = self.index.take_leaving(digest)? else {
                return Ok(0);
            };
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

    /// What is broken is told, and stays: the bucket's keeper answers for it.
    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool>> {
        async move {
            let mut stream = match self.read(digest, Range::default()).await {
                Err(Error::BlobNotFound(_)) => return Ok(false),
                reader => reader?.stream,
            };
            let mut digester = digest.digester();
            while let Some(piece) = stream.try_next().await? {
                digester.update(&piece);
            }
            let actual = digester.finish();
            match actual == *digest {
                true => Ok(false),
                false => Err(Error::DigestMismatch {
                    expected: digest.clone(),
                    actual,
                }),
            }
        }
        .boxed()
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
            {
                let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
                if looked.elapsed() < EVERY {
                    return Ok(());
                }
                *looked = Instant::now();
            }
            self.remove_strangers(STRANGE).await.map(|_| ())
        }
        .boxed()
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

/// The blob that an object holds.
fn digest_in(name: &str) -> Option<Digest> {
    let mut parts = name.split('/').skip(1);
    let (algorithm, _, hex) = (parts.next()?, parts.next()?, parts.next()?);
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use slipway_image::Algorithm;

    use super::*;
    use crate::{
        blobs::{Staged, conformance},
        bucket::server::Server,
        ledger::journal::Journal,
    };

    struct Opened {
        store: Arc<S3Store>,
        bucket: Arc<Bucket>,
        index: Arc<Index>,
    }

    async fn open(server: &Server, prefix: &str, folder: &Path) -> Opened {
        let config = server.settings(prefix).check().unwrap().unwrap();
        let bucket = Arc::new(Bucket::new(&config).unwrap());
        let id = bucket.claim().await.unwrap();
        std::fs::create_dir_all(folder.join("halves")).unwrap();
        bucket.forget_halves(&folder.join("halves")).await.unwrap();
        let index = Arc::new(Index::open(&folder.join("index")).unwrap());
        index.begin_again(&id).unwrap();
        let journal = Journal::open(Arc::clone(&bucket), Arc::clone(&index), folder.to_owned());
        let ledger: Arc<dyn Ledger> = Arc::new(journal.await.unwrap());
        let store = S3Store::open(
            Arc::clone(&bucket),
            ledger,
            Arc::clone(&index),
            folder,
            false,
        );
        Opened {
            store: Arc::new(store.unwrap()),
            bucket,
            index,
        }
    }

    async fn objects(bucket: &Bucket) -> Vec<String> {
        let listed: Vec<_> = bucket.list("blobs", None).try_collect().await.unwrap();
        listed.into_iter().map(|object| object.name).collect()
    }

    #[tokio::test]
    async fn the_bucket_is_a_blob_store() {
        let Some(server) = Server::shared() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let opened = open(server, "conformance", &dir.path().join("bucket")).await;
        let staging = dir.path().join("tmp");
        std::fs::create_dir(&staging).unwrap();
        conformance::run(opened.store, &staging, conformance::Parts::AreACache).await;
        assert_eq!(objects(&opened.bucket).await, [""; 0]);
    }

    #[tokio::test]
    async fn what_a_crash_left_goes_and_what_is_known_stays() {
        let Some(server) = Server::shared() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("bucket");
        let one = open(server, "strangers", &folder).await;
        let staged = Staged::create(dir.path(), Algorithm::Sha256).await.unwrap();
        // Several pieces.
        for _ in 0..9 {
            staged.write(vec![vec![7; 1 << 20].into()]).await.unwrap();
        }
        let verified = staged.finish(None, None).await.unwrap();
        let digest = verified.digest().clone();
        assert!(one.store.adopt(verified).await.unwrap());
        assert_eq!(one.store.stat(&digest).await.unwrap(), Some(9 << 20));
        let known = objects(&one.bucket).await;
        let stranger = format!("{}x", known[0]);
        assert!(one.bucket.create(&stranger, "left".into()).await.unwrap());
        assert_eq!(one.store.remove_strangers(STRANGE).await.unwrap(), 0);
        assert_eq!(one.store.remove_strangers(Duration::ZERO).await.unwrap(), 1);
        assert_eq!(objects(&one.bucket).await, known);
        // Another process, which knows nothing yet, finds it by the journal; so does one that lost its index.
        let other = open(server, "strangers", &dir.path().join("other")).await;
        assert_eq!(other.store.stat(&digest).await.unwrap(), Some(9 << 20));
        other.store.delete(&digest).await.unwrap();
        // The first one did not hear of it, and stores it again: another object.
        assert!(one.index.object(&digest).unwrap().is_some());
        let staged = Staged::create(dir.path(), Algorithm::Sha256).await.unwrap();
        for _ in 0..9 {
            staged.write(vec![vec![7; 1 << 20].into()]).await.unwrap();
        }
        let verified = staged.finish(None, None).await.unwrap();
        assert!(one.store.adopt(verified).await.unwrap());
        let again = objects(&one.bucket).await;
        assert!(again.len() == 1 && again != known);
        let all = one.store.read(&digest, Range::default()).await.unwrap();
        let pieces: Vec<Bytes> = all.stream.try_collect().await.unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 9 << 20);
    }
}
