//! A tree of entries becomes a layer, and its large files gzip members that are kept for the next one.

use std::{
    fs::File,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use flate2::CrcReader;
use slipway_image::{
    Digest,
    layer::{
        gzip::{GzipWriter, LEVEL},
        pack::{LayerWriter, Packed},
    },
};
use slipway_service::whole::Whole;

use super::Tree;
use crate::context::{
    ContentStore,
    content::{Checked, LARGE, NewMembers},
};

/// How much is compressed at once where nothing can be kept, bytes.
const BLOCK: u64 = 4 << 20;

/// Writes a layer to `out`, and its plain archive to `copy`. It ends early when nobody takes it any more.
pub(super) fn pack<W: Write>(
    store: &ContentStore,
    tree: &Tree,
    out: W,
    copy: Option<slipway_service::chunks::ChunkWriter>,
    whole: &Whole,
) -> io::Result<Packed> {
    let mut layer = LayerWriter::new(out, LEVEL);
    if let Some(copy) = copy {
        layer = layer.with_copy(Box::new(copy));
    }
    for (path, item) in tree {
        let mut header = item.header.clone();
        header.path = path.join("/").into_bytes();
        match &item.content {
            None => layer.append(&header, &mut io::empty())?,
            Some(digest) if header.size >= LARGE => {
                let content = Checked::open(store, digest, header.size)?;
                let content = Wanted {
                    content: CrcReader::new(content),
                    whole,
                };
                match store.members(digest) {
                    Some((members, checksum)) => {
                        let same = |content: Wanted<'_>| {
                            if content.content.crc().sum() != checksum {
                                store.forget(digest);
                                return Err(io::Error::other(
                                    "the builder's copy of a context file is broken: build again",
                                ));
                            }
                            content.finish().map(|()| members)
                        };
                        layer.append_members(&header, content, same)?;
                    }
                    None => {
                        let making = Making::begin(content, store);
                        layer.append_members(&header, making, |making| {
                            making.finish(store, digest, header.size)
                        })?;
                    }
                }
            }
            Some(digest) => {
                let mut content = Checked::open(store, digest, header.size)?;
                layer.append(&header, &mut content)?;
                content.finish()?;
            }
        }
    }
    let (mut writer, packed) = layer.finish()?;
    writer.flush()?;
    Ok(packed)
}

/// Content of a large file: nothing of it is sent while it is compressed, so that nobody wants it any more is
/// asked for.
struct Wanted<'a> {
    content: CrcReader<Checked<'a>>,
    whole: &'a Whole,
}

impl Read for Wanted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.whole.is_cut_off() {
            let nobody = "nobody takes the layer any more";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, nobody));
        }
        self.content.read(buffer)
    }
}

impl Wanted<'_> {
    /// Fails if the whole is not what it was said to be.
    fn finish(self) -> io::Result<()> {
        self.content.into_inner().finish()
    }
}

/// Content that is compressed while it is read.
struct Making<'a> {
    content: Wanted<'a>,
    /// None = members cannot be kept, the disk is full say. That they are kept only saves time.
    gzip: Option<GzipWriter<NewMembers>>,
}

/// The gzip members of a file.
enum Members<'a> {
    Kept(File),
    Again(Box<Again<'a>>),
}

impl<'a> Making<'a> {
    fn begin(content: Wanted<'a>, store: &ContentStore) -> Self {
        let file = store.begin_members().map_err(not_kept).ok();
        Self {
            content,
            gzip: file.map(|file| GzipWriter::new(file, LEVEL)),
        }
    }

    /// The members, kept under the content's digest, which it is found to have.
    fn finish(
        self,
        store: &'a ContentStore,
        digest: &'a Digest,
        size: u64,
    ) -> io::Result<Members<'a>> {
        let (checksum, whole) = (self.content.content.crc().sum(), self.content.whole);
        self.content.finish()?;
        let kept = self.gzip.map(|gzip| {
            let members = gzip.finish()?;
            store.keep_members(digest, members, checksum)
        });
        match kept {
            Some(Ok(file)) => return Ok(Members::Kept(file)),
            Some(Err(error)) => not_kept(error),
            None => {}
        }
        let content = Wanted {
            content: CrcReader::new(Checked::open(store, digest, size)?),
            whole,
        };
        Ok(Members::Again(Box::new(Again::new(content))))
    }
}

