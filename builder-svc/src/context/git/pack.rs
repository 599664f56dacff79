//! A pack: objects, some of them as changes of others (gitformat-pack(5)).
//!
//! Files go into the store of contexts as they are inflated; commits and trees stay in memory, within limits.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom},
    sync::Arc,
};

use flate2::bufread::ZlibDecoder;
use sha1::{Digest as _, Sha1};
use slipway_image::Digest;

use super::{super::ContentStore, Id};

/// Most objects, and most bytes of those that stay in memory.
const MAX_OBJECTS: u32 = 5_000_000;
const MAX_MEMORY: u64 = 512 << 20;
/// Largest object that is a change of another: git does not make changes of larger ones
/// (core.bigFileThreshold).
const MAX_DELTA: u64 = 512 << 20;
/// Most bytes of all files.
const MAX_CONTENT: u64 = 64 << 30;

/// What kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }
}

/// An object.
#[derive(Debug, Clone)]
pub enum Object {
    /// A file, in the store.
    File(Digest, u64),
    /// Anything else.
    Other(Kind, Arc<Vec<u8>>),
}

/// Objects by id.
pub struct Objects {
    store: Arc<ContentStore>,
    by_id: HashMap<Id, Object>,
    memory: u64,
    content: u64,
}

/// An object that is a change of another one.
struct Change {
    offset: u64,
    base: Base,
    size: u64,
    /// Where its compressed instructions begin.
    at: u64,
}

enum Base {
    Offset(u64),
    Id(Id),
}

fn broken(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the pack is broken: {why}"),
    )
}

impl Objects {
    /// Reads a pack.
    pub fn read(store: &Arc<ContentStore>, file: File) -> io::Result<Self> {
        let mut objects = Self {
            store: store.clone(),
            by_id: HashMap::new(),
            memory: 0,
            content: 0,
        };
        let mut input = Counted {
            inner: BufReader::with_capacity(128 << 10, file),
            at: 0,
        };
        let mut header = [0; 12];
        input.read_exact(&mut header)?;
        let count = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        if &header[..4] != b"PACK" || !matches!(header[7], 2 | 3) || count > MAX_OBJECTS {
            return Err(broken("its header is none"));
        }
        let mut ids = Vec::new();
        let mut changes = Vec::new();
        for _ in 0..count {
            let offset = input.at;
            let (kind, size) = object_header(&mut input)?;
            let base = match kind {
                1..=4 => {
                    let kind =
                        [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag][usize::from(kind) - 1];
                    let id = objects.whole(kind, size, &mut input)?;
                    ids.push((offset, id));
                    continue;
                }
                6 => {
                    let back = base_offset(&mut input)?;
                    let base = offset.checked_sub(back).filter(|b| *b < offset);
                    Base::Offset(base.ok_or_else(|| broken("a change of nothing"))?)
                }
                7 => {
                    let mut id = [0; 20];
                    input.read_exact(&mut id)?;
                    Base::Id(Id(id))
                }
                _ => return Err(broken("an object of no known kind")),
            };
            let at = input.at;
            // Its instructions are read when their base is there.
            if size > MAX_DELTA {
                return Err(broken("a change that is too large"));
            }
            let passed = io::copy(
                &mut ZlibDecoder::new(&mut input).take(size + 1),
                &mut io::sink(),
            )?;
            if passed != size {
                return Err(broken("an object has another size than it says"));
            }
            changes.push(Change {
                offset,
                base,
                size,
                at,
            });
        }
        objects.changes(input.inner, changes, ids)?;
        Ok(objects)
    }

    /// Applies changes as soon as their bases are there: each is looked at once, in whatever order they
    /// came.
    fn changes(
        &mut self,
        mut file: BufReader<File>,
        changes: Vec<Change>,
        ids: Vec<(u64, Id)>,
    ) -> io::Result<()> {
        let mut left = changes.len();
        let mut by_offset: HashMap<u64, Vec<Change>> = HashMap::new();
        let mut by_id: HashMap<Id, Vec<Change>> = HashMap::new();
        for change in changes {
            match change.base {
                Base::Offset(offset) => by_offset.entry(offset).or_default().push(change),
                Base::Id(id) => by_id.entry(id).or_default().push(change),
            }
        }
        // Objects that are there, and may be bases.
        let mut there = ids;
        while let Some((offset, base)) = there.pop() {
            let waiting = by_offset.remove(&offset).unwrap_or_default();
            let others = by_id.remove(&base).unwrap_or_default();
            if waiting.is_empty() && others.is_empty() {
                continue;
            }
            let object = self.by_id.get(&base).cloned();
            let object = object.ok_or_else(|| broken("a change of nothing"))?;
            // Once for all of its changes.
            let (kind, bytes) = self.bytes(&object)?;
            for change in waiting.into_iter().chain(others) {
                file.seek(SeekFrom::Start(change.at))?;
                let mut instructions = Vec::new();
                ZlibDecoder::new(&mut file)
                    .take(change.size)
                    .read_to_end(&mut instructions)?;
                let whole = apply(&bytes, &instructions)?;
                let id = self.whole(kind, whole.len() as u64, &mut Stored(&whole))?;
                there.push((change.offset, id));
                left -= 1;
            }
        }
        match left {
            0 => Ok(()),
            _ => Err(broken("a change of an object that is not there")),
        }
    }

