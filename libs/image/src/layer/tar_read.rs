//! Reading tar: v7, ustar, PAX and GNU headers, all forms of sparse files.
//!
//! Formats: POSIX.1-2024 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
//! "Basic Tar Format" and "Storing Sparse Files". Where they leave room we read what Go's archive/tar
//! reads, since that is what docker and containerd take. Everything that announces a length is capped.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead, Read};

use super::{Entry, Kind};
use header::{check, name, number, small, until_zero};
use pax::Extension;
use sparse::Pieces;

const BLOCK: usize = 512;
/// Longest extended headers and long names of one entry, bytes together.
const MAX_EXTENSION: u64 = 1024 * 1024;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source failed.
    #[error("cannot read the archive: {0}")]
    Read(#[from] io::Error),
    /// It ends in the middle.
    #[error("the archive is cut off")]
    Truncated,
    /// Not a tar header.
    #[error("invalid archive: {0}")]
    Invalid(&'static str),
    /// Something that we don't read.
    #[error("entry {path:?}: {what} is not supported")]
    Unsupported {
        /// The entry.
        path: String,
        /// What.
        what: String,
    },
}

/// A block with the checksum of a tar header (POSIX pax, "ustar Interchange Format"): any variant of
/// tar has it.
pub fn is_tar_header(block: &[u8; 512]) -> bool {
    let text = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    let digits = text.trim_matches([' ', '\0']);
    let Ok(expected) = u32::from_str_radix(digits, 8) else {
        return false;
    };
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    sum == expected && block[0] != 0
}

/// A tar stream, entry by entry.
pub struct TarReader<R> {
    inner: R,
    /// Bytes of the source's buffer that were handed out and are not needed any more.
    used: usize,
    /// Bytes of the current entry in the stream that were not read yet, without padding.
    remaining: u64,
    padding: u64,
    /// What was not read yet of a sparse file; `None`: the file is not sparse.
    pieces: Option<Pieces>,
    position: u64,
    size: u64,
    finished: bool,
}

impl<R: Read> TarReader<R> {
    /// Begins at the first header.
    pub const fn new(inner: R) -> Self {
        Self {
            inner,
            used: 0,
            remaining: 0,
            padding: 0,
            pieces: None,
            position: 0,
            size: 0,
            finished: false,
        }
    }

    /// The source.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; what was not read of the last one is skipped. `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip(self.remaining)?;
        self.remaining = 0;
        // The last block's padding may be missing: Go's reader does not mind either.
        let padding = std::mem::take(&mut self.padding);
        if io::copy(&mut self.inner.by_ref().take(padding), &mut io::sink())? < padding {
            self.finished = true;
        }
        self.pieces = None;
        let mut extension = Extension::default();
        loop {
            let mut header = [0; BLOCK];
            if self.finished || !self.read_block(&mut header)? || header.iter().all(|b| *b == 0) {
                self.finished = true;
                // Headers that describe an entry which never comes.
                return match extension.length {
                    0 => Ok(None),
                    _ => Err(TarError::Truncated),
                };
            }
            check(&header)?;
            match header[156] {
                kind @ (b'x' | b'L' | b'K') => {
                    let content = self.read_extension(&header, &mut extension.length)?;
                    match kind {
                        b'x' => extension.read_pax(&content)?,
                        b'L' => extension.path = Some(until_zero(&content).to_vec()),
                        _ => extension.link = Some(until_zero(&content).to_vec()),
                    }
                }
                // What holds for all entries: nobody writes more than a comment there, and docker passes
                // over all of it.
                b'g' => drop(self.read_extension(&header, &mut 0)?),
                // The name of a tape.
                b'V' => {}
                _ => return self.entry(&header, extension).map(Some),
            }
        }
    }

    /// Reads content of the current entry, holes as zeros. 0 at its end.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let (hole, wanted) = self.next_stretch(buffer.len() as u64);
        if hole {
            buffer[..wanted as usize].fill(0);
        } else {
            let content = &mut buffer[..wanted as usize];
            self.inner.read_exact(content).map_err(cut_off)?;
            self.took(wanted);
        }
        self.position += wanted;
        Ok(wanted as usize)
    }

    /// Whether a hole comes next, and how much of it or of the content, at most `most` bytes.
    fn next_stretch(&self, most: u64) -> (bool, u64) {
        let left = (self.size - self.position).min(most);
        match &self.pieces {
            None => (false, left.min(self.remaining)),
            Some(pieces) => pieces.stretch(self.position, left),
        }
    }

    /// So many bytes of content were taken from the source.
    fn took(&mut self, n: u64) {
        self.remaining -= n;
        if let Some(pieces) = &mut self.pieces {
            pieces.read(n);
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK], mut extension: Extension) -> Result<Entry, TarError> {
        let path = extension.take_path().unwrap_or_else(|| name(header));
        let unsupported = |what: &str| {
            Err(TarError::Unsupported {
                path: String::from_utf8_lossy(&path).into_owned(),
                what: what.to_owned(),
            })
        };
        let link = || {
            let short = || until_zero(&header[157..257]).to_vec();
            extension.link.clone().unwrap_or_else(short)
        };
        let device = || -> Result<(u32, u32), TarError> {
            Ok((
                small(number(&header[329..337])?)?,
                small(number(&header[337..345])?)?,
            ))
        };
        let kind = match header[156] {
            // Before POSIX a folder was a file whose name ends with a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => device().map(|(major, minor)| Kind::CharacterDevice(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            // GNU's incremental archives list what is in a folder.
            b'5' | b'D' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => return unsupported(&format!("type {:?}", char::from(other))),
        };
        // Old programs noted a size for links and folders, but there is no content (Go: isHeaderOnlyType).
        let in_stream = match header[156] {
            b'1'..=b'6' => 0,
            _ => match extension.size {
                Some(size) => size,
                None => number(&header[124..136])?,
            },
        };
        self.remaining = in_stream;
        self.padding = (BLOCK as u64 - in_stream % BLOCK as u64) % BLOCK as u64;
        self.position = 0;
        self.size = 0;
        if kind == Kind::File {
            self.size = in_stream;
            let map = match header[156] {
                b'S' => Some(self.read_old_sparse(header)?),
                _ => match extension.take_sparse()? {
                    Some(pax::Sparse::Map(real, pieces)) => Some((real, pieces)),
                    Some(pax::Sparse::InContent(real)) => Some((real, self.read_sparse_map()?)),
                    None => None,
                },
            };
            if let Some((real, pieces)) = map {
                self.pieces = Some(Pieces::new(real, self.remaining, pieces)?);
                self.size = real;
            }
        }
        let time = |field: &[u8]| number(field).map(|t| (t as i64, 0));
        let id = |told: Option<u32>, field: &[u8]| match told {
            Some(id) => Ok(id),
            None => small(number(field)?),
        };
        Ok(Entry {
            kind,
            mode: (number(&header[100..108])? & 0o7777) as u32,
            uid: id(extension.uid, &header[108..116])?,
            gid: id(extension.gid, &header[116..124])?,
            mtime: extension
                .mtime
                .map_or_else(|| time(&header[136..148]), Ok)?,
            size: self.size,
            xattrs: extension.xattrs,
            path,
        })
    }

    fn read_extension(
        &mut self,
        header: &[u8; BLOCK],
        so_far: &mut u64,
    ) -> Result<Vec<u8>, TarError> {
        let size = number(&header[124..136])?;
        // One at least: an empty one is a header all the same.
        *so_far = so_far.saturating_add(size.max(1));
        if *so_far > MAX_EXTENSION {
            return Err(TarError::Invalid(
                "the extended headers of an entry are longer than 1 MiB",
            ));
        }
        let mut content = vec![0; size as usize];
        self.inner.read_exact(&mut content).map_err(cut_off)?;
        self.skip((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64)?;
        Ok(content)
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    fn skip(&mut self, length: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut self.inner.by_ref().take(length), &mut io::sink())?;
        if skipped == length {
            Ok(())
        } else {
            Err(TarError::Truncated)
        }
    }
}

