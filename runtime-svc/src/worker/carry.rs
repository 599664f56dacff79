//! Cache mounts on their way: one becomes a layer in registry-svc, or begins as one from there.
//!
//! What comes may be anybody's: it is applied confined to the new cache's folder, and within the room that all
//! cache mounts may take.

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use slipway_image::layer::{
    compression::decompress,
    pack::{self, Live, Packed},
};
use slipway_service::chunks::ChunkReader;
use tokio::sync::mpsc;

use super::{
    Owner, Target, Wanted, Worker,
    mounts::{open_folder, own},
};
use crate::{
    error::{Error, Tried as _},
    registry::Layer,
};

/// Chunks that wait.
const CHUNKS: usize = 8;
/// gzip's, quick: what is in caches is packed already, mostly.
const LEVEL: u32 = 1;

impl Worker {
    /// Makes a cache mount a layer in `repository`. Steps may go on with it: what goes meanwhile is left out.
    pub async fn export_cache(&self, name: &str, repository: &str) -> Result<Packed, Error> {
        let cache = self.caches.borrow(name).ok_or_else(|| {
            Error::Conflict(format!("there is no cache mount {name}: it was removed"))
        })?;
        let folder = cache.folder.clone();
        let packed = self.send(repository, LEVEL, move |layer| {
            let folder = open_folder(&folder)?;
            pack::pack_live_tree(layer, &folder, Live::default())
        });
        let packed = packed.await;
        slipway_fault::point("runtime.carry.sent");
        drop(cache);
        packed
    }

    /// Makes a cache mount of what a layer holds, unless there is one with something in it, or in any case to
    /// `replace` that. Its bytes; none where nothing was done.
    pub async fn import_cache(
        &self,
        wanted: &Wanted,
        layer: &Layer,
        owner: Owner,
        replace: bool,
    ) -> Result<Option<u64>, Error> {
        if !replace && self.caches.has(wanted) {
            return Ok(None);
        }
        let bytes = Arc::new(AtomicU64::new(0));
        let (counted, limit) = (bytes.clone(), self.caches.limit());
        let all = Arc::new(AtomicBool::new(false));
        let arrived = all.clone();
        let (send, receive) = mpsc::channel(CHUNKS);
        let fill = move |folder: &Path| {
            let what = || "cannot fill a cache mount".to_owned();
            let into = open_folder(folder).tried(what)?;
            let stream = decompress(ChunkReader::new(receive)).tried(what)?;
            let stream = Within {
                stream,
                left: limit,
            };
            let place = Target {
                path: "/".to_owned(),
                ..Target::default()
            };
            let applied = super::apply(&into, &place, stream)?;
            // A transfer that broke off ends like one that is over.
            if !arrived.load(Ordering::Acquire) {
                let sentence = "the files of a cache mount did not all arrive";
                return Err(Error::Invalid(sentence.to_owned()));
            }
            counted.store(applied.bytes, Ordering::Relaxed);
            own(&into, owner).tried(what)
        };
        let reading = async {
            let read = self.registry.read_blob(layer, &mut 0, &send).await;
            all.store(read.is_ok(), Ordering::Release);
            drop(send);
            read
        };
        slipway_fault::point("runtime.uncarry.begun");
        let (read, made) = tokio::join!(reading, self.caches.import(wanted, fill));
        // A reader that failed cut the stream off: its error is the cause.
        read.and(made)?;
        Ok(Some(bytes.load(Ordering::Relaxed)))
    }
}

/// A stream that may not be longer.
struct Within<R> {
    stream: R,
    left: u64,
}

impl<R: Read> Read for Within<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other("it is more than cache_mounts_max_bytes of runtime.toml allows")
        })?;
        Ok(read)
    }
}
