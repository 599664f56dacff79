//! An archive that comes in pieces, some of which are files of layers that are here already.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Take},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Buf as _, Bytes};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use slipway_image::Digest;
use tokio::sync::mpsc;

use super::Layers;

/// Bytes of a file that are read at once.
const AT_ONCE: usize = 256 * 1024;

/// What follows in the archive.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// The content of a file, all of it.
    Known {
        /// The layer that has it.
        layer: Digest,
        /// Where in it.
        path: String,
        /// Its bytes.
        size: u64,
    },
}

impl Piece {
    /// Bytes of the archive that it stands for.
    pub const fn size(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Known { size, .. } => *size,
        }
    }
}

/// Nobody wants what is read any more: set when this is dropped.
#[derive(Debug, Default)]
pub struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The pieces as one stream.
pub struct PieceReader {
    layers: Layers,
    receive: mpsc::Receiver<Piece>,
    /// Bytes of files that may still be read: they cost nobody a transfer.
    left: u64,
    unwanted: Arc<AtomicBool>,
    chunk: Bytes,
    /// The file that is being read, as far as it belongs to the archive.
    file: Option<BufReader<Take<File>>>,
}

impl PieceReader {
    /// From a channel, whose end is the end of the archive. It fails as soon as it is not `wanted`.
    pub fn new(layers: Layers, receive: mpsc::Receiver<Piece>, wanted: &Wanted) -> Self {
        Self {
            left: layers.limits.bytes,
            unwanted: wanted.0.clone(),
            layers,
            receive,
            chunk: Bytes::new(),
            file: None,
        }
    }

