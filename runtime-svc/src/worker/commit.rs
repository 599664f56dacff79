//! A snapshot becomes a layer: packed, sent to registry-svc, and kept unpacked.

use std::{fs, io};

use slipway_image::layer::pack::{self, LayerWriter, Options, Packed};
use slipway_proto::registry::v1::{WriteBlobRequest, write_blob_request};
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
        let _turn = snapshot.busy.lock().await;
        let (send, receive) = mpsc::channel(CHUNKS);
        let upper = snapshot.folder.join("upper");
        let packing = tokio::task::spawn_blocking(move || -> io::Result<Packed> {
            let writer = ChunkWriter {
                send,
                chunk: Vec::with_capacity(slipway_service::CHUNK_SIZE),
            };
            let mut layer = LayerWriter::new(writer, level);
            let folder = fs::File::open(&upper)?;
            pack::pack_folder(&mut layer, &folder, Options { latest })?;
            let (mut writer, packed) = layer.finish()?;
            writer.send_rest()?;
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
        drop(_turn);
        self.forget(id);
        if packed.entries == 0 {
            self.release_folder(&snapshot.folder).await;
            return Ok(Committed { packed: None });
        }
        let kept = self.manager.layers().adopt(&packed, &snapshot.folder).await;
        self.release_folder(&snapshot.folder).await;
        kept?;
        Ok(Committed {
            packed: Some(packed),
        })
    }

    async fn release_folder(&self, folder: &std::path::Path) {
        let folder = folder.to_owned();
        // What cannot be removed now is removed at the next start.
        let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(folder)).await;
    }
}

/// A blocking writer into a channel.
struct ChunkWriter {
    send: mpsc::Sender<WriteBlobRequest>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    fn send_rest(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(
            &mut self.chunk,
            Vec::with_capacity(slipway_service::CHUNK_SIZE),
        );
        let part = write_blob_request::Part::Data(data.into());
        self.send
            .blocking_send(WriteBlobRequest { part: Some(part) })
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "registry-svc takes no more"))
    }
}

impl io::Write for ChunkWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = slipway_service::CHUNK_SIZE - self.chunk.len();
        let n = room.min(buffer.len());
        self.chunk.extend_from_slice(&buffer[..n]);
        if self.chunk.len() == slipway_service::CHUNK_SIZE {
            self.send_rest()?;
        }
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
