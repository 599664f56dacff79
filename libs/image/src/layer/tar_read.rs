//! Reading tar: ustar, PAX and GNU headers, old GNU sparse files.
//!
//! Formats: POSIX.1-2024 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
//! "Basic Tar Format" and "Storing Sparse Files". Everything that announces a length is capped.

use std::io::{self, Read};

use super::{Entry, Kind};

const BLOCK: usize = 512;
/// Longest extended header or long name, bytes.
const MAX_EXTENSION: u64 = 1024 * 1024;
/// Most pieces of a sparse file.
const MAX_SPARSE: usize = 64 * 1024;

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

/// A tar stream, entry by entry.
pub struct TarReader<R> {
    inner: R,
    /// Bytes of the current entry in the stream that were not read yet, without padding.
    remaining: u64,
    padding: u64,
    /// Pieces of a sparse file that were not read yet, last first: offset and length.
    sparse: Vec<(u64, u64)>,
    position: u64,
    size: u64,
    finished: bool,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

impl<R: Read> TarReader<R> {
    /// Begins at the first header.
    pub const fn new(inner: R) -> Self {
        Self {
            inner,
            remaining: 0,
            padding: 0,
            sparse: Vec::new(),
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
        self.skip(self.remaining + self.padding)?;
        (self.remaining, self.padding) = (0, 0);
        self.sparse.clear();
        let mut extension = Extension::default();
        loop {
            let mut header = [0; BLOCK];
            if self.finished || !self.read_block(&mut header)? || header.iter().all(|b| *b == 0) {
                self.finished = true;
                return Ok(None);
            }
            check(&header)?;
            let size = number(&header[124..136])?;
            match header[156] {
                b'x' => extension.read_pax(&self.read_extension(size)?)?,
                b'g' => drop(self.read_extension(size)?),
                b'L' => extension.path = Some(until_zero(&self.read_extension(size)?).to_vec()),
                b'K' => extension.link = Some(until_zero(&self.read_extension(size)?).to_vec()),
                _ => return self.entry(&header, size, extension).map(Some),
            }
        }
    }

    /// Reads content of the current entry, holes as zeros. 0 at its end.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let left = self.size - self.position;
        let mut wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        if let Some((offset, length)) = self.sparse.last_mut() {
            if self.position < *offset {
                let hole = usize::try_from(*offset - self.position)
                    .unwrap_or(usize::MAX)
                    .min(wanted);
                buffer[..hole].fill(0);
                self.position += hole as u64;
                return Ok(hole);
            }
            wanted = wanted.min(usize::try_from(*length).unwrap_or(usize::MAX));
            *offset += wanted as u64;
            *length -= wanted as u64;
            if *length == 0 {
                self.sparse.pop();
            }
        } else if self.remaining == 0 {
            // Behind the last piece of a sparse file.
            buffer[..wanted].fill(0);
            self.position += wanted as u64;
            return Ok(wanted);
        }
        self.inner
            .read_exact(&mut buffer[..wanted])
            .map_err(cut_off)?;
        self.position += wanted as u64;
        self.remaining -= wanted as u64;
        Ok(wanted)
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        extension: Extension,
    ) -> Result<Entry, TarError> {
        let path = extension.path.clone().unwrap_or_else(|| name(header));
        let unsupported = |what: &str| {
            Err(TarError::Unsupported {
                path: String::from_utf8_lossy(&path).into_owned(),
                what: what.to_owned(),
            })
        };
        if extension.sparse {
            return unsupported("the PAX form of sparse files");
        }
        let link = || {
            extension
                .link
                .clone()
                .unwrap_or_else(|| until_zero(&header[157..257]).to_vec())
        };
        let device = || -> Result<(u32, u32), TarError> {
            Ok((
                small(number(&header[329..337])?)?,
                small(number(&header[337..345])?)?,
            ))
        };
        let in_stream = extension.size.unwrap_or(size);
        let mut real = in_stream;
        let kind = match header[156] {
            // Before POSIX a folder was a file whose name ends with a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' => Kind::File,
            b'S' => {
                real = self.read_sparse(header)?;
                Kind::File
            }
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => device().map(|(major, minor)| Kind::CharacterDevice(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => return unsupported(&format!("type {:?}", char::from(other))),
        };
        self.remaining = in_stream;
        self.padding = (BLOCK as u64 - in_stream % BLOCK as u64) % BLOCK as u64;
        self.position = 0;
        self.size = if kind == Kind::File { real } else { 0 };
        let pieces: u64 = self.sparse.iter().map(|(_, length)| length).sum();
        if !self.sparse.is_empty() && pieces != in_stream {
            return Err(TarError::Invalid(
                "the map of a sparse file does not fit its content",
            ));
        }
        let time = |field: &[u8]| number(field).map(|t| (t as i64, 0));
        Ok(Entry {
            kind,
            mode: small(number(&header[100..108])?)? & 0o7777,
            uid: extension
                .uid
                .map_or_else(|| small(number(&header[108..116])?), Ok)?,
            gid: extension
                .gid
                .map_or_else(|| small(number(&header[116..124])?), Ok)?,
            mtime: extension
                .mtime
                .map_or_else(|| time(&header[136..148]), Ok)?,
            size: self.size,
            xattrs: extension.xattrs,
            path,
        })
    }

    /// The map of an old GNU sparse file; returns the real size.
    fn read_sparse(&mut self, header: &[u8; BLOCK]) -> Result<u64, TarError> {
        let real = number(&header[483..495])?;
        let mut pieces = Vec::new();
        let mut more = header[482] != 0;
        let mut take = |field: &[u8]| -> Result<(), TarError> {
            let (offset, length) = (number(&field[..12])?, number(&field[12..24])?);
            if length > 0 {
                pieces.push((offset, length));
            }
            if pieces.len() > MAX_SPARSE {
                return Err(TarError::Invalid("a sparse file has too many pieces"));
            }
            Ok(())
        };
        for field in header[386..482].chunks(24) {
            take(field)?;
        }
        while more {
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(TarError::Truncated);
            }
            for field in block[..504].chunks(24) {
                take(field)?;
            }
            more = block[504] != 0;
        }
        let mut end = 0;
        for (offset, length) in &pieces {
            let next = offset
                .checked_add(*length)
                .filter(|next| *offset >= end && *next <= real);
            end = next.ok_or(TarError::Invalid(
                "the map of a sparse file is out of order",
            ))?;
        }
        pieces.reverse();
        self.sparse = pieces;
        Ok(real)
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::Invalid("an extended header is longer than 1 MiB"));
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

impl Extension {
    /// Records of the form `<length> <key>=<value>\n`.
    fn read_pax(&mut self, mut content: &[u8]) -> Result<(), TarError> {
        const BAD: TarError = TarError::Invalid("an extended header is malformed");
        while !content.is_empty() {
            let space = content
                .iter()
                .take(20)
                .position(|b| *b == b' ')
                .ok_or(BAD)?;
            let length: usize = text(&content[..space])
                .and_then(|t| t.parse().ok())
                .ok_or(BAD)?;
            let record = content.get(space + 1..length).ok_or(BAD)?;
            let record = record.strip_suffix(b"\n").ok_or(BAD)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
            self.set(&record[..equals], &record[equals + 1..])
                .ok_or(BAD)?;
            content = &content[length..];
        }
        Ok(())
    }

    /// `None` when a value that we use cannot be understood.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(text(value)?.parse().ok()?),
            b"uid" => self.uid = Some(text(value)?.parse().ok()?),
            b"gid" => self.gid = Some(text(value)?.parse().ok()?),
            b"mtime" => self.mtime = Some(pax_time(text(value)?)?),
            _ => {
                for prefix in [&b"SCHILY.xattr."[..], b"LIBARCHIVE.xattr."] {
                    if let Some(name) = key.strip_prefix(prefix)
                        && prefix.starts_with(b"SCHILY")
                    {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
                self.sparse |= key.starts_with(b"GNU.sparse.");
            }
        }
        Some(())
    }
}

fn pax_time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    let whole: i64 = seconds.parse().ok()?;
    // -1.5 is 1.5 seconds before the epoch.
    Some(if seconds.starts_with('-') && nanoseconds > 0 {
        (whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)
    } else {
        (whole, nanoseconds)
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_zero(&header[..100]);
    // Only POSIX' magic has a prefix; GNU's ("ustar  ") keeps other things there.
    let prefix = if &header[257..263] == b"ustar\0" {
        until_zero(&header[345..500])
    } else {
        b""
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

/// Octal digits, or base 256 when the first bit is set.
fn number(field: &[u8]) -> Result<u64, TarError> {
    const BAD: TarError = TarError::Invalid("a number in a header is malformed");
    if field[0] & 0x80 != 0 {
        // 0xff: negative, which only times before the epoch are.
        if field[0] == 0xff {
            let bytes = field[field.len() - 8..].try_into().map_err(|_| BAD)?;
            return Ok(i64::from_be_bytes(bytes) as u64);
        }
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256).ok_or(BAD)? | u64::from(*byte);
        }
        return Ok(value);
    }
    let digits = until_zero(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    text(digits)
        .and_then(|t| u64::from_str_radix(t, 8).ok())
        .ok_or(BAD)
}

fn small(value: u64) -> Result<u32, TarError> {
    u32::try_from(value).map_err(|_| TarError::Invalid("a number in a header is too large"))
}

/// The checksum counts its own field as spaces; old programs summed signed bytes.
fn check(header: &[u8; BLOCK]) -> Result<(), TarError> {
    let stored = number(&header[148..156])?;
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (i, byte) in header.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || stored as i64 == signed {
        Ok(())
    } else {
        Err(TarError::Invalid("a header's checksum is wrong"))
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

    #[test]
    fn pax_times() {
        assert_eq!(pax_time("12"), Some((12, 0)));
        assert_eq!(pax_time("12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(pax_time("x"), None);
    }
}
