//! A layer that a builder made and has: its plain archive comes straight from there, and is believed because
//! its digest is that of the layer.
//!
//! A large file that another layer here has already need not come: the builder names it, and it is read from there
//! into the archive. It is written again, not given another name: a file of several names shows in a container,
//! and gzip, xz and others pass over those.

use std::{fs, io, sync::Arc};

use slipway_image::{Digest, layer::unpack};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
};

use super::{
    Layers, Note,
    fetch::Temporary,
    pieces::{Piece, PieceReader, Wanted},
    settle,
};
use crate::error::{Error, Tried as _};

/// An archive that is being unpacked.
pub struct Import {
    layers: Layers,
    place: Arc<Place>,
    unpacking: JoinHandle<Result<unpack::Unpacked, unpack::UnpackError>>,
    /// Ends the reading of files with it.
    _wanted: Wanted,
}

/// Where it is unpacked. The slot is free when the folder is gone and no thread works on it any more, whoever
/// waits for that.
struct Place {
    temporary: Temporary,
    _slot: OwnedSemaphorePermit,
    _while_there: Box<dyn Send + Sync>,
}

impl Layers {
    /// Begins to unpack what comes. When the answer is dropped, nothing of it stays. There are not endlessly many
    /// at once, and nobody waits for his turn: what is not taken is fetched. `while_there` is dropped when nothing
    /// of it takes room any more that is no layer.
    pub fn import(
        &self,
        pieces: mpsc::Receiver<Piece>,
        while_there: impl Send + Sync + 'static,
    ) -> Result<Import, Error> {
        let slot = self.imports.clone().try_acquire_owned().map_err(|_| {
            Error::LeaseLimit("as many layers are being imported as may be at once".to_owned())
        })?;
        let folder = self.folder.join(format!("tmp-{}", crate::ids::new_id()));
        let place = Arc::new(Place {
            temporary: Temporary(folder),
            _slot: slot,
            _while_there: Box::new(while_there),
        });
        let (limits, here, wanted) = (self.limits, place.clone(), Wanted::default());
        let archive = PieceReader::new(self.clone(), pieces, &wanted);
        let unpacking = tokio::task::spawn_blocking(move || {
            let root = here.temporary.0.join("fs");
            fs::create_dir_all(&root)?;
            slipway_fault::point("runtime.import.begun");
            let folder = fs::File::open(&root)?;
            fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            unpack::unpack_plain_layer(archive, &folder, limits)
        });
        Ok(Import {
            layers: self.clone(),
            place,
            unpacking,
            _wanted: wanted,
        })
    }
}

impl Import {
    /// Keeps it as this layer, which it must be. Without a digest it only tells why it failed.
    pub async fn keep(self, diff_id: Option<&Digest>) -> Result<(), Error> {
        let place = self.place.clone();
        let kept = self.take(diff_id).await;
        // What is left of it goes where waiting for the disk disturbs nobody.
        tokio::task::spawn_blocking(move || drop(place));
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
        if unpacked.diff_id != *diff_id {
            return Err(refuse(format!(
                "what came has the digest {}",
                unpacked.diff_id
            )));
        }
        slipway_fault::point("runtime.import.checked");
        let target = self.layers.folder.join(diff_id.encoded());
        let note = Note {
            size: unpacked.size,
            entries: unpacked.entries,
            built: true,
            unsynced: None,
        };
        let (keeper, place) = (self.layers.keeper.clone(), self.place);
        let kept = tokio::task::spawn_blocking(move || {
            if target.exists() {
                return Ok(());
            }
            let temporary = &place.temporary.0;
            settle::note(temporary, &unpacked.implicit_folders)?;
            slipway_fault::fallible("runtime.import.noted")?;
            keeper.keep(note, temporary, &target)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot keep layer {}", diff_id.short()));
        self.layers.arrived.notify_one();
        kept
    }
}
