//! Makes a pack of objects, and its index (gitformat-pack(5)).
//!
//! Not as a server sent it: the same objects give the same bytes, whatever changes of each other a server
//! chose, so that a layer that holds them is the same next time. No object is a change of another.

use std::io::{self, Read as _, Write};

use flate2::{Compression, write::ZlibEncoder};
use sha1::{Digest as _, Sha1};
use slipway_image::Digest;

use super::{super::Id, Kind, Object, Objects, broken};
use crate::context::{ContentStore, content::Incoming};

/// A pack and its index, in the store.
pub struct Packed {
    /// `pack-<hash>`, without an ending.
    pub name: String,
    /// The pack: its content and size.
    pub pack: (Digest, u64),
    /// Its index.
    pub index: (Digest, u64),
}

/// Makes a pack of objects that are all here.
pub fn write(store: &ContentStore, objects: &Objects, ids: &[Id]) -> io::Result<Packed> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let count = u32::try_from(ids.len()).map_err(io::Error::other)?;
    let mut out = Hashing::new(store.begin_unknown()?);
    out.write_all(b"PACK\0\0\0\x02")?;
    out.write_all(&count.to_be_bytes())?;
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        let offset = out.at();
        out.crc = flate2::Crc::new();
        let object = objects
            .get(&id)
            .ok_or_else(|| broken("an object is lost"))?;
        one(store, object, &mut out)?;
        rows.push(Row {
            id,
            crc: out.crc.sum(),
            offset,
        });
    }
    let (pack, hash) = out.finish(store)?;
    let mut out = Hashing::new(store.begin_unknown()?);
    index(&rows, &hash, &mut out)?;
    let (index, _) = out.finish(store)?;
    Ok(Packed {
        name: format!("pack-{}", hex::encode(hash)),
        pack,
        index,
    })
}

/// Where an object is.
struct Row {
    id: Id,
    crc: u32,
    offset: u64,
}

fn one(store: &ContentStore, object: &Object, out: &mut Hashing) -> io::Result<()> {
    match object {
        Object::Other(kind, bytes) => {
            header(*kind, bytes.len() as u64, out)?;
            let mut packed = ZlibEncoder::new(out, Compression::default());
            packed.write_all(bytes)?;
            packed.finish()?;
        }
        Object::File(digest, size) => {
            header(Kind::Blob, *size, out)?;
            let mut packed = ZlibEncoder::new(out, Compression::default());
            let copied = io::copy(&mut store.read(digest)?.take(*size), &mut packed)?;
            if copied != *size {
                return Err(broken("a file has been cut off"));
            }
            packed.finish()?;
        }
    }
    Ok(())
}

/// Kind and size of an object.
fn header(kind: Kind, size: u64, out: &mut impl Write) -> io::Result<()> {
    let number = match kind {
        Kind::Commit => 1_u8,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    };
    let mut byte = number << 4 | (size & 0x0f) as u8;
    let mut rest = size >> 4;
    while rest > 0 {
        out.write_all(&[byte | 0x80])?;
        byte = (rest & 0x7f) as u8;
        rest >>= 7;
    }
    out.write_all(&[byte])
}

/// An index of version 2 of rows that are sorted.
fn index(rows: &[Row], pack: &[u8; 20], out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"\xfftOc\0\0\0\x02")?;
    let mut below = [0_u32; 256];
    for row in rows {
        below[usize::from(row.id.0[0])] += 1;
    }
    let mut sum = 0;
    for n in below {
        sum += n;
        out.write_all(&sum.to_be_bytes())?;
    }
    for row in rows {
        out.write_all(&row.id.0)?;
    }
    for row in rows {
        out.write_all(&row.crc.to_be_bytes())?;
    }
    // What is beyond 2 GiB has its offset in another table.
    let mut far = Vec::new();
    for row in rows {
        let near = u32::try_from(row.offset).ok().filter(|o| o >> 31 == 0);
        let entry = near.unwrap_or_else(|| {
            far.push(row.offset);
            0x8000_0000 | (far.len() - 1) as u32
        });
        out.write_all(&entry.to_be_bytes())?;
    }
    for offset in far {
        out.write_all(&offset.to_be_bytes())?;
    }
    out.write_all(pack)
}

/// A file of the store that ends with the hash of all that is in front of it.
struct Hashing {
    incoming: Incoming,
    hasher: Sha1,
    /// Of what came since it was begun anew.
    crc: flate2::Crc,
}

impl Hashing {
    fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            hasher: Sha1::new(),
            crc: flate2::Crc::new(),
        }
    }

    fn at(&self) -> u64 {
        self.incoming.bytes()
    }

    fn finish(mut self, store: &ContentStore) -> io::Result<((Digest, u64), [u8; 20])> {
        let hash: [u8; 20] = self.hasher.clone().finalize().into();
        self.write_all(&hash)?;
        let size = self.at();
        Ok(((store.finish(self.incoming)?, size), hash))
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.crc.update(bytes);
        self.incoming.write(self.incoming.bytes(), bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Seek as _, SeekFrom},
        sync::Arc,
    };

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ContentStore::open(folder.path().join("content")).unwrap());
        let mut objects = Objects {
            store: store.clone(),
            by_id: Default::default(),
            memory: 0,
            content: 0,
        };
        let mut ids = Vec::new();
        for (kind, text) in [
            (Kind::Blob, "x".repeat(100_000)),
            (Kind::Blob, String::new()),
            (Kind::Commit, "tree 0\n".to_owned()),
            (Kind::Tag, "object".to_owned()),
        ] {
            let mut input = super::super::input::Stored(text.as_bytes());
            ids.push(objects.whole(kind, text.len() as u64, &mut input).unwrap());
        }
        let packed = write(&store, &objects, &ids).unwrap();
        let mut file = store.unnamed().unwrap();
        io::copy(&mut store.read(&packed.pack.0).unwrap(), &mut file).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let again = Objects::read(&store, file).unwrap();
        assert!(ids.iter().all(|id| again.get(id).is_some()));
        ids.reverse();
        assert_eq!(write(&store, &again, &ids).unwrap().name, packed.name);
        // Header, fan-out, three tables, two hashes.
        assert_eq!(packed.index.1, 8 + 1024 + 4 * 28 + 40);
    }

    #[test]
    fn offsets_may_be_large() {
        let row = |byte, offset| Row {
            id: Id([byte; 20]),
            crc: 0,
            offset,
        };
        let mut out = Vec::new();
        index(&[row(1, 12), row(2, 1 << 31)], &[0; 20], &mut out).unwrap();
        let table = &out[8 + 1024 + 2 * 24..];
        assert_eq!(table[..8], [0, 0, 0, 12, 0x80, 0, 0, 0]);
        assert_eq!(table[8..16], (1_u64 << 31).to_be_bytes());
    }
}