    /// Begins with the next piece; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        match self.receive.blocking_recv() {
            None => return Ok(false),
            Some(Piece::Data(chunk)) => self.chunk = chunk,
            Some(Piece::Known { layer, path, size }) => {
                let refuse = |why: &str| {
                    let sentence = format!("{path} of layer {} {why}", layer.short());
                    io::Error::other(sentence)
                };
                let file = open(&self.layers, &layer, &path)
                    .map_err(|e| refuse(&format!("cannot be opened: {e}")))?;
                if file.metadata()?.len() != size {
                    return Err(refuse("has another size"));
                }
                // Of holes, too, which take no room and as long to read.
                self.left = self
                    .left
                    .checked_sub(size)
                    .ok_or_else(|| refuse("and what came before is more than a layer may have"))?;
                self.file = Some(BufReader::with_capacity(AT_ONCE, file.take(size)));
            }
        }
        Ok(true)
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            if !self.chunk.is_empty() {
                break;
            }
            if self.unwanted.load(Ordering::Relaxed) {
                let nobody = "nobody wants the layer any more";
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, nobody));
            }
            if let Some(file) = &mut self.file {
                if !file.fill_buf()?.is_empty() {
                    break;
                }
                self.file = None;
            }
            if !self.next()? {
                return Ok(&[]);
            }
        }
        match &mut self.file {
            Some(file) => file.fill_buf(),
            None => Ok(&self.chunk),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.file {
            Some(file) => file.consume(amount),
            None => self.chunk.advance(amount),
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// Opens a regular file of a layer, and nothing else: a device does something when it is opened.
fn open(layers: &Layers, layer: &Digest, path: &str) -> io::Result<File> {
    let root = File::open(layers.path_of(layer))?;
    let place = rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?;
    let stat = rustix::fs::fstat(&place)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use slipway_image::layer::limits::Limits;

    use super::*;
    use crate::registry::Registry;

    /// Most bytes of files in one archive.
    const MOST: u64 = 4 * LARGE as u64;
    /// A file that is not read at once.
    const LARGE: usize = 2 * AT_ONCE + 1;

    fn layer() -> Digest {
        Digest::of("a layer")
    }

    /// Layers in `home/layers`, one of which has files, and what must not be read.
    fn layers(home: &Path) -> Layers {
        let folder = home.join("layers");
        let fs = folder.join(layer().encoded()).join("fs");
        fs::create_dir_all(fs.join("folder")).unwrap();
        fs::write(fs.join("file"), "content").unwrap();
        fs::write(fs.join("empty"), "").unwrap();
        fs::write(fs.join("large"), vec![7; LARGE]).unwrap();
        fs::write(fs.join("folder/inner"), "inner").unwrap();
        fs::write(fs.join("../note"), "secret").unwrap();
        fs::write(home.join("outside"), "secret").unwrap();
        symlink("file", fs.join("link")).unwrap();
        symlink("folder", fs.join("way")).unwrap();
        symlink(home, fs.join("out")).unwrap();
        symlink("/", fs.join("root")).unwrap();
        let all = Mode::from_raw_mode(0o666);
        let special = |name: &str, kind, device| {
            rustix::fs::mknodat(rustix::fs::CWD, fs.join(name), kind, all, device).unwrap();
        };
        special("pipe", FileType::Fifo, 0);
        if rustix::process::geteuid().is_root() {
            special("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
            special("whiteout", FileType::CharacterDevice, 0);
        }
        let channel = tonic::transport::Endpoint::from_static("http://nobody").connect_lazy();
        let limits = Limits {
            bytes: MOST,
            ..Limits::default()
        };
        Layers::open(folder, Registry::new(channel), limits).unwrap()
    }

    fn known(path: &str, size: u64) -> Piece {
        Piece::Known {
            layer: layer(),
            path: path.to_owned(),
            size,
        }
    }

    fn data(text: &'static str) -> Piece {
        Piece::Data(Bytes::from_static(text.as_bytes()))
    }

    fn reader(layers: &Layers, pieces: Vec<Piece>, wanted: &Wanted) -> PieceReader {
        let (send, receive) = mpsc::channel(pieces.len());
        for piece in pieces {
            send.try_send(piece).unwrap();
        }
        PieceReader::new(layers.clone(), receive, wanted)
    }

    /// What the pieces are, with as much of them as was read before the error.
    async fn read(layers: &Layers, pieces: Vec<Piece>) -> (Vec<u8>, io::Result<usize>) {
        let wanted = Wanted::default();
        let mut reader = reader(layers, pieces, &wanted);
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            let end = reader.read_to_end(&mut all);
            (all, end)
        });
        reading.await.unwrap()
    }

    #[tokio::test]
    async fn files_stand_where_they_are_named() {
        let home = tempfile::tempdir().unwrap();
        let layers = layers(home.path());
        let pieces = vec![
            data("<"),
            known("file", 7),
            known("empty", 0),
            data("><"),
            known("folder/inner", 5),
            known("./folder/../file", 7),
            data(">"),
            known("large", LARGE as u64),
        ];
        let (all, end) = read(&layers, pieces).await;
        end.unwrap();
        let (text, large) = all.split_at(all.len() - LARGE);
        assert_eq!(text, b"<content><innercontent>");
        assert!(large.iter().all(|byte| *byte == 7));
    }

    #[tokio::test]
    async fn nothing_is_read_but_regular_files_of_the_layer_as_they_are() {
        let home = tempfile::tempdir().unwrap();
        let layers = layers(home.path());
        let outside = home.path().join("outside");
        let by_root = format!("root{}", outside.display());
        // All are there, and as large as is said.
        for (path, size) in [
            ("../note", 6),
            ("folder/../../note", 6),
            ("../../../outside", 6),
            (outside.to_str().unwrap(), 6),
            ("link", 7),
            ("link", 4),
            ("way/inner", 5),
            ("way", 6),
            ("out/outside", 6),
            (&by_root, 6),
            ("/file", 7),
            ("pipe", 0),
            ("null", 0),
            ("whiteout", 0),
            ("folder", 0),
            (".", 0),
            ("..", 0),
            ("", 0),
            ("file/", 7),
            ("file\0", 7),
            ("none", 0),
        ] {
            let (all, end) = read(&layers, vec![data("<"), known(path, size), data(">")]).await;
            let said = end.unwrap_err().to_string();
            assert_eq!(all, b"<", "{path}");
            assert!(said.contains("cannot be opened"), "{path}: {said}");
        }
        for size in [0, 6, 8, u64::MAX] {
            let (all, end) = read(&layers, vec![known("file", size)]).await;
            let said = end.unwrap_err().to_string();
            assert!(said.contains("has another size"), "{size}: {said}");
            assert!(all.is_empty());
        }
        let elsewhere = Piece::Known {
            layer: Digest::of("no layer"),
            path: "file".to_owned(),
            size: 7,
        };
        let said = read(&layers, vec![elsewhere]).await.1.unwrap_err();
        assert!(said.to_string().contains("cannot be opened"), "{said}");
    }

    #[tokio::test]
    async fn all_files_together_are_no_more_than_a_layer_may_have() {
        let home = tempfile::tempdir().unwrap();
        let layers = layers(home.path());
        let large = || known("large", LARGE as u64);
        let four = || vec![large(), large(), large(), large()];
        assert_eq!(read(&layers, four()).await.1.unwrap() as u64, MOST);
        let five = [four(), vec![known("file", 7)]].concat();
        let (all, end) = read(&layers, five).await;
        let said = end.unwrap_err().to_string();
        assert!(said.contains("more than a layer may have"), "{said}");
        assert_eq!(all.len() as u64, MOST);
    }

    #[tokio::test]
    async fn reading_ends_in_the_middle_of_a_file_that_nobody_wants_any_more() {
        let home = tempfile::tempdir().unwrap();
        let layers = layers(home.path());
        let wanted = Wanted::default();
        let mut reader = reader(&layers, vec![known("large", LARGE as u64)], &wanted);
        let read = tokio::task::spawn_blocking(move || {
            reader.read_exact(&mut [0; 10])?;
            drop(wanted);
            reader.read_to_end(&mut Vec::new())
        });
        let error = read.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    }
}
