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
#[derive(Debug)]
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
