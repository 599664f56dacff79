//! What the builder streams, into files and folders of the caller's.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use slipway_proto::builder::v1::OutputChunk;
use slipway_service::chunks::ChunkReader;
use tokio::{sync::mpsc, task::JoinHandle};

use super::output::Place;
use crate::{
    copy::unpack,
    failure::{Failure, Outcome},
};

/// Chunks that wait for a disk.
const CHUNKS: usize = 8;

/// Outputs that are on their way.
pub struct Receiver {
    places: HashMap<u32, Place>,
    writing: HashMap<u32, Writing>,
}

struct Writing {
    chunks: Option<mpsc::Sender<Bytes>>,
    work: JoinHandle<io::Result<()>>,
    /// The builder said that nothing is missing. A build that fails just sends no more.
    complete: Arc<AtomicBool>,
    shown: String,
}

impl Receiver {
    pub fn new(places: &[Option<Place>]) -> Self {
        let places = (0..)
            .zip(places)
            .filter_map(|(n, place)| Some((n, place.clone()?)));
        Self {
            places: places.collect(),
            writing: HashMap::new(),
        }
    }

    /// Takes a piece.
    pub async fn take(&mut self, chunk: OutputChunk) -> Outcome<()> {
        let n = chunk.output;
        if !self.writing.contains_key(&n) {
            let Some(place) = self.places.get(&n).cloned() else {
                return Err(Failure::new(
                    "the builder sent an output that was not asked for",
                ));
            };
            self.writing.insert(n, Writing::start(place));
        }
        let Some(writing) = self.writing.get_mut(&n) else {
            return Ok(());
        };
        let sent = match &writing.chunks {
            Some(chunks) if !chunk.data.is_empty() => chunks.send(chunk.data).await.is_ok(),
            _ => true,
        };
        if chunk.last || !sent {
            // A writer that ended early says why.
            if let Some(writing) = self.writing.remove(&n) {
                writing.end().await?;
            }
        }
        Ok(())
    }
}

impl Writing {
    fn start(place: Place) -> Self {
        let (send, receive) = mpsc::channel(CHUNKS);
        let shown = match &place {
            Place::File(path) | Place::Folder(path) => path.display().to_string(),
            Place::Stdout => "standard output".to_owned(),
        };
        let complete = Arc::new(AtomicBool::new(false));
        let done = complete.clone();
        let work = tokio::task::spawn_blocking(move || {
            write(&place, ChunkReader::new(receive), || {
                done.load(Ordering::Acquire)
            })
        });
        Self {
            chunks: Some(send),
            work,
            complete,
            shown,
        }
    }

    async fn end(mut self) -> Outcome<()> {
        self.complete.store(true, Ordering::Release);
        self.chunks = None;
        let done = self.work.await.map_err(io::Error::other).and_then(|r| r);
        done.map_err(|e| Failure::new(format!("cannot write {}: {e}", self.shown)))
    }
}

fn write(
    place: &Place,
    mut stream: ChunkReader,
    is_complete: impl FnOnce() -> bool,
) -> io::Result<()> {
    match place {
        Place::Stdout => {
            let mut out = io::stdout().lock();
            io::copy(&mut stream, &mut out)?;
            out.flush()
        }
        Place::Folder(path) => {
            fs::create_dir_all(path)?;
            let options = unpack::Options {
                whole: true,
                attributes: true,
                ..unpack::Options::default()
            };
            let path = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
            unpack::unpack(path, &options, &mut stream).map(drop)
        }
        Place::File(path) => {
            if !fs::symlink_metadata(path).map_or(true, |m| m.is_file()) {
                // A device or a pipe is written to as it is.
                return io::copy(&mut stream, &mut File::create(path)?).map(drop);
            }
            let partial = Partial(beside(path));
            let mut file = File::create_new(&partial.0)?;
            io::copy(&mut stream, &mut file)?;
            // Half of an archive must not take the place of the last one that was whole.
            if !is_complete() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            fs::rename(&partial.0, path)
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// A file that is not complete; gone when it does not become so.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is none.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_whole_file_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        fs::write(&path, "old").unwrap();
        let chunk = |data: &'static str, last| OutputChunk {
            output: 0,
            data: data.into(),
            last,
        };
        let places = [Some(Place::File(path.clone()))];
        let mut receiver = Receiver::new(&places);
        receiver.take(chunk("half", false)).await.unwrap();
        // The build failed.
        let mut writing = receiver.writing.remove(&0).unwrap();
        writing.chunks = None;
        assert!((&mut writing.work).await.unwrap().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut receiver = Receiver::new(&places);
        receiver.take(chunk("ne", false)).await.unwrap();
        receiver.take(chunk("w", true)).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
