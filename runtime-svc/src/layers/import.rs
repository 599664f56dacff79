//! A layer that a builder made and has: its plain archive comes straight from there, and is believed because
//! its digest is that of the layer.

use std::{fs, io, sync::Arc};

use slipway_image::{Digest, layer::unpack};
use slipway_service::chunks::ChunkReader;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Layers, Note, fetch::Temporary, settle};
use crate::error::{Error, Tried as _};

/// An archive that is being unpacked.
pub struct Import {
    layers: Layers,
    temporary: Arc<Temporary>,
    unpacking: JoinHandle<Result<unpack::Unpacked, unpack::UnpackError>>,
}

impl Layers {
    /// Begins to unpack what comes. When the answer is dropped, nothing of it stays.
    pub fn import(&self, chunks: mpsc::Receiver<bytes::Bytes>) -> Import {
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
        Import {
            layers: self.clone(),
            temporary,
            unpacking,
        }
    }
}

impl Import {
    /// Keeps it as this layer, which it must be.
    pub async fn keep(self, diff_id: &Digest) -> Result<(), Error> {
        let unpacked = self.unpacking.await.map_err(io::Error::other);
        let unpacked = unpacked.tried(|| "unpacking was interrupted".to_owned())?;
        let refuse = |why: String| Error::Layer {
            digest: diff_id.to_string(),
            why,
        };
        let unpacked = unpacked.map_err(|e| refuse(e.to_string()))?;
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
