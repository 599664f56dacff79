//! Archives of users: whether something is one, and its plain tar stream within limits.
//!
//! docker unpacks gzip, bzip2, xz and zstd, told by the content (moby/moby, pkg/archive: DetectCompression).

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::layer::{compression::decompress, limits::Limits, tar_read::is_tar_header};

/// Most memory of an xz decoder: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 160 << 20;

/// The plain content of a stream, which ends with an error where it is too large to be true.
pub fn plain<'a>(compressed: impl Read + 'a, limits: Limits) -> io::Result<Box<dyn Read + 'a>> {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        inner: compressed,
        taken: taken.clone(),
    };
    Ok(Box::new(Bounded {
        inner: inflate(counted)?,
        taken,
        given: 0,
        limits,
    }))
}

/// Whether a file is an archive, compressed or not.
pub fn is_archive(file: impl Read) -> bool {
    let mut header = [0; 512];
    // What cannot be inflated is no archive: it is copied as it is.
    inflate(file).is_ok_and(|mut plain| plain.read_exact(&mut header).is_ok())
        && is_tar_header(&header)
}

fn inflate<'a>(mut compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    compressed.by_ref().take(6).read_to_end(&mut start)?;
    let found = match &start[..] {
        [b'B', b'Z', b'h', ..] => Found::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Found::Xz,
        _ => Found::Other,
    };
    let whole = io::Cursor::new(start).chain(compressed);
    Ok(match found {
        Found::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        Found::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            Box::new(liblzma::read::XzDecoder::new_stream(whole, stream))
        }
        Found::Other => decompress(whole)?,
    })
}

enum Found {
    Bzip2,
    Xz,
    Other,
}

struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.taken.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    taken: Arc<AtomicU64>,
    given: u64,
    limits: Limits,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.given += n as u64;
        if self.given > self.limits.bytes {
            return Err(io::Error::other(format!(
                "the archive holds more than {} bytes",
                self.limits.bytes
            )));
        }
        if self
            .limits
            .is_bomb(self.given, self.taken.load(Ordering::Relaxed))
        {
            return Err(io::Error::other(format!(
                "the archive becomes more than {} times as large when it is unpacked: it is refused",
                self.limits.ratio
            )));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{self as tar, pack::Plain, pack::Sink as _};
    use std::io::Write as _;

    fn sample() -> Vec<u8> {
        let mut out = Plain::new(Vec::new());
        let entry = tar::Entry {
            path: b"a".to_vec(),
            kind: tar::Kind::Folder,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            xattrs: Vec::new(),
        };
        out.append(&entry, &mut io::empty()).unwrap();
        out.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn archives_are_told_by_their_content_and_become_plain() {
        let tar = sample();
        for bytes in [tar.clone(), gzip(&tar), bzip2(&tar), xz(&tar)] {
            assert!(is_archive(&bytes[..]));
            let mut out = Vec::new();
            plain(&bytes[..], Limits::default())
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert_eq!(out, tar);
        }
        for other in [
            &b"#!/bin/sh"[..],
            b"x",
            b"",
            &[0; 1024],
            b"BZh91AY",
            &[0x1f, 0x8b, 0, 0],
            &[0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0],
            &gzip(b"no archive"),
        ] {
            assert!(!is_archive(other));
        }
    }

    #[test]
    fn bombs_are_refused() {
        let limits = Limits {
            bytes: 100_000,
            ..Limits::default()
        };
        for bytes in [gzip(&[0; 200_000]), bzip2(&[0; 200_000]), xz(&[0; 200_000])] {
            let mut plain = plain(&bytes[..], limits).unwrap();
            let error = io::copy(&mut plain, &mut io::sink()).unwrap_err();
            assert!(
                error.to_string().contains("more than 100000 bytes"),
                "{error}"
            );
        }
    }
}
