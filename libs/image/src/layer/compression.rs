//! Compression of layers, told by the first bytes rather than by the media type.

use std::io::{self, BufReader, Read};

/// Compression of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip, any number of members (RFC 1952, 2.2).
    Gzip,
    /// zstd, any number of frames (RFC 8878).
    Zstd,
}

/// Largest window of a zstd stream, as a power of two: 128 MiB, what `zstd -d` allows. A hostile
/// stream could ask for gigabytes.
const ZSTD_WINDOW_LOG: u32 = 27;

impl Compression {
    /// By the first bytes of a stream, at least four where there are so many.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame (RFC 8878, 3.1.2) may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// A stream that gives what `compressed` holds, plain.
pub fn decompress<'a>(mut compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = [0; 4];
    let mut filled = 0;
    while filled < start.len() {
        match compressed.read(&mut start[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    let whole = io::Cursor::new(start).take(filled as u64).chain(compressed);
    Ok(match Compression::detect(&start[..filled]) {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(128 * 1024, whole),
        )),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompress(data).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn every_compression_and_several_members() {
        let members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(plain(&members), b"one two");
        let frames = [
            zstd::encode_all(&b"one "[..], 1).unwrap(),
            zstd::encode_all(&b"two"[..], 1).unwrap(),
        ]
        .concat();
        assert_eq!(plain(&frames), b"one two");
        assert_eq!(plain(b"plain"), b"plain");
        assert_eq!(plain(b"x"), b"x");
        assert_eq!(plain(b""), b"");
    }
}