    fn bytes(&self, object: &Object) -> io::Result<(Kind, Arc<Vec<u8>>)> {
        match object {
            Object::Other(kind, bytes) => Ok((*kind, bytes.clone())),
            Object::File(digest, size) => {
                if *size > MAX_DELTA {
                    return Err(broken("a change of an object that is too large"));
                }
                let mut bytes = Vec::new();
                self.store.read(digest)?.read_to_end(&mut bytes)?;
                Ok((Kind::Blob, Arc::new(bytes)))
            }
        }
    }

    /// Takes an object in as it comes, and says what its id is.
    fn whole(&mut self, kind: Kind, size: u64, input: &mut impl Inflate) -> io::Result<Id> {
        let mut hasher = Sha1::new();
        hasher.update(format!("{} {size}\0", kind.name()));
        let object = match kind {
            Kind::Blob => {
                self.content += size;
                if self.content > MAX_CONTENT {
                    return Err(broken("its files are too large"));
                }
                self.file(size, input, &mut hasher)?
            }
            kind => {
                self.memory += size;
                if self.memory > MAX_MEMORY {
                    return Err(broken("its trees are too large"));
                }
                let mut bytes = Vec::new();
                input.inflate(size, &mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
                hasher.update(&bytes);
                Object::Other(kind, Arc::new(bytes))
            }
        };
        let id = Id(hasher.finalize().into());
        self.by_id.insert(id, object);
        Ok(id)
    }

    fn file(&self, size: u64, input: &mut impl Inflate, hasher: &mut Sha1) -> io::Result<Object> {
        if size <= 256 << 10 {
            let mut bytes = Vec::new();
            input.inflate(size, &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            hasher.update(&bytes);
            return Ok(Object::File(self.store.put(&bytes)?, size));
        }
        let mut incoming = self.store.begin_unknown()?;
        input.inflate(size, &mut |piece| {
            hasher.update(piece);
            incoming.write(incoming.bytes(), piece)
        })?;
        Ok(Object::File(self.store.finish(incoming)?, size))
    }

    /// An object, if it is there.
    pub fn get(&self, id: &Id) -> Option<&Object> {
        self.by_id.get(id)
    }
}

/// Where the content of an object comes from.
trait Inflate {
    /// Gives exactly so many bytes, piece by piece.
    fn inflate(
        &mut self,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()>;
}

impl Inflate for Counted {
    fn inflate(
        &mut self,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut plain = ZlibDecoder::new(self);
        let mut buffer = vec![0; 64 << 10];
        let mut given = 0;
        loop {
            let n = plain.read(&mut buffer)?;
            given += n as u64;
            if given > size || (n == 0 && given < size) {
                return Err(broken("an object has another size than it says"));
            }
            if n == 0 {
                return Ok(());
            }
            take(&buffer[..n])?;
        }
    }
}

/// An object that was put together in memory.
struct Stored<'a>(&'a [u8]);

impl Inflate for Stored<'_> {
    fn inflate(&mut self, _: u64, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        take(self.0)
    }
}

/// A reader that knows where it is.
struct Counted {
    inner: BufReader<File>,
    at: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount as u64;
        self.inner.consume(amount);
    }
}

