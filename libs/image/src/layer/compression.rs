//! Compression of layers, told by the first bytes rather than by the media type.

use std::io::{self, BufRead, BufReader, Read};

use super::limits::ZSTD_WINDOW_LOG;

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
pub fn decompress<'a>(compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let buffered = BufReader::with_capacity(128 * 1024, compressed);
    Ok(Box::new(Decompressor::new(buffered, ZSTD_WINDOW_LOG)?))
}

/// What a compressed stream holds, plain.
pub enum Decompressor<R: BufRead> {
    /// As it comes.
    None(Pushback<R>),
    /// gzip.
    Gzip(Members<Pushback<R>>),
    /// zstd.
    Zstd(Box<zstd::stream::read::Decoder<'static, Pushback<R>>>),
}

impl<R: BufRead> Decompressor<R> {
    /// By the first bytes. A zstd stream may have a window of 2^`zstd_window_log` bytes.
    pub fn new(compressed: R, zstd_window_log: u32) -> io::Result<Self> {
        let mut whole = Pushback::new(compressed);
        let start = whole.peek()?;
        Ok(match Compression::detect(start) {
            Compression::None => Self::None(whole),
            Compression::Gzip => Self::Gzip(Members::new(whole)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
                decoder.window_log_max(zstd_window_log)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// A stream that is to be plain, whatever its first bytes are.
    pub fn plain(plain: R) -> Self {
        Self::None(Pushback::new(plain))
    }

    /// The source, at whatever follows the compressed data.
    pub fn into_inner(self) -> R {
        match self {
            Self::None(whole) => whole.inner,
            Self::Gzip(members) => members.into_inner().inner,
            Self::Zstd(decoder) => decoder.finish().inner,
        }
    }

    /// The source.
    pub fn source(&self) -> &R {
        match self {
            Self::None(whole) => &whole.inner,
            Self::Gzip(members) => &members.get_ref().inner,
            Self::Zstd(decoder) => &decoder.get_ref().inner,
        }
    }
}

impl<R: BufRead> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(whole) => whole.read(buffer),
            Self::Gzip(members) => members.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer).map_err(say_window),
        }
    }
}

/// zstd's own sentence is about memory, and nobody would know which setting that is.
fn say_window(error: io::Error) -> io::Error {
    match error.to_string().contains("too much memory") {
        true => io::Error::other(
            "its zstd window is larger than allowed: if it is meant to be, raise unpack_zstd_window in runtime.toml",
        ),
        false => error,
    }
}

/// gzip, member after member. What follows the last one and is no member is passed over, as gzip and pigz
/// do: blocks of tapes were filled with zeros. The digests of a layer cover it all the same.
pub struct Members<R>(State<R>);

enum State<R> {
    Inside(Box<flate2::bufread::GzDecoder<Pushback<R>>>),
    Behind(Pushback<R>),
    /// In between, and after an error.
    Broken,
}

impl<R: BufRead> Members<R> {
    fn new(source: R) -> Self {
        Self(State::inside(Pushback::new(source)))
    }

    fn get_ref(&self) -> &R {
        match &self.0 {
            State::Inside(decoder) => &decoder.get_ref().inner,
            State::Behind(rest) => &rest.inner,
            State::Broken => unreachable!("nobody asks after an error"),
        }
    }

    fn into_inner(self) -> R {
        match self.0 {
            State::Inside(decoder) => decoder.into_inner().inner,
            State::Behind(rest) => rest.inner,
            State::Broken => unreachable!("nobody asks after an error"),
        }
    }
}

impl<R: BufRead> State<R> {
    fn inside(source: Pushback<R>) -> Self {
        Self::Inside(Box::new(flate2::bufread::GzDecoder::new(source)))
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let State::Inside(decoder) = &mut self.0 {
            let n = decoder.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let State::Inside(decoder) = std::mem::replace(&mut self.0, State::Broken) else {
                break;
            };
            let mut rest = decoder.into_inner();
            let another = rest.peek()?.starts_with(&[0x1f, 0x8b]);
            self.0 = match another {
                true => State::inside(rest),
                false => State::Behind(rest),
            };
        }
        Ok(0)
    }
}

/// A source whose next few bytes can be looked at, however it is cut into pieces.
pub struct Pushback<R> {
    head: [u8; 4],
    at: usize,
    end: usize,
    inner: R,
}

impl<R: BufRead> Pushback<R> {
    const fn new(inner: R) -> Self {
        Self {
            head: [0; 4],
            at: 0,
            end: 0,
            inner,
        }
    }

    /// The next four bytes, fewer at the end. Only where nothing is pushed back yet.
    fn peek(&mut self) -> io::Result<&[u8]> {
        if self.at > 0 {
            self.head.copy_within(self.at..self.end, 0);
            self.end -= self.at;
            self.at = 0;
        }
        while self.end < self.head.len() {
            match self.inner.read(&mut self.head[self.end..]) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(&self.head[..self.end])
    }
}

impl<R: BufRead> Read for Pushback<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = {
            let mut ready = self.fill_buf()?;
            ready.read(buffer)?
        };
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Pushback<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at < self.end {
            return Ok(&self.head[self.at..self.end]);
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if self.at < self.end {
            self.at += amount;
        } else {
            self.inner.consume(amount);
        }
    }
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

    /// A source that gives one byte at a time.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn every_compression_and_several_members() {
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(plain(&members), b"one two");
        let frames = [
            zstd::encode_all(&b"one "[..], 1).unwrap(),
            b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(),
            zstd::encode_all(&b"two"[..], 1).unwrap(),
        ]
        .concat();
        assert_eq!(plain(&frames), b"one two");
        assert_eq!(plain(b"plain"), b"plain");
        assert_eq!(plain(b"x"), b"x");
        assert_eq!(plain(b""), b"");
    }

    #[test]
    fn what_follows_the_last_member_is_passed_over() {
        for rest in [&b"\0"[..], &[0; 700], b"\x1f", b"\x1fjunk", b"junk"] {
            let bytes = [&gzip(b"one "), &gzip(b"two")[..], rest].concat();
            assert_eq!(plain(&bytes), b"one two");
            let mut out = Vec::new();
            let mut stream = decompress(Trickle(&bytes)).unwrap();
            stream.read_to_end(&mut out).unwrap();
            assert_eq!(out, b"one two");
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for whole in [
            gzip(b"some content"),
            zstd::encode_all(&b"some content"[..], 1).unwrap(),
        ] {
            for end in 4..whole.len() {
                let read = decompress(&whole[..end]).and_then(|mut r| r.read_to_end(&mut vec![]));
                assert!(read.is_err(), "{end} of {}", whole.len());
            }
        }
    }

    #[test]
    fn a_window_that_is_too_large_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(22).unwrap();
        encoder.write_all(&vec![7; 5 << 20]).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(plain(&bytes).len(), 5 << 20);
        let read = Decompressor::new(&bytes[..], 20).and_then(|mut r| r.read_to_end(&mut vec![]));
        let error = read.unwrap_err().to_string();
        assert!(error.contains("unpack_zstd_window"), "{error}");
    }
}
