//! `docker load`: the images of an archive, all of them or none.
//!
//! What comes is put into the store while it comes, blob by blob, where nobody sees it: no manifest names it, and no
//! repository has it. When the whole archive was read and found sound its manifests are stored. What is left of an
//! archive that is not sound, or was cut off, goes at once, and after a crash with the next sweep.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, Read},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use slipway_image::{
    Algorithm, Digest, Platform, Reference, archive as compressed, layer::limits::Limits,
    manifest::MAX_SIZE,
};
use tokio::{runtime::Handle, sync::mpsc};

use super::archive::{self, Shelf};
use crate::{
    blobs::{BlobStream, Range, Staged, staging::blocking},
    error::{Error, Result},
    images::pull::{Phase, Progress},
    leases::Guard,
    manifests::{Put, Require},
    names::{Pointer, Repository, Tag},
    registry::Registry,
    store::Origin,
};

/// Where an image without a name goes. It shows as `<none>`.
pub const UNNAMED: &str = "docker.io/library/untagged";
/// Bytes that are written at once.
const BATCH: usize = 512 * 1024;

/// How a load goes on.
pub enum LoadEvent {
    /// A blob came.
    Progress(Progress),
    /// An image is here: under this name or none, with this id.
    Loaded(Option<String>, Digest),
}

type Sink = mpsc::Sender<LoadEvent>;

impl Registry {
    /// Loads the images of an archive, in any compression that docker takes; of those of several platforms only
    /// the one that is wanted. `archive` fails when it ends before its end.
    pub async fn load(
        self: &Arc<Self>,
        archive: impl Read + Send + 'static,
        platform: Option<Platform>,
        events: Sink,
    ) -> Result<()> {
        let mut shelf = StoreShelf {
            registry: Arc::clone(self),
            runtime: Handle::current(),
            held: HashMap::new(),
            inflated: Inflated::default(),
            events: events.clone(),
        };
        let (planned, shelf) = blocking(move || {
            let planned = read(archive, &mut shelf, platform.as_ref());
            Ok((planned, shelf))
        })
        .await?;
        let came: HashSet<Digest> = shelf.held.keys().cloned().collect();
        let stored = match planned {
            Ok(images) => self.store_loaded(images, &came, &events).await,
            Err(e) => Err(e),
        };
        drop(shelf);
        // What no manifest names: lists, other platforms, everything when it failed.
        self.release(came.into_iter().collect()).await?;
        stored
    }

    /// Of what came, and of nothing else: an archive may name whatever is here.
    async fn store_loaded(
        &self,
        images: Vec<archive::Image>,
        came: &HashSet<Digest>,
        events: &Sink,
    ) -> Result<()> {
        // Names that are no good are found before the first image is here.
        let mut named = Vec::new();
        for image in images {
            let places = self.places(&image.names)?;
            named.push((image, places));
        }
        for (image, places) in named {
            for (repository, tags) in places {
                for child in &image.children {
                    let put = put(child, &repository, Vec::new(), Require::Site);
                    self.put_manifest(put).await?;
                }
                let require = match image.is_whole {
                    true => Require::Site,
                    false => Require::Only(came.clone()),
                };
                self.put_manifest(put(&image.top, &repository, tags, require))
                    .await?;
            }
            let id = image.id.to_string();
            // Who asked may be gone: what it sent is here all the same.
            for name in &image.names {
                let name = self.own.parse_image(&name.to_string())?.familiar();
                self.events.tell("load", &id, &name);
                let _ = events
                    .send(LoadEvent::Loaded(Some(name), image.id.clone()))
                    .await;
            }
            if image.names.is_empty() {
                self.events.tell("load", &id, "");
                let _ = events.send(LoadEvent::Loaded(None, image.id)).await;
            }
        }
        Ok(())
    }

    /// The repositories and tags of an image's names.
    fn places(&self, names: &[Reference]) -> Result<BTreeMap<Repository, Vec<Tag>>> {
        let mut places: BTreeMap<Repository, Vec<Tag>> = BTreeMap::new();
        for name in names {
            let name = self.own.parse_image(&name.to_string())?;
            if name.repository.is_internal() {
                return Err(Error::ArchiveInvalid(format!(
                    "{name} is a name of this site's own"
                )));
            }
            if let Pointer::Tag(tag) = name.pointer {
                places.entry(name.repository).or_default().push(tag);
            }
        }
        if places.is_empty() {
            places.insert(self.own.from_name(UNNAMED)?, Vec::new());
        }
        Ok(places)
    }
}

