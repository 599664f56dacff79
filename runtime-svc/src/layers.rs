//! Unpacked layers: read-only, one folder each, named by diff id, shared by all containers.
//!
//! A layer is unpacked under a temporary name, synced, and renamed: a folder under its own name is
//! whole, also after a power loss. They are a cache: what is missing is fetched again.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use slipway_image::{
    Digest,
    layer::{pack::Packed, unpack},
};
use tokio::sync::{Semaphore, mpsc};
use tracing::info;

use crate::{
    error::{Error, Tried as _},
    registry::{Layer, Registry},
};

/// Layers that are unpacked at once.
const AT_ONCE: usize = 3;
/// Chunks that wait for the unpacker, of 256 KiB at most each.
const CHUNKS: usize = 16;
/// How often a broken transfer is taken up again.
const ATTEMPTS: u32 = 5;

/// The layers of this host.
#[derive(Clone)]
pub struct Layers {
    folder: PathBuf,
    registry: Registry,
    /// One unpacking a layer, however many want it.
    flights: Arc<Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
    slots: Arc<Semaphore>,
}

impl Layers {
    /// Opens the folder; what an earlier instance left half done is removed.
    pub fn open(folder: PathBuf, registry: Registry) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("tmp-") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self {
            folder,
            registry,
            flights: Arc::default(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// The folder of an unpacked layer.
    pub fn path_of(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join(diff_id.encoded()).join("fs")
    }

    /// Makes all layers present; returns their folders, top first as overlayfs wants them.
    pub async fn ensure(&self, layers: &[Layer]) -> Result<Vec<PathBuf>, Error> {
        let mut tasks = tokio::task::JoinSet::new();
        for layer in layers {
            if !self.path_of(&layer.diff_id).exists() {
                let (this, layer) = (self.clone(), layer.clone());
                tasks.spawn(async move { this.fetch(&layer).await });
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|e| Error::Invalid(format!("unpacking was interrupted: {e}")))??;
        }
        let mut folders: Vec<PathBuf> = layers
            .iter()
            .rev()
            .map(|l| self.path_of(&l.diff_id))
            .collect();
        folders.dedup();
        Ok(folders)
    }

    async fn fetch(&self, layer: &Layer) -> Result<(), Error> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.entry(layer.diff_id.clone()).or_default().clone()
        };
        let landed = {
            let _turn = flight.lock().await;
            if self.path_of(&layer.diff_id).exists() {
                return Ok(());
            }
            // The semaphore is never closed.
            let _slot = self.slots.acquire().await.ok();
            self.unpack(layer).await
        };
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&layer.diff_id);
        landed
    }

    async fn unpack(&self, layer: &Layer) -> Result<(), Error> {
        let begun = std::time::Instant::now();
        let temporary = self.folder.join(format!("tmp-{}", crate::ids::new_id()));
        let (send, receive) = mpsc::channel(CHUNKS);
        let unpacking = {
            let (temporary, limits) = (temporary.clone(), unpack::Limits::default());
            tokio::task::spawn_blocking(move || {
                fs::create_dir_all(temporary.join("fs"))?;
                let folder = fs::File::open(temporary.join("fs"))?;
                // Whatever the archive says of the root, others must be able to enter it.
                fs::set_permissions(
                    temporary.join("fs"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                )?;
                unpack::unpack_layer(ChunkReader::new(receive), &folder, limits)
                    .map_err(io::Error::other)
            })
        };
        let fetched = self.send_blob(layer, &send).await;
        drop(send);
        let unpacked = unpacking.await.map_err(io::Error::other).and_then(|r| r);
        let result = match (fetched, unpacked) {
            (Err(error), _) => Err(error),
            (Ok(()), Err(error)) => Err(Error::Layer {
                digest: layer.digest.to_string(),
                why: error.to_string(),
            }),
            (Ok(()), Ok(unpacked)) => self.accept(layer, &unpacked, &temporary).await,
        };
        if result.is_err() {
            // Tried again at the next start if it fails now.
            let _ = fs::remove_dir_all(&temporary);
        } else {
            info!(layer = %layer.diff_id.short(), bytes = layer.size, took = ?begun.elapsed(), "unpacked");
        }
        result
    }

    /// Reads a blob; a broken transfer goes on where it stopped.
    async fn send_blob(
        &self,
        layer: &Layer,
        chunks: &mpsc::Sender<bytes::Bytes>,
    ) -> Result<(), Error> {
        let mut offset = 0;
        let mut attempt = 1;
        let mut wait = std::time::Duration::from_millis(200);
        while offset < layer.size {
            match self.registry.read_blob(layer, offset, chunks).await {
                Ok(0) => break,
                Ok(read) => offset += read,
                Err(error) if attempt == ATTEMPTS || chunks.is_closed() => return Err(error),
                Err(_) => {
                    attempt += 1;
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
            if chunks.is_closed() {
                // The unpacker has refused it and says why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Keeps a committed snapshot's upper folder as the unpacked form of its layer.
    pub async fn adopt(&self, packed: &Packed, snapshot: &Path) -> Result<(), Error> {
        let target = self.folder.join(packed.diff_id.encoded());
        let (temporary, upper) = (
            self.folder.join(format!("tmp-{}", crate::ids::new_id())),
            snapshot.join("upper"),
        );
        let sizes = format!(
            "{{\"size\":{},\"entries\":{}}}",
            packed.size, packed.entries
        );
        tokio::task::spawn_blocking(move || {
            if target.exists() {
                return Ok(());
            }
            fs::create_dir(&temporary)?;
            fs::rename(upper, temporary.join("fs"))?;
            fs::write(temporary.join("layer.json"), sizes)?;
            let folder = fs::File::open(&temporary)?;
            rustix::fs::syncfs(&folder)?;
            match fs::rename(&temporary, &target) {
                // Another build made the same layer meanwhile.
                Err(_) if target.exists() => fs::remove_dir_all(&temporary),
                other => other,
            }
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot keep layer {}", packed.diff_id.short()))
    }

    async fn accept(
        &self,
        layer: &Layer,
        unpacked: &unpack::Unpacked,
        temporary: &Path,
    ) -> Result<(), Error> {
        let refuse = |why: String| {
            Err(Error::Layer {
                digest: layer.digest.to_string(),
                why,
            })
        };
        if unpacked.digest != layer.digest {
            return refuse(format!("its content has the digest {}", unpacked.digest));
        }
        if unpacked.diff_id != layer.diff_id {
            return refuse(format!(
                "it unpacks to {} instead of {}",
                unpacked.diff_id, layer.diff_id
            ));
        }
        let (temporary, target) = (
            temporary.to_owned(),
            self.folder.join(layer.diff_id.encoded()),
        );
        let sizes = format!(
            "{{\"size\":{},\"entries\":{}}}",
            unpacked.size, unpacked.entries
        );
        tokio::task::spawn_blocking(move || {
            fs::write(temporary.join("layer.json"), sizes)?;
            let folder = fs::File::open(&temporary)?;
            rustix::fs::syncfs(&folder)?;
            fs::rename(&temporary, &target)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot keep layer {}", layer.diff_id.short()))
    }
}

/// Chunks of a channel as a blocking reader.
pub struct ChunkReader {
    receive: mpsc::Receiver<bytes::Bytes>,
    chunk: bytes::Bytes,
}

impl ChunkReader {
    /// From a channel; its end is the end of the stream.
    pub const fn new(receive: mpsc::Receiver<bytes::Bytes>) -> Self {
        Self {
            receive,
            chunk: bytes::Bytes::new(),
        }
    }
}

impl io::Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receive.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let n = self.chunk.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
