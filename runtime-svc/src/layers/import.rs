//! A layer that a builder made and has: its plain archive comes straight from there, and is believed because
//! its digest is that of the layer.

use std::{fs, io, sync::Arc};

use slipway_image::{Digest, layer::unpack};
use slipway_service::chunks::ChunkReader;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
};

use super::{Layers, Note, fetch::Temporary, settle};
use crate::error::{Error, Tried as _};

/// An archive that is being unpacked.
pub struct Import {
    layers: Layers,
    temporary: Arc<Temporary>,
    unpacking: JoinHandle<Result<unpack::Unpacked, unpack::UnpackError>>,
    _slot: OwnedSemaphorePermit,
}

impl Layers {
    /// Begins to unpack what comes. When the answer is dropped, nothing of it stays. There are not endlessly many
    /// at once, and nobody waits for his turn: what is not taken is fetched.
    pub fn import(&self, chunks: mpsc::Receiver<bytes::Bytes>) -> Result<Import, Error> {
        let slot = self.imports.clone().try_acquire_owned().map_err(|_| {
            Error::LeaseLimit("as many layers are being imported as may be at once".to_owned())
        })?;
        let temporary = Arc::new(Temporary(
            self.folder.join(format!("tmp-{}", crate::ids::new_id())),
        ));
        let (limits, here) = (self.limits, temporary.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            let root = here.0.join("fs");
            fs::create_dir_all(&root)?;
            let folder = fs::File::open(&root)?;
            fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            unpack::unpack_layer(ChunkReader::new(chunks), &folder, limits)
        });
        Ok(Import {
            layers: self.clone(),
            temporary,
            unpacking,
            _slot: slot,
        })
    }
}

impl Import {
    /// Keeps it as this layer, which it must be. Without a digest it only tells why it failed.
    pub async fn keep(self, diff_id: Option<&Digest>) -> Result<(), Error> {
        let temporary = self.temporary.clone();
        let kept = self.take(diff_id).await;
        // What is left of it goes where waiting for the disk disturbs nobody.
        tokio::task::spawn_blocking(move || drop(temporary));
        kept
    }

    async fn take(self, diff_id: Option<&Digest>) -> Result<(), Error> {
        let unpacked = self.unpacking.await.map_err(io::Error::other);
        let unpacked = unpacked.tried(|| "unpacking was interrupted".to_owned())?;
        let refuse = |why: String| Error::Layer {
            digest: diff_id.map(Digest::to_string).unwrap_or_default(),
            why,
        };
        let unpacked = unpacked.map_err(|e| refuse(e.to_string()))?;
        let Some(diff_id) = diff_id else {
            return Err(refuse("more came than belongs to it".to_owned()));
        };
        // Also of what was compressed: that is another digest.
        if unpacked.digest != *diff_id || unpacked.diff_id != *diff_id {
            return Err(refuse(format!(
                "what came has the digest {}",
                unpacked.digest
            )));
        }
        let target = self.layers.folder.join(diff_id.encoded());
        let note = Note {
            size: unpacked.size,
            entries: unpacked.entries,
            built: true,
            unsynced: None,
        };
        let (keeper, temporary) = (self.layers.keeper.clone(), self.temporary);
        tokio::task::spawn_blocking(move || {
            if target.exists() {
                return Ok(());
            }
            settle::note(&temporary.0, &unpacked.implicit_folders)?;
            keeper.keep(note, &temporary.0, &target)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot keep layer {}", diff_id.short()))
    }
}
