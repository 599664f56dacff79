//! Archives written byte by byte: what no tool writes any more, or never did.

const BLOCK: usize = 512;

/// An archive in the making.
#[derive(Clone, Default)]
pub struct Archive(Vec<u8>);

/// A header, ustar unless said otherwise.
#[derive(Clone)]
pub struct Header([u8; BLOCK]);

impl Header {
    pub fn new(name: &str, kind: u8) -> Self {
        Self::raw(name.as_bytes(), kind)
    }

    pub fn raw(name: &[u8], kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.bytes(0, &name[..name.len().min(100)]);
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        let header = header.octal(100, 8, mode).octal(108, 8, 0).octal(116, 8, 0);
        let mut header = header.octal(124, 12, 0).octal(136, 12, 1_000_000_000);
        header.0[156] = kind;
        header.magic(b"ustar\x0000")
    }

    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn set(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes(at, bytes);
        self
    }

    pub fn octal(self, at: usize, width: usize, value: u64) -> Self {
        self.set(at, format!("{value:0w$o}\0", w = width - 1).as_bytes())
    }

    /// In base 256, as GNU writes what is too large for octal digits.
    pub fn binary(mut self, at: usize, width: usize, value: i128) -> Self {
        let bytes = value.to_be_bytes();
        self.bytes(at, &bytes[16 - width..]);
        self.0[at] = if value < 0 { 0xff } else { self.0[at] | 0x80 };
        self
    }

    pub fn magic(self, magic: &[u8; 8]) -> Self {
        self.set(257, magic)
    }

    pub fn gnu(self) -> Self {
        self.magic(b"ustar  \0")
    }

    pub fn v7(self) -> Self {
        self.set(257, &[0; 255])
    }

    pub fn mode(self, mode: u64) -> Self {
        self.octal(100, 8, mode)
    }

    pub fn link(self, target: &str) -> Self {
        self.set(157, target.as_bytes())
    }

    pub fn size(self, size: u64) -> Self {
        self.octal(124, 12, size)
    }

    /// With its checksum.
    fn finish(self) -> [u8; BLOCK] {
        let mut header = self.set(148, b"        ").0;
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }
}

impl Archive {
    /// A header and nothing else.
    pub fn header(mut self, header: Header) -> Self {
        self.0.extend(header.finish());
        self
    }

    /// Bytes, filled up to a block.
    pub fn blocks(mut self, content: &[u8]) -> Self {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// A header that says how long the content is, and the content.
    pub fn with(self, header: Header, content: &[u8]) -> Self {
        self.header(header.size(content.len() as u64))
            .blocks(content)
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.with(Header::new(name, b'0'), content.as_bytes())
    }

    pub fn folder(self, name: &str) -> Self {
        self.header(Header::new(name, b'5'))
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.header(Header::new(name, b'2').mode(0o777).link(target))
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.header(Header::new(name, b'1').link(target))
    }

    /// An extended header.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            content.extend(record(key, value));
        }
        self.with(Header::new("PaxHeaders/x", b'x'), &content)
    }

    /// GNU's long name (`L`) or long link (`K`).
    pub fn long(self, kind: u8, name: &str) -> Self {
        let header = Header::new("././@LongLink", kind).gnu();
        self.with(header, format!("{name}\0").as_bytes())
    }

    /// With the two blocks that end it.
    pub fn end(self) -> Vec<u8> {
        let mut bytes = self.0;
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    /// As it is.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
