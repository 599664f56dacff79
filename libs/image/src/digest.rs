//! Content digests: the names of blobs, manifests and layers.

use std::{fmt, io, str::FromStr};

use sha2::{Digest as _, Sha256, Sha512};

/// Hash algorithm of a digest (OCI image-spec, descriptor.md, "Registered Algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`
    Sha256,
    /// `sha512`
    Sha512,
}

impl Algorithm {
    /// Its name as it stands in a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the encoded part, characters.
    pub const fn encoded_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest, `algorithm:hex`. Only well-formed ones of known algorithms exist.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    encoded: Box<str>,
}

/// Not a digest that we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:hex`, wrong length, or not lower-case hex.
    #[error("invalid digest {0:?}: expected sha256: and 64 lower-case hex digits")]
    Malformed(String),
    /// An algorithm that we don't know.
    #[error("unsupported digest algorithm {0:?}: sha256 and sha512 are supported")]
    Algorithm(String),
}

impl Digest {
    /// The sha256 digest of these bytes.
    pub fn of(content: impl AsRef<[u8]>) -> Self {
        let mut digester = Digester::new(Algorithm::Sha256);
        digester.update(content.as_ref());
        digester.finish()
    }

    /// From 32 raw bytes of sha256.
    pub fn from_sha256(raw: [u8; 32]) -> Self {
        Self {
            algorithm: Algorithm::Sha256,
            encoded: hex::encode(raw).into(),
        }
    }

    /// Which hash.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }

    /// The first 12 hex digits, as people are shown.
    pub fn short(&self) -> &str {
        &self.encoded[..12]
    }

    /// A hasher of this digest's algorithm, to check content against it.
    pub fn digester(&self) -> Digester {
        Digester::new(self.algorithm)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, encoded) = text
            .split_once(':')
            .ok_or_else(|| DigestError::Malformed(text.to_owned()))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm(name.to_owned())),
        };
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if encoded.len() != algorithm.encoded_len() || !encoded.bytes().all(hex) {
            return Err(DigestError::Malformed(text.to_owned()));
        }
        Ok(Self {
            algorithm,
            encoded: encoded.into(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.encoded)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes content as it passes, and counts it.
#[derive(Clone)]
pub struct Digester {
    hasher: Hasher,
    bytes: u64,
}

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Default for Digester {
    fn default() -> Self {
        Self::new(Algorithm::Sha256)
    }
}

impl Digester {
    /// Nothing hashed yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let hasher = match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        };
        Self { hasher, bytes: 0 }
    }

    /// Takes more content.
    pub fn update(&mut self, content: &[u8]) {
        self.bytes += content.len() as u64;
        match &mut self.hasher {
            Hasher::Sha256(h) => h.update(content),
            Hasher::Sha512(h) => h.update(content),
        }
    }

    /// Bytes taken so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        let (algorithm, encoded) = match self.hasher {
            Hasher::Sha256(h) => (Algorithm::Sha256, hex::encode(h.finalize())),
            Hasher::Sha512(h) => (Algorithm::Sha512, hex::encode(h.finalize())),
        };
        Digest {
            algorithm,
            encoded: encoded.into(),
        }
    }
}

/// A reader that hashes what is read through it.
pub struct DigestReader<R> {
    inner: R,
    digester: Digester,
}

impl<R> DigestReader<R> {
    /// Hashes with `digester` from here on.
    pub const fn new(inner: R, digester: Digester) -> Self {
        Self { inner, digester }
    }

    /// The reader, and the hash of what was read.
    pub fn into_parts(self) -> (R, Digester) {
        (self.inner, self.digester)
    }

    /// Bytes read so far.
    pub const fn bytes(&self) -> u64 {
        self.digester.bytes()
    }
}

impl<R: io::Read> io::Read for DigestReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.digester.update(&buf[..n]);
        Ok(n)
    }
}

/// A writer that hashes what is written through it.
pub struct DigestWriter<W> {
    inner: W,
    digester: Digester,
}

impl<W> DigestWriter<W> {
    /// Hashes with `digester` from here on.
    pub const fn new(inner: W, digester: Digester) -> Self {
        Self { inner, digester }
    }

    /// The writer, and the hash of what was written.
    pub fn into_parts(self) -> (W, Digester) {
        (self.inner, self.digester)
    }
}

impl<W: io::Write> io::Write for DigestWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.digester.update(&buf[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_well_known_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap().short(), "e3b0c44298fc");
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for text in [
            "",
            "sha256:",
            "sha256:abc",
            "abc",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &upper,
            &format!("{EMPTY}0"),
            "sha256:../../../../etc/passwd",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
