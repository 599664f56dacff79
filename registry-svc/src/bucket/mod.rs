//! A bucket of an S3 server: whole objects, made once and never changed.
//!
//! The one module that knows `object_store`. A name is never used twice but by [`Bucket::create`], which makes an
//! object only where none is (`If-None-Match: *`); so nothing that was read can be something else later, and whoever
//! removes an object removes what he looked at.

use std::{
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    Error as S3Error, GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutOptions, aws::AmazonS3, path::Path as Key, signer::Signer as _,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use url::Url;

use crate::{
    error::{Error, Result},
    files,
};

mod abandoned;
mod clock;
mod connect;
mod failure;
mod raw;
#[cfg(test)]
pub(crate) mod server;
pub mod settings;
mod upload;

use clock::Clock;
use failure::{failed, is_missing};
use raw::Raw;
pub use settings::BucketConfig;
pub use upload::Segment;

/// How long a signed address is good.
const SIGNED: Duration = Duration::from_secs(20 * 60);
/// Says what the bucket is used for.
const MARK: &str = "slipway.json";
/// Bytes of that, at most.
const MARK_SIZE: u64 = 4096;
/// Form of what is in the bucket.
const FORMAT: u32 = 1;

/// See the module's page.
pub struct Bucket {
    /// For what is answered at once.
    requests: AmazonS3,
    /// For content, which takes as long as it takes.
    content: AmazonS3,
    /// For what the others do not know.
    raw: Raw,
    clock: Clock,
    prefix: String,
    /// MiB of pieces on their way, so that memory is bounded however many push.
    memory: Arc<Semaphore>,
}

/// An object of which some is read.
pub struct Found {
    /// Bytes of all of it.
    pub size: u64,
    /// What was asked for.
    pub content: BoxStream<'static, Result<Bytes>>,
}

/// An object in a list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Without the prefix.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was made, by the server's clock.
    pub made: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    id: String,
}

impl Bucket {
    /// A client of the bucket; nothing is asked yet.
    pub fn new(config: &BucketConfig) -> Result<Self> {
        Ok(Self {
            requests: connect::client(config, connect::for_requests(config))?,
            content: connect::client(config, connect::for_content(config))?,
            raw: Raw::new(config)?,
            clock: Clock::default(),
            prefix: config.prefix.clone(),
            memory: Arc::new(Semaphore::new(upload::MEMORY)),
        })
    }

    /// Makes the bucket ours, or finds that it is. Tells its id.
    ///
    /// A server that does not know `If-None-Match` is refused: several who write would lose what they were told is
    /// stored.
    pub async fn claim(&self) -> Result<String> {
        let mark = Mark {
            format: FORMAT,
            id: files::random_uuid(),
        };
        let mark = serde_json::to_vec(&mark).expect("marks are plain data");
        self.create(MARK, mark.clone().into()).await?;
        if self.create(MARK, mark.into()).await? {
            return Err(Error::Bucket(
                "the server replaces objects in spite of If-None-Match".to_owned(),
            ));
        }
        self.look_at_the_clock().await?;
        let found = self.get(MARK, MARK_SIZE).await?.unwrap_or_default();
        match serde_json::from_slice::<Mark>(&found) {
            Ok(mark) if mark.format == FORMAT => Ok(mark.id),
            Ok(mark) => Err(Error::Bucket(format!(
                "it has form {}, and this version of registry-svc knows form {FORMAT}",
                mark.format
            ))),
            Err(_) => Err(Error::Bucket(format!("its {MARK} is not of registry-svc"))),
        }
    }

