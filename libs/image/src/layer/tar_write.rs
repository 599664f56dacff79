//! Writing tar: ustar, with PAX records only where ustar cannot say it. The same entries always give
//! the same bytes.

use std::io::{self, Write};

use super::{Entry, Kind};

const BLOCK: usize = 512;
/// Bytes of content that are read at once.
const PIECE: usize = 256 * 1024;

/// A tar stream that is being written.
pub struct TarWriter<W> {
    inner: W,
}

impl<W: Write> TarWriter<W> {
    /// Begins a stream.
    pub const fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes one entry; `content` must give exactly `entry.size` bytes for a file.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn io::Read) -> io::Result<()> {
        let size = entry.content_size();
        self.append_with(entry, |inner| copy(content, size, inner))
    }

    /// Writes one entry whose content somebody else writes; returns how many bytes that were.
    pub fn append_with(
        &mut self,
        entry: &Entry,
        content: impl FnOnce(&mut W) -> io::Result<u64>,
    ) -> io::Result<()> {
        let mut header = Header::default();
        let mut pax = Vec::new();
        let (kind, link): (u8, &[u8]) = match &entry.kind {
            Kind::File => (b'0', b""),
            Kind::HardLink(target) => (b'1', target),
            Kind::Symlink(target) => (b'2', target),
            Kind::CharacterDevice(major, minor) => {
                header.device(*major, *minor);
                (b'3', b"")
            }
            Kind::BlockDevice(major, minor) => {
                header.device(*major, *minor);
                (b'4', b"")
            }
            Kind::Folder => (b'5', b""),
            Kind::Fifo => (b'6', b""),
        };
        let mut path = entry.path.clone();
        if entry.kind == Kind::Folder && !path.ends_with(b"/") {
            path.push(b'/');
        }
        if !header.path(&path) {
            record(&mut pax, b"path", &path);
        }
        if link.len() > 100 || !link.is_ascii() {
            record(&mut pax, b"linkpath", link);
        }
        header.field(157, &link[..link.len().min(100)]);
        let size = entry.content_size();
        for (key, offset, width, value) in [
            ("uid", 108, 8, u64::from(entry.uid)),
            ("gid", 116, 8, u64::from(entry.gid)),
            ("size", 124, 12, size),
        ] {
            if !header.number(offset, width, value) {
                record(&mut pax, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        header.number(100, 8, u64::from(entry.mode));
        let (seconds, nanoseconds) = entry.mtime;
        let whole = u64::try_from(seconds).is_ok_and(|s| header.number(136, 12, s));
        if !whole || nanoseconds != 0 {
            record(&mut pax, b"mtime", time(seconds, nanoseconds).as_bytes());
        }
        for (name, value) in &entry.xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !pax.is_empty() {
            let mut extended = Header::default();
            extended.path(b"PaxHeaders/x");
            extended.number(100, 8, 0o644);
            extended.number(124, 12, pax.len() as u64);
            self.inner.write_all(&extended.finish(b'x'))?;
            self.inner.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        self.inner.write_all(&header.finish(kind))?;
        let written = content(&mut self.inner)?;
        if written != size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{} became shorter while it was read",
                    String::from_utf8_lossy(&entry.path)
                ),
            ));
        }
        self.pad(size)
    }

    /// Ends the stream and returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        Ok(self.inner)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 {
            Ok(())
        } else {
            self.inner.write_all(&[0; BLOCK][over..])
        }
    }
}

