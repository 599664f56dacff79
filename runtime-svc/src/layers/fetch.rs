//! A layer on its way here: read from registry-svc and unpacked while it arrives.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use slipway_image::layer::unpack;
use slipway_service::chunks::ChunkReader;
use tokio::sync::mpsc;
use tracing::info;

use super::{Layers, Note, settle};
use crate::{
    disk::remove_tree,
    error::{Error, Tried as _},
    registry::Layer,
};

/// Chunks that wait for the unpacker, of 256 KiB at most each.
const CHUNKS: usize = 16;
/// How often a transfer is taken up again that does not get on: five seconds, time enough for a service to
/// be started again.
const ATTEMPTS: u32 = 6;

/// A folder that goes when nobody works in it any more, unless it was given another name: also when the
/// transfer was dropped half way.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed is the good end; what cannot be removed now is removed at the next start.
        let _ = remove_tree(&self.0);
    }
}

impl Layers {
    pub(super) async fn fetch(&self, layer: &Layer) -> Result<(), Error> {
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
        let temporary = Arc::new(Temporary(
            self.folder.join(format!("tmp-{}", crate::ids::new_id())),
        ));
        let (send, receive) = mpsc::channel(CHUNKS);
        let unpacking = {
            let (temporary, limits) = (temporary.clone(), self.limits);
            tokio::task::spawn_blocking(move || {
                let root = temporary.0.join("fs");
                fs::create_dir_all(&root)?;
                slipway_fault::point("runtime.fetch.begun");
                let folder = fs::File::open(&root)?;
                // Whatever the archive says of the root, others must be able to enter it.
                fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
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
            (Ok(()), Ok(unpacked)) => self.accept(layer, &unpacked, temporary.clone()).await,
        };
        // What is left of it goes where waiting for the disk disturbs nobody.
        tokio::task::spawn_blocking(move || drop(temporary));
        if result.is_ok() {
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
        let (mut offset, mut failures) = (0, 0);
        while offset < layer.size {
            let before = offset;
            let read = self.registry.read_blob(layer, &mut offset, chunks).await;
            if chunks.is_closed() {
                // The unpacker has refused it and says why.
                return Ok(());
            }
            if offset > before {
                failures = 0;
            }
            match read {
                // It is not as long as the manifest says: its digest tells.
                Ok(()) if offset == before => break,
                Ok(()) => {}
                Err(error) if failures + 1 == ATTEMPTS || !error.may_pass() => return Err(error),
                Err(error) => {
                    info!(layer = %layer.diff_id.short(), offset, %error, "transfer broke off: going on");
                    let wait = std::time::Duration::from_millis(200 << failures.min(3));
                    tokio::time::sleep(wait).await;
                    failures += 1;
                }
            }
        }
        Ok(())
    }

    async fn accept(
        &self,
        layer: &Layer,
        unpacked: &unpack::Unpacked,
        temporary: Arc<Temporary>,
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
        slipway_fault::point("runtime.fetch.checked");
        let target = self.folder.join(layer.diff_id.encoded());
        let note = Note {
            size: unpacked.size,
            entries: unpacked.entries,
            built: false,
            unsynced: None,
        };
        let keeper = self.keeper.clone();
        let implicit = unpacked.implicit_folders.clone();
        tokio::task::spawn_blocking(move || {
            settle::note(&temporary.0, &implicit)?;
            slipway_fault::fallible("runtime.fetch.noted")?;
            keeper.keep(note, &temporary.0, &target)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot keep layer {}", layer.diff_id.short()))
    }
}