fn byte(input: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    input.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// Kind and size of an object.
fn object_header(input: &mut impl Read) -> io::Result<(u8, u64)> {
    let first = byte(input)?;
    let mut size = u64::from(first & 0x0f);
    let mut shift = 4;
    let mut last = first;
    while last & 0x80 != 0 {
        last = byte(input)?;
        if shift > 56 {
            return Err(broken("an object's size is none"));
        }
        size |= u64::from(last & 0x7f) << shift;
        shift += 7;
    }
    Ok((first >> 4 & 7, size))
}

/// How far back the base of a change is.
fn base_offset(input: &mut impl Read) -> io::Result<u64> {
    let mut last = byte(input)?;
    let mut offset = u64::from(last & 0x7f);
    while last & 0x80 != 0 {
        last = byte(input)?;
        offset = offset
            .checked_add(1)
            .and_then(|o| o.checked_mul(128))
            .ok_or_else(|| broken("an offset is none"))?
            | u64::from(last & 0x7f);
    }
    Ok(offset)
}

/// Applies the instructions of a change.
fn apply(base: &[u8], instructions: &[u8]) -> io::Result<Vec<u8>> {
    let mut rest = instructions;
    let from = length(&mut rest)?;
    let size = length(&mut rest)?;
    if from != base.len() as u64 || size > MAX_DELTA {
        return Err(broken("a change of another object"));
    }
    let mut out = Vec::new();
    while let [code, after @ ..] = rest {
        rest = after;
        if code & 0x80 == 0 {
            let n = usize::from(*code);
            if n == 0 || n > rest.len() {
                return Err(broken("a change that is none"));
            }
            out.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
        } else {
            let mut number = |bits: std::ops::Range<u8>| -> io::Result<usize> {
                let mut value = 0;
                for (i, bit) in bits.enumerate() {
                    if code & (1 << bit) != 0 {
                        value |= usize::from(byte(&mut rest)?) << (8 * i);
                    }
                }
                Ok(value)
            };
            let offset = number(0..4)?;
            let length = match number(4..7)? {
                0 => 0x10000,
                length => length,
            };
            let piece = offset
                .checked_add(length)
                .and_then(|end| base.get(offset..end));
            out.extend_from_slice(piece.ok_or_else(|| broken("a change of what is not there"))?);
        }
        if out.len() as u64 > size {
            return Err(broken("a change has another size than it says"));
        }
    }
    match out.len() as u64 == size {
        true => Ok(out),
        false => Err(broken("a change has another size than it says")),
    }
}

fn length(rest: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let next = byte(rest)?;
        value |= u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(broken("a size is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied_or_refused() {
        let base = b"hello world";
        // 11 bytes become 9: "hello" from the base, then " you" new.
        let good = [11, 9, 0x90, 5, 4, b' ', b'y', b'o', b'u'];
        assert_eq!(apply(base, &good).unwrap(), b"hello you");
        for bad in [
            &good[..good.len() - 1],
            &[10, 9, 0x90, 5],
            &[11, 200, 0x90, 5],
            &[11, 5, 0x91, 20, 5],
            &[11, 5, 0],
            &[11, 4, 0x90, 5],
            &[0x80; 20],
            &[],
        ] {
            assert!(apply(base, bad).is_err(), "{bad:?}");
        }
    }

    /// An object of a pack: kind, what stands in front of its content, content.
    fn object(kind: u8, before: &[u8], content: &[u8]) -> Vec<u8> {
        use io::Write as _;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(content).unwrap();
        assert!(content.len() < 16);
        let header = [kind << 4 | content.len() as u8];
        [&header[..], before, &packed.finish().unwrap()].concat()
    }

    #[test]
    fn changes_come_in_any_order() {
        let id = |text: &str| -> [u8; 20] {
            Sha1::digest(format!("blob {}\0{text}", text.len())).into()
        };
        // "a", and changes that each append a byte; the last comes first.
        let mut texts = vec!["a".to_owned()];
        for _ in 0..5 {
            texts.push(format!("{}b", texts.last().unwrap()));
        }
        let mut pack = b"PACK\0\0\0\x02\0\0\0\x06".to_vec();
        for pair in texts.windows(2).rev() {
            let n = pair[0].len() as u8;
            pack.extend(object(7, &id(&pair[0]), &[n, n + 1, 0x90, n, 1, b'b']));
        }
        let broken = [&pack[..11], &[5], &pack[12..]].concat();
        pack.extend(object(3, &[], b"a"));
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ContentStore::open(folder.path().join("content")).unwrap());
        let read = |bytes: &[u8]| {
            let mut file = store.unnamed().unwrap();
            io::Write::write_all(&mut file, bytes).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            Objects::read(&store, file)
        };
        let objects = read(&pack).unwrap();
        assert!(objects.get(&Id(id("abbbbb"))).is_some());
        assert!(read(&broken).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_change_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = apply(b"some base", &bytes);
        }

        #[test]
        fn no_pack_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let folder = tempfile::tempdir().unwrap();
            let store = Arc::new(ContentStore::open(folder.path().join("content")).unwrap());
            let mut file = store.unnamed().unwrap();
            let whole = [&b"PACK\0\0\0\x02\0\0\0\x03"[..], &bytes].concat();
            io::Write::write_all(&mut file, &whole).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let _ = Objects::read(&store, file);
        }
    }
}
