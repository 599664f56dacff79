//! A pack: objects, some of them as changes of others (gitformat-pack(5)).
//!
//! Files go into the store of contexts as they are inflated; commits and trees stay in memory, within limits.
//! `input` reads what a pack is made of, `delta` applies changes, `write` makes a pack of objects that are here.

mod delta;
mod input;
mod write;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    sync::Arc,
};

use flate2::bufread::ZlibDecoder;
use sha1::{Digest as _, Sha1};
use slipway_image::Digest;

use super::{super::ContentStore, Id};
use delta::apply;
use input::{Counted, Inflate, Stored, base_offset, object_header};
pub use write::write;

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

#[cfg(test)]
mod tests {
    use super::*;

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