impl<R: BufRead> TarReader<R> {
    /// The next piece of the current entry's content that is no hole, and where in the file it belongs, as
    /// it lies in the source's buffer. `None` at the end.
    pub fn next_piece(&mut self) -> Result<Option<(u64, &[u8])>, TarError> {
        self.release();
        let stretch = loop {
            match self.next_stretch(u64::MAX) {
                (true, 0) | (false, 0) => return Ok(None),
                (true, hole) => self.position += hole,
                (false, stretch) => break stretch,
            }
        };
        let at = self.position;
        let ready = self.inner.fill_buf()?.len();
        if ready == 0 {
            return Err(TarError::Truncated);
        }
        let n = usize::try_from(stretch).unwrap_or(usize::MAX).min(ready);
        self.took(n as u64);
        self.position += n as u64;
        self.used = n;
        // Still the same: nothing was consumed.
        Ok(Some((at, &self.inner.fill_buf()?[..n])))
    }

    /// Gives the last piece back to the source. Before anything else is read.
    pub fn release(&mut self) {
        self.inner.consume(std::mem::take(&mut self.used));
    }
}

fn cut_off(error: io::Error) -> TarError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        TarError::Truncated
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn garbage_is_never_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
            let mut reader = TarReader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next_entry() {}
        }

        #[test]
        fn garbage_with_a_right_checksum_is_never_a_panic(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 2048), kind in "[0-7xgLKS]"
        ) {
            bytes[156] = kind.as_bytes()[0];
            bytes[124..136].copy_from_slice(b"00000000500\0");
            bytes[148..156].copy_from_slice(b"        ");
            let sum: u32 = bytes[..512].iter().map(|b| u32::from(*b)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let mut reader = TarReader::new(&bytes[..]);
            let mut buffer = [0; 100];
            while let Ok(Some(_)) = reader.next_entry() {
                let _ = reader.read_content(&mut buffer);
            }
        }
    }
}
