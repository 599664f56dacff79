//! A snapshot becomes a layer: packed, sent to registry-svc, and kept unpacked.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use slipway_image::{
    digest::DigestWriter,
    layer::pack::{self, LayerWriter, Options, Packed},
};
use slipway_service::{chunks::ChunkWriter, whole::Whole};
use tokio::sync::mpsc;

use super::Worker;
use crate::error::{Error, Tried as _};

/// A committed layer.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The layer; none when nothing changed.
    pub packed: Option<Packed>,
}

/// Chunks that wait for the registry.
const CHUNKS: usize = 8;

impl Worker {
    /// Packs what changed, stores it in `repository`, and keeps the snapshot as the layer's unpacked
    /// form. The snapshot is gone afterwards. One that is cut off stores nothing.
    pub async fn commit(
        &self,
        id: &str,
        repository: &str,
        level: u32,
        latest: Option<i64>,
    ) -> Result<Committed, Error> {
        let snapshot = self.find(id)?;
        let turn = snapshot.turn_to_change().await?;
        let upper = snapshot.folder.join("upper");
        let packed = snapshot.while_there(self.store(upper, repository, level, latest));
        let packed = packed.await?;
        slipway_fault::point("runtime.pack.stored");
        if self.leases.take(id).is_none() {
            return Err(Error::SnapshotEnded(id.to_owned()));
        }
        slipway_fault::point("runtime.pack.taken");
        // From here on nobody else finds it. In a task of its own, since a call that ends in the middle
        // would leave half of it.
        let layers = self.manager.layers().clone();
        let finishing = tokio::spawn(async move {
            let kept = match packed.entries {
                0 => Ok(()),
                _ => layers.adopt(&packed, &snapshot.folder).await,
            };
            drop(turn);
            kept.map(|()| Some(packed).filter(|p| p.entries > 0))
        });
        let packed = finishing
            .await
            .map_err(io::Error::other)
            .tried(|| "committing was interrupted".to_owned())??;
        Ok(Committed { packed })
    }

    /// Packs what changed in a folder into a blob of registry-svc.
    async fn store(
        &self,
        folder: PathBuf,
        repository: &str,
        level: u32,
        latest: Option<i64>,
    ) -> Result<Packed, Error> {
        let pack = move |layer: &mut LayerWriter<DigestWriter<ChunkWriter>>| {
            let folder = fs::File::open(&folder)?;
            pack::pack_folder(layer, &folder, Options { latest })
        };
        self.send(repository, level, pack).await
    }

    /// Sends a blob to registry-svc while it is packed.
    pub(super) async fn send<F>(
        &self,
        repository: &str,
        level: u32,
        pack: F,
    ) -> Result<Packed, Error>
    where
        F: FnOnce(&mut LayerWriter<DigestWriter<ChunkWriter>>) -> io::Result<()> + Send + 'static,
    {
        let (send, receive) = mpsc::channel(CHUNKS);
        let whole = Whole::default();
        let sent = whole.clone();
        let packing = tokio::task::spawn_blocking(move || -> io::Result<Packed> {
            let mut layer = LayerWriter::new(ChunkWriter::new(send), level);
            pack(&mut layer)?;
            let (mut writer, packed) = layer.finish()?;
            writer.flush()?;
            slipway_fault::point("runtime.send.packed");
            sent.tell();
            Ok(packed)
        });
        let stored = self.registry.write_blob(repository, receive, whole).await;
        let packed = packing.await.map_err(io::Error::other).and_then(|r| r);
        let (packed, stored) = match (packed, stored) {
            (Ok(packed), Ok(stored)) => (packed, stored),
            // The registry refused: that nobody took its bytes is all that the packer says.
            (Err(packed), Err(stored)) if packed.kind() == io::ErrorKind::BrokenPipe => {
                return Err(stored);
            }
            (Err(error), _) => return Err(error).tried(|| "cannot pack a layer".to_owned()),
            (Ok(_), Err(error)) => return Err(error),
        };
        if stored != packed.digest.to_string() {
            return Err(Error::Layer {
                digest: packed.digest.to_string(),
                why: format!("registry-svc stored {stored}"),
            });
        }
        Ok(packed)
    }
}
