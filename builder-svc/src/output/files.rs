//! The files of a result, streamed as tar: the worker reads them, nothing is unpacked here.

use std::io::{self, Write as _};

use slipway_image::layer::{
    Kind,
    pack::{Plain, Sink as _},
    tar_read::TarReader,
};
use slipway_service::chunks::{ChunkReader, ChunkWriter};
use tokio::sync::mpsc;

use super::{CHUNKS, Exporter, archive::tell};
use crate::error::{Error, Result};

impl Exporter<'_> {
    /// Streams the root filesystems as output `number`: one platform's as it is, those of several in a
    /// folder each (`linux_amd64`), as BuildKit does.
    pub(super) async fn files(&self, number: u32) -> Result<()> {
        let (send, receive) = mpsc::channel(CHUNKS);
        // Each platform's stream, in turn, with the folder that it goes to.
        let (hand, mut take) = mpsc::channel::<(String, ChunkReader)>(1);
        let latest = self.latest;
        let writing = tokio::task::spawn_blocking(move || {
            let mut out = Plain::new(ChunkWriter::new(send));
            while let Some((folder, stream)) = take.blocking_recv() {
                copy(&mut out, &folder, latest, stream)?;
            }
            out.finish()?.flush()
        });
        let reading = async {
            for made in self.results {
                let folder = match self.results.len() {
                    1 => String::new(),
                    _ => made.platform.to_string().replace('/', "_") + "/",
                };
                if made.built.layers.is_empty() {
                    continue;
                }
                let snapshot = made
                    .solver
                    .lease()
                    .await?
                    .prepare(&made.built.layers)
                    .await?;
                let (chunks, stream) = mpsc::channel(CHUNKS);
                if hand.send((folder, ChunkReader::new(stream))).await.is_err() {
                    break;
                }
                snapshot.read("/", chunks).await?;
            }
            drop(hand);
            Ok(())
        };
        let (read, (), written) = tokio::join!(reading, tell(self, number, receive), writing);
        // A reader that failed cut the stream off: its error is the cause.
        read?;
        written
            .map_err(io::Error::other)
            .and_then(|r| r)
            .map_err(|e| Error::Invalid(format!("the files could not be written: {e}")))?;
        self.end(number).await;
        Ok(())
    }
}

/// Writes a stream's entries below a folder ("" = none), no time later than `latest`.
fn copy(
    out: &mut Plain<ChunkWriter>,
    folder: &str,
    latest: Option<i64>,
    stream: ChunkReader,
) -> io::Result<()> {
    let mut reader = TarReader::new(stream);
    while let Some(mut entry) = reader.next_entry().map_err(io::Error::other)? {
        let below = |path: &[u8]| {
            let path = path.strip_prefix(b"./").unwrap_or(path);
            let path = path.strip_prefix(b"/").unwrap_or(path);
            [folder.as_bytes(), path].concat()
        };
        // The root's own entry: a folder of the caller's keeps its own mode.
        if matches!(&entry.path[..], b"." | b"./" | b"" | b"/") {
            continue;
        }
        entry.path = below(&entry.path);
        if let Some(latest) = latest.filter(|l| entry.mtime.0 >= *l) {
            entry.mtime = (latest, 0);
        }
        if let Kind::HardLink(target) = &mut entry.kind {
            *target = below(target);
        }
        out.append(&entry, &mut Content(&mut reader))?;
    }
    Ok(())
}

/// The content of a reader's current entry.
struct Content<'a>(&'a mut TarReader<ChunkReader>);

impl io::Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(buffer).map_err(io::Error::other)
    }
}