/// Copies at most `size` bytes, in large pieces; returns how many there were.
pub(super) fn copy(content: &mut dyn io::Read, size: u64, out: &mut impl Write) -> io::Result<u64> {
    let mut rest = size;
    let mut buffer = vec![0; usize::try_from(size).map_or(PIECE, |s| s.min(PIECE))];
    while rest > 0 {
        let most = usize::try_from(rest).map_or(PIECE, |r| r.min(PIECE));
        match content.read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(n) => {
                out.write_all(&buffer[..n])?;
                rest -= n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(size - rest)
}

struct Header([u8; BLOCK]);

impl Default for Header {
    fn default() -> Self {
        let mut bytes = [0; BLOCK];
        bytes[257..265].copy_from_slice(b"ustar\x0000");
        let mut header = Self(bytes);
        for (offset, width) in [
            (100, 8),
            (108, 8),
            (116, 8),
            (124, 12),
            (136, 12),
            (329, 8),
            (337, 8),
        ] {
            header.number(offset, width, 0);
        }
        header
    }
}

impl Header {
    fn field(&mut self, offset: usize, value: &[u8]) {
        self.0[offset..offset + value.len()].copy_from_slice(value);
    }

    /// Octal with a zero behind; false when it does not fit.
    fn number(&mut self, offset: usize, width: usize, value: u64) -> bool {
        let digits = width - 1;
        let text = format!("{value:0digits$o}");
        if text.len() > digits {
            return false;
        }
        self.field(offset, text.as_bytes());
        true
    }

    fn device(&mut self, major: u32, minor: u32) {
        self.number(329, 8, u64::from(major));
        self.number(337, 8, u64::from(minor));
    }

    /// Name, split into prefix and name where that helps; false when it does not fit.
    fn path(&mut self, path: &[u8]) -> bool {
        if !path.is_ascii() {
            self.field(0, &path[..path.len().min(100)]);
            return false;
        }
        if path.len() <= 100 {
            self.field(0, path);
            return true;
        }
        // The slash between the two is not stored; the name must not be empty.
        let split = (path.len().saturating_sub(101)..path.len() - 1)
            .find(|i| path[*i] == b'/' && *i > 0 && *i <= 155);
        match split {
            Some(at) => {
                self.field(345, &path[..at]);
                self.field(0, &path[at + 1..]);
                true
            }
            None => {
                self.field(0, &path[..100]);
                false
            }
        }
    }

    fn finish(mut self, kind: u8) -> [u8; BLOCK] {
        self.0[156] = kind;
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.field(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend(format!("{length} ").as_bytes());
    pax.extend(key);
    pax.push(b'=');
    pax.extend(value);
    pax.push(b'\n');
}

fn time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, seconds, nanoseconds) = if seconds < 0 {
        (
            "-",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds,
        )
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar_read::TarReader;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        let link = proptest::collection::vec(1u8.., 1..200);
        prop_oneof![
            Just(Kind::File),
            Just(Kind::Folder),
            Just(Kind::Fifo),
            link.clone().prop_map(Kind::Symlink),
            link.prop_map(Kind::HardLink),
            (0u32..1000, 0u32..1000).prop_map(|(a, b)| Kind::CharacterDevice(a, b)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            path in "[a-zé]{1,60}(/[a-z]{1,60}){0,4}", kind in kinds(), mode in 0u32..0o10000,
            uid: u32, gid: u32, seconds in -10_000_000_000i64..100_000_000_000, nanoseconds in 0u32..1_000_000_000,
            content in proptest::collection::vec(any::<u8>(), 0..1500),
            xattr in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let is_file = kind == Kind::File;
            let entry = Entry {
                path: path.into_bytes(), kind, mode, uid, gid, mtime: (seconds, nanoseconds),
                size: if is_file { content.len() as u64 } else { 0 },
                xattrs: vec![(b"user.x".to_vec(), xattr)],
            };
            let mut writer = TarWriter::new(Vec::new());
            writer.append(&entry, &mut &content[..]).unwrap();
            let bytes = writer.finish().unwrap();
            prop_assert_eq!(bytes.len() % 512, 0);
            let mut reader = TarReader::new(&bytes[..]);
            let mut read = reader.next_entry().unwrap().unwrap();
            if read.kind == Kind::Folder {
                prop_assert_eq!(read.path.pop(), Some(b'/'));
            }
            prop_assert_eq!(&read, &entry);
            let mut back = vec![0; 2000];
            let mut filled = 0;
            loop {
                let n = reader.read_content(&mut back[filled..]).unwrap();
                if n == 0 { break }
                filled += n;
            }
            prop_assert_eq!(&back[..filled], if is_file { &content[..] } else { &[] });
            prop_assert!(reader.next_entry().unwrap().is_none());
        }
    }
}
