//! A snapshot becomes a layer: packed, sent to registry-svc, and kept unpacked.

use std::{
    fs,
    io::{self, Write as _},
};

use slipway_image::layer::pack::{self, LayerWriter, Options, Packed};
use slipway_service::chunks::ChunkWriter;
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
    /// form. The snapshot is gone afterwards.
    pub async fn commit(
        &self,
        id: &str,
        repository: &str,
        level: u32,
        latest: Option<i64>,
    ) -> Result<Committed, Error> {
        let snapshot = self.find(id)?;
        let turn = snapshot.busy.clone().lock_owned().await;
        let (send, receive) = mpsc::channel(CHUNKS);
        let upper = snapshot.folder.join("upper");
        let packing = tokio::task::spawn_blocking(move || -> io::Result<Packed> {
            let mut layer = LayerWriter::new(ChunkWriter::new(send), level);
            let folder = fs::File::open(&upper)?;
            pack::pack_folder(&mut layer, &folder, Options { latest })?;
            let (mut writer, packed) = layer.finish()?;
            writer.flush()?;
            Ok(packed)
        });
        let stored = self.registry.write_blob(repository, receive).await;
        let packed = packing.await.map_err(io::Error::other).and_then(|r| r);
        // When the registry refused, the packer's own error only says that nobody took its bytes.
        let stored = stored?;
        let packed = packed.tried(|| "cannot pack a layer".to_owned())?;
        if stored != packed.digest.to_string() {
            return Err(Error::Layer {
                digest: packed.digest.to_string(),
                why: format!("registry-svc stored {stored}"),
            });
        }
        if self.forget(id).is_none() {
            return Err(Error::Conflict(format!(
                "the lease of snapshot {id} has lapsed"
            )));
        }
        // From here on nobody else finds it. In a task of its own, since a call that ends in the middle
        // would leave the folder behind.
        let layers = self.manager.layers().clone();
        let folder = snapshot.folder.clone();
        let finishing = tokio::spawn(async move {
            let kept = match packed.entries {
                0 => Ok(()),
                _ => layers.adopt(&packed, &folder).await,
            };
            // What cannot be removed now is removed at the next start.
            let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(folder)).await;
            drop(turn);
            kept.map(|()| Some(packed).filter(|p| p.entries > 0))
        });
        let packed = finishing
            .await
            .map_err(io::Error::other)
            .tried(|| "committing was interrupted".to_owned())??;
        Ok(Committed { packed })
    }
}