fn read(
    archive: impl Read,
    shelf: &mut StoreShelf,
    platform: Option<&Platform>,
) -> Result<Vec<archive::Image>> {
    let limits = Limits::default();
    let plain = compressed::plain(archive, limits)
        .map_err(|e| Error::ArchiveInvalid(format!("it cannot be read: {e}")))?;
    let listing = archive::read(plain, limits, shelf)?;
    archive::plan(&listing, shelf, platform)
}

fn put(
    planned: &archive::Planned,
    repository: &Repository,
    tags: Vec<Tag>,
    require: Require,
) -> Put {
    Put {
        repository: repository.clone(),
        tags,
        media_type: planned.media_type.clone(),
        content: planned.content.clone(),
        expected: Some(planned.digest.clone()),
        origin: Origin::Local,
        by_digest: false,
        require,
    }
}

/// The store, as an archive is put into it.
struct StoreShelf {
    registry: Arc<Registry>,
    runtime: Handle,
    /// What came, held until manifests name it.
    held: HashMap<Digest, Guard>,
    inflated: Inflated,
    events: Sink,
}

/// What all layers of one archive together took to be checked, in bytes: of one layer the same is looked at by itself.
#[derive(Default)]
struct Inflated {
    limits: Limits,
    plain: u64,
    compressed: u64,
}

impl Inflated {
    /// So many more plain bytes.
    fn add(&mut self, bytes: usize) -> Result<()> {
        self.plain += bytes as u64;
        match self.plain > self.limits.bytes || self.limits.is_bomb(self.plain, self.compressed) {
            true => Err(Error::ArchiveInvalid(
                "its layers together are too large to be true".to_owned(),
            )),
            false => Ok(()),
        }
    }
}

impl StoreShelf {
    /// Takes a blob in hand; whether it is here already, with this size.
    fn hold(&mut self, digest: &Digest, size: u64) -> Result<bool> {
        let registry = Arc::clone(&self.registry);
        let (guard, here) = self.runtime.block_on(async {
            let guard = registry.leases.hold(digest).await;
            (guard, registry.blobs.stat(digest).await)
        });
        self.held.entry(digest.clone()).or_insert(guard);
        Ok(here? == Some(size))
    }

    fn tell(&self, digest: &Digest, phase: Phase, current: u64, total: u64) {
        // Progress may be lost when the listener is slow.
        let _ = self.events.try_send(LoadEvent::Progress(Progress {
            digest: digest.clone(),
            phase,
            current,
            total,
        }));
    }

    /// Nobody needs what takes long any more.
    fn is_wanted(&self) -> Result<()> {
        match self.events.is_closed() {
            true => Err(Error::Interrupted("nobody waits for the load".to_owned())),
            false => Ok(()),
        }
    }

    fn open(&self, digest: &Digest, range: Range) -> Result<Blob> {
        let opened = self.registry.blobs.read(digest, range);
        let reader = self.runtime.block_on(opened)?;
        Ok(Blob {
            total: reader.total,
            stream: reader.stream,
            chunk: Bytes::new(),
            runtime: self.runtime.clone(),
        })
    }
}