    /// Makes a small object where none is; false: there is one.
    pub async fn create(&self, name: &str, content: Bytes) -> Result<bool> {
        let options = PutOptions::from(PutMode::Create);
        let key = self.key(name);
        match self.requests.put_opts(&key, content.into(), options).await {
            Ok(_) => Ok(true),
            Err(S3Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The content of a small object. One of more than `limit` bytes is not what it should be.
    pub async fn get(&self, name: &str, limit: u64) -> Result<Option<Bytes>> {
        let read = async {
            let found = self.requests.get(&self.key(name)).await?;
            match found.meta.size {
                size if size > limit => Ok(Err(size)),
                _ => found.bytes().await.map(Ok),
            }
        };
        match read.await {
            Ok(Ok(content)) => Ok(Some(content)),
            Ok(Err(size)) => Err(Error::Bucket(format!(
                "{name} has {size} bytes, where at most {limit} can be"
            ))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Reads a range of an object in one request: who reads goes on when it is removed.
    pub async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Found>> {
        let key = self.key(name);
        let options = GetOptions {
            // An empty range cannot be asked for.
            range: (!range.is_empty()).then_some(GetRange::Bounded(range.clone())),
            head: range.is_empty(),
            ..GetOptions::default()
        };
        match self.content.get_opts(&key, options).await {
            Ok(found) => Ok(Some(Found {
                size: found.meta.size,
                content: found.into_stream().map_err(|e| failed(&e)).boxed(),
            })),
            Err(error) if is_missing(&error) => Ok(None),
            // A range that begins behind the end is refused: then that is what there is to tell.
            Err(error) => match self.requests.head(&key).await {
                Ok(there) if there.size <= range.start => Ok(Some(Found {
                    size: there.size,
                    content: stream::empty().boxed(),
                })),
                _ => Err(failed(&error)),
            },
        }
    }

    /// Bytes of an object.
    pub async fn size(&self, name: &str) -> Result<Option<u64>> {
        match self.requests.head(&self.key(name)).await {
            Ok(there) => Ok(Some(there.size)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Removes an object; one that is not there is as good.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.requests.delete(&self.key(name)).await {
            Err(error) if !is_missing(&error) => Err(failed(&error)),
            _ => Ok(()),
        }
    }

    /// The objects of a folder in the order of their names, those behind one if that is given.
    pub fn list(&self, folder: &str, after: Option<&str>) -> BoxStream<'static, Result<Listed>> {
        let folder = self.key(folder);
        let found = match after {
            Some(after) => self
                .requests
                .list_with_offset(Some(&folder), &self.key(after)),
            None => self.requests.list(Some(&folder)),
        };
        let skip = match self.prefix.len() {
            0 => 0,
            prefix => prefix + 1,
        };
        found
            .map_ok(move |meta| Listed {
                name: meta.location.as_ref()[skip..].to_owned(),
                size: meta.size,
                made: meta.last_modified.into(),
            })
            .map_err(|e| failed(&e))
            .boxed()
    }

    /// An address where anybody reads an object for a while.
    pub async fn signed(&self, name: &str) -> Result<Url> {
        let key = self.key(name);
        let signing = self.requests.signed_url(http::Method::GET, &key, SIGNED);
        signing.await.map_err(|e| failed(&e))
    }

    /// Puts content of local files, in pieces where it is large. What a crash leaves of it is told in `notes`.
    pub async fn put(
        self: &Arc<Self>,
        name: String,
        content: Vec<Segment>,
        notes: &Path,
    ) -> Result<()> {
        upload::put(Arc::clone(self), name, content, notes.to_owned()).await
    }

    /// Gives up what a crash left half put.
    pub async fn forget_halves(&self, notes: &Path) -> Result<()> {
        upload::forget(self, notes).await
    }

    /// Gives up what anybody began to put in pieces into one of these folders so long ago. Returns how many.
    pub async fn give_up_old(&self, folders: &[&str], age: Duration) -> Result<usize> {
        abandoned::give_up(self, folders, age).await
    }

    fn key(&self, name: &str) -> Key {
        match &*self.prefix {
            "" => Key::from(name),
            prefix => Key::from(format!("{prefix}/{name}")),
        }
    }
}