fn not_kept(error: io::Error) {
    tracing::warn!(%error, "what a large file is compressed cannot be kept");
}

impl Read for Making<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read(buffer)?;
        if let Some(gzip) = &mut self.gzip
            && let Err(error) = gzip.write_all(&buffer[..n])
        {
            not_kept(error);
            // What was written makes room.
            self.gzip = None;
        }
        Ok(n)
    }
}

impl Read for Members<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kept(file) => file.read(buffer),
            Self::Again(again) => again.read(buffer),
        }
    }
}

/// The very same members once more, a few at a time, from content that is read a second time.
struct Again<'a> {
    content: Wanted<'a>,
    gzip: Option<GzipWriter<Made>>,
    made: Made,
    /// Of what was taken from `made`: the bytes, and how many were read.
    taken: (Vec<u8>, usize),
}

/// What was made and not taken yet.
#[derive(Clone, Default)]
struct Made(Arc<Mutex<Vec<u8>>>);

impl<'a> Again<'a> {
    fn new(content: Wanted<'a>) -> Self {
        let made = Made::default();
        Self {
            content,
            gzip: Some(GzipWriter::new(made.clone(), LEVEL)),
            made,
            taken: (Vec::new(), 0),
        }
    }
}

impl Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken.1 == self.taken.0.len() {
            let Some(gzip) = &mut self.gzip else {
                return Ok(0);
            };
            if io::copy(&mut self.content.by_ref().take(BLOCK), gzip)? == 0
                && let Some(gzip) = self.gzip.take()
            {
                gzip.finish()?;
            }
            self.taken = (std::mem::take(&mut *self.made.lock()), 0);
        }
        let rest = &self.taken.0[self.taken.1..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.taken.1 += n;
        Ok(n)
    }
}

impl Made {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use slipway_image::layer as tar;

    use super::{super::Item, *};

    /// A store with one large file, and the layer that it makes.
    fn stored(folder: &std::path::Path) -> (ContentStore, Tree) {
        let store = ContentStore::open(folder.join("content")).unwrap();
        let mut content = Vec::new();
        for number in 0_u32..3_000_000 {
            content.extend(number.wrapping_mul(2_654_435_761).to_le_bytes());
        }
        let digest = store.put(&content).unwrap();
        let header = tar::Entry {
            path: Vec::new(),
            kind: tar::Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (1, 0),
            size: content.len() as u64,
            xattrs: Vec::new(),
        };
        let item = Item {
            header,
            content: Some(digest),
        };
        (store, Tree::from([(vec!["large".to_owned()], item)]))
    }

    #[test]
    fn a_layer_is_the_same_where_its_members_cannot_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tree) = stored(folder.path());
        let packed = |store: &ContentStore| {
            let mut out = Vec::new();
            let packed = pack(store, &tree, &mut out, None, &Whole::default()).unwrap();
            assert_eq!(packed.compressed_size, out.len() as u64);
            packed.digest
        };
        let incoming = folder.path().join("content/incoming");
        // There is no place for them.
        fs::remove_dir(&incoming).unwrap();
        fs::write(&incoming, "").unwrap();
        let without = packed(&store);
        // There is no room for them.
        fs::remove_file(&incoming).unwrap();
        store.full_for_tests();
        let full = packed(&store);
        assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0);
        let again = ContentStore::open(folder.path().join("content")).unwrap();
        let kept = packed(&again);
        let digest = tree.values().next().unwrap().content.as_ref().unwrap();
        assert!(store.members(digest).is_none() && again.members(digest).is_some());
        assert_eq!((&without, &full), (&kept, &kept));
        assert_eq!(packed(&again), kept);
    }

    #[test]
    fn a_layer_that_nobody_takes_is_not_compressed_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tree) = stored(folder.path());
        let whole = Whole::default();
        drop(whole.until_dropped());
        let mut out = Vec::new();
        let error = pack(&store, &tree, &mut out, None, &whole).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let digest = tree.values().next().unwrap().content.as_ref().unwrap();
        assert!(store.members(digest).is_none());
    }
}
