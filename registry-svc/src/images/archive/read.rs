//! The tar stream of an archive, file by file. Nothing is unpacked: names are looked up in a table.

use std::{
    cell::Cell,
    io::{self, BufReader, Read},
    rc::Rc,
};

use slipway_image::{
    Digest,
    layer::{
        Kind,
        limits::Limits,
        tar_read::{TarError, TarReader},
    },
};

use super::{
    Shelf,
    listing::{File, Listing, entry_name},
    refused,
};
use crate::error::{Error, Result};

/// Most entries: an archive of a thousand images has ten thousand.
const ENTRIES: usize = 100_000;
/// Bytes that are read at once.
const PIECE: usize = 128 * 1024;

/// Reads a plain tar stream to its very end.
pub fn read(plain: impl Read, limits: Limits, shelf: &mut impl Shelf) -> Result<Listing> {
    let taken = Rc::new(Cell::new(0));
    let counted = Counted {
        inner: plain,
        taken: Rc::clone(&taken),
    };
    let mut tar = TarReader::new(BufReader::with_capacity(PIECE, counted));
    let mut listing = Listing::default();
    let (mut entries, mut given) = (0, 0);
    while let Some(entry) = tar.next_entry().map_err(broken)? {
        entries += 1;
        if entries > ENTRIES {
            return Err(refused(format!("it has more than {ENTRIES} entries")));
        }
        let name = entry_name(&entry.path)?;
        if entry.kind != Kind::Folder && listing.has(&name) {
            return Err(refused(format!("it has {name} twice")));
        }
        match &entry.kind {
            Kind::Folder => {}
            Kind::File => {
                let promised = promised(&name)?;
                let mut content = Content {
                    tar: &mut tar,
                    given: &mut given,
                    taken: &taken,
                    most: limits.bytes,
                    failure: None,
                };
                let put = shelf.put(promised.as_ref(), entry.size, &mut content);
                let failure = content.failure.take();
                let digest = match (put, failure) {
                    (Ok(digest), None) => digest,
                    (_, Some(failure)) => return Err(failure),
                    (Err(e @ (Error::DigestMismatch { .. } | Error::SizeMismatch { .. })), _) => {
                        return Err(refused(format!("{name}: {e}")));
                    }
                    (Err(e), None) => return Err(e),
                };
                let size = entry.size;
                listing.add(name, File { digest, size });
            }
            Kind::Symlink(target) => {
                let base = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                listing.link(name.clone(), base, target)?;
            }
            Kind::HardLink(target) => listing.link(name, "", target)?,
            Kind::CharacterDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => {
                return Err(refused(format!("{name} is neither a file nor a folder")));
            }
        }
    }
    // What follows the end of a tar stream is not looked at, but must have come.
    let mut rest = tar.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|e| broken(e.into()))?;
    match entries {
        0 => Err(refused("it is empty, or no tar archive")),
        _ => Ok(listing),
    }
}

/// The digest that a name promises.
fn promised(name: &str) -> Result<Option<Digest>> {
    let Some(blob) = name.strip_prefix("blobs/") else {
        return Ok(None);
    };
    let digest = blob.replacen('/', ":", 1).parse();
    digest
        .map(Some)
        .map_err(|_| refused(format!("{name} is not the name of a blob")))
}

fn broken(error: TarError) -> Error {
    match error {
        // What the source says of itself: that it was cut off, that it is a bomb.
        TarError::Read(e) => refused(format!("it cannot be read: {e}")),
        other => refused(other),
    }
}

struct Counted<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + n as u64);
        Ok(n)
    }
}

/// The content of an entry.
struct Content<'a, R> {
    tar: &'a mut TarReader<R>,
    /// Bytes of all contents so far.
    given: &'a mut u64,
    /// Bytes that were taken from the source for them.
    taken: &'a Cell<u64>,
    most: u64,
    /// Why a read failed: an [`io::Error`] would lose the kind of it.
    failure: Option<Error>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tar.read_content(buffer).map_err(broken);
        let checked = read.and_then(|n| {
            *self.given += n as u64;
            if *self.given > self.most {
                return Err(refused(format!("it holds more than {} bytes", self.most)));
            }
            // Holes are content that is nowhere: a few bytes could ask for a whole disk of zeros.
            if *self.given > self.taken.get() {
                return Err(refused("a file of it is sparse"));
            }
            Ok(n)
        });
        checked.map_err(|e| {
            let told = io::Error::other(e.to_string());
            self.failure = Some(e);
            told
        })
    }
}