impl Shelf for StoreShelf {
    fn put(
        &mut self,
        promised: Option<&Digest>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Digest> {
        if let Some(promised) = promised
            && self.hold(promised, size)?
        {
            let mut digester = promised.digester();
            copy(content, |piece| {
                digester.update(&piece);
                Ok(())
            })?;
            let actual = digester.finish();
            self.tell(promised, Phase::Exists, size, size);
            return match actual == *promised {
                true => Ok(actual),
                false => Err(Error::DigestMismatch {
                    expected: promised.clone(),
                    actual,
                }),
            };
        }
        let algorithm = promised.map_or(Algorithm::Sha256, Digest::algorithm);
        let runtime = self.runtime.clone();
        let staged = runtime.block_on(Staged::create(&self.registry.staging, algorithm))?;
        copy(content, |piece| {
            let written = runtime.block_on(staged.write(vec![piece]))?;
            if let Some(promised) = promised {
                self.tell(promised, Phase::Downloading, written, size);
            }
            Ok(())
        })?;
        let verified = runtime.block_on(staged.finish(promised, Some(size)))?;
        let digest = verified.digest().clone();
        if !self.hold(&digest, size)? {
            // First, so that the sweep knows of it whatever comes.
            self.registry.index.set_pending(&digest)?;
            let blobs = Arc::clone(&self.registry.blobs);
            runtime.block_on(async move { blobs.adopt(verified).await })?;
        }
        self.tell(&digest, Phase::Done, size, size);
        Ok(digest)
    }

    fn small(&mut self, digest: &Digest) -> Result<Bytes> {
        let reading = self.registry.blobs.read_small(digest, MAX_SIZE as u64);
        self.runtime.block_on(reading)
    }

    fn plain_digest(&mut self, layer: &Digest, like: &Digest) -> Result<Digest> {
        let broken = |e: io::Error| Error::ArchiveInvalid(format!("the layer {layer}: {e}"));
        let blob = self.open(layer, Range::default())?;
        self.inflated.compressed += blob.total;
        let mut plain = compressed::plain(blob, Limits::default()).map_err(broken)?;
        let mut digester = like.digester();
        let mut buffer = vec![0; BATCH];
        loop {
            self.is_wanted()?;
            let n = plain.read(&mut buffer).map_err(broken)?;
            if n == 0 {
                return Ok(digester.finish());
            }
            self.inflated.add(n)?;
            digester.update(&buffer[..n]);
        }
    }

    fn start(&mut self, digest: &Digest) -> Result<Bytes> {
        let range = Range {
            offset: 0,
            length: Some(6),
        };
        let mut start = Vec::new();
        self.open(digest, range)?
            .read_to_end(&mut start)
            .map_err(|e| Error::Interrupted(e.to_string()))?;
        Ok(start.into())
    }
}

/// Hands content on in pieces. What the archive says of a read that fails is told by the archive.
fn copy(content: &mut dyn Read, mut take: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
    loop {
        let mut piece = Vec::with_capacity(BATCH);
        content
            .take(BATCH as u64)
            .read_to_end(&mut piece)
            .map_err(|e| Error::ArchiveInvalid(e.to_string()))?;
        if piece.is_empty() {
            return Ok(());
        }
        take(piece.into())?;
    }
}

/// A blob, for readers that block.
struct Blob {
    total: u64,
    stream: BlobStream,
    chunk: Bytes,
    runtime: Handle,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(chunk) => self.chunk = chunk.map_err(io::Error::other)?,
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A layer, checked in an archive of at most so many plain bytes; then another one, and the first one again when
    /// nobody waits any more.
    #[tokio::test]
    async fn a_load_is_bounded_as_a_whole_and_ends_with_whoever_wants_it() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path(), Config::default())
            .await
            .unwrap();
        let (events, wanted) = mpsc::channel(16);
        let mut shelf = StoreShelf {
            registry,
            runtime: Handle::current(),
            held: HashMap::new(),
            inflated: Inflated {
                limits: Limits {
                    bytes: 1500,
                    ..Limits::default()
                },
                ..Inflated::default()
            },
            events,
        };
        let checking = blocking(move || {
            let mut check = |byte: u8| -> Result<()> {
                let content = [byte; 1000];
                let layer = shelf.put(None, 1000, &mut &content[..])?;
                assert_eq!(shelf.plain_digest(&layer, &layer)?, layer);
                Ok(())
            };
            check(1)?;
            let too_much = check(2).unwrap_err().to_string();
            assert!(too_much.contains("together are too large"), "{too_much}");
            shelf.inflated = Inflated::default();
            drop(wanted);
            let layer = Digest::of([1; 1000]);
            let gone = shelf.plain_digest(&layer, &layer).unwrap_err();
            assert!(matches!(gone, Error::Interrupted(_)), "{gone}");
            Ok(())
        });
        checking.await.unwrap();
    }

    #[test]
    fn many_layers_that_are_nothing_but_zeros_are_one_bomb() {
        let mut inflated = Inflated {
            compressed: 1 << 20,
            ..Inflated::default()
        };
        inflated.add(1 << 30).unwrap();
        inflated.add(200 << 20).unwrap();
        inflated.add(1).unwrap_err();
    }
}
