//! A tree of entries becomes a layer, and its large files parts that the next one only names.

use std::{
    io::{self, Read, Write as _},
    sync::Arc,
};

use flate2::CrcReader;
use slipway_image::{
    Digest,
    layer::{
        gzip::{Act, GzipWriter, KeptMembers, LEVEL},
        pack::{Archive, Content, LayerWriter, Members},
    },
};
use slipway_service::{chunks::ChunkWriter, whole::Whole};

use super::Tree;
use crate::{
    context::{
        ContentStore,
        content::{Checked, LARGE},
    },
    registry::BlobPiece,
    worker::import::{Piece, WorkerFiles},
};

/// Most parts of a layer: so many registry-svc takes.
const PARTS: usize = 4000;

/// Where a layer goes.
pub(super) type PieceWriter = ChunkWriter<BlobPiece>;

/// Where its plain archive goes, too: to a worker.
pub(super) type CopyWriter = ChunkWriter<Piece>;

/// All that a layer is made of.
pub(super) struct Packing {
    pub store: Arc<ContentStore>,
    pub tree: Arc<Tree>,
    /// Nobody takes it any more: it ends early.
    pub whole: Whole,
    /// Parts that registry-svc should have are named, not sent.
    pub name_parts: bool,
    /// What the worker that gets the copy has of it is not sent either.
    pub at_worker: Arc<WorkerFiles>,
}

/// What was made.
#[derive(Debug)]
pub(super) struct Packed {
    /// The plain archive.
    pub archive: Archive,
    /// Content that was sent as a part, in the order of the parts, and its CRC-32.
    pub new: Vec<(Digest, u32)>,
    /// Large content, and where in the layer it is.
    pub large: Vec<(Digest, String)>,
}

impl Packing {
    /// Writes the layer, and its plain archive to `copy`.
    pub fn pack(&self, out: PieceWriter, copy: Option<CopyWriter>) -> io::Result<Packed> {
        let kept = Arc::new(KeptBlocks(self.store.clone()));
        let gzip = GzipWriter::new(out, LEVEL).with_kept(kept);
        let mut layer = LayerWriter::with_copy(gzip, copy);
        let (mut new, mut large) = (Vec::new(), Vec::new());
        for (path, item) in &*self.tree {
            let mut header = item.header.clone();
            let path = path.join("/");
            header.path = path.clone().into_bytes();
            let Some(digest) = &item.content else {
                layer.append(&header, &mut io::empty())?;
                continue;
            };
            let mut content = Checked::open(&self.store, digest, header.size)?;
            if header.size < LARGE || large.len() == PARTS {
                layer.append(&header, &mut content)?;
                content.finish()?;
                continue;
            }
            large.push((digest.clone(), path));
            let mut content = Wanted {
                content: CrcReader::new(content),
                whole: &self.whole,
            };
            let known = self.store.part(digest).filter(|_| self.name_parts);
            let checksum = known.as_ref().map(|part| part.checksum);
            let members = match known {
                Some(part) => {
                    let known = BlobPiece::Known(part.digest, part.size);
                    Members::Known(Box::new(move |out: &mut PieceWriter| out.put(known)))
                }
                None => Members::Apart {
                    begin: Box::new(|out: &mut PieceWriter| out.put(BlobPiece::Begin)),
                    end: Box::new(|out: &mut PieceWriter| out.put(BlobPiece::End)),
                },
            };
            let place = self.at_worker.find(digest);
            let copied = place.map(|place| -> Act<CopyWriter> {
                let size = header.size;
                Box::new(move |copy: &mut CopyWriter| copy.put(Piece::Known { place, size }))
            });
            let apart = Content {
                content: &mut content,
                members,
                copied,
            };
            layer.append_content(&header, apart)?;
            let actual = content.finish()?;
            match checksum {
                None => new.push((digest.clone(), actual)),
                Some(checksum) if checksum == actual => {}
                Some(_) => {
                    self.store.forget(digest);
                    return Err(io::Error::other(
                        "the builder's copy of a context file is broken: build again",
                    ));
                }
            }
        }
        let (mut out, archive) = layer.end()?;
        out.flush()?;
        // Said before the pieces end, which they do with the writer.
        self.whole.tell();
        Ok(Packed {
            archive,
            new,
            large,
        })
    }
}

/// Plain bytes from which on a block of small files is worth a file.
const WORTH_KEEPING: usize = 64 << 10;

/// Blocks of this level that the store keeps.
struct KeptBlocks(Arc<ContentStore>);

impl KeptMembers for KeptBlocks {
    fn member(
        &self,
        plain: &[u8],
        make: &mut dyn FnMut() -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<u8>> {
        if plain.len() < WORTH_KEEPING {
            return make();
        }
        let digest = Digest::of(plain);
        if let Some(member) = self.0.block(&digest) {
            return Ok(member);
        }
        let member = make()?;
        if let Err(error) = self.0.keep_block(&digest, &member) {
            // The layer does not need it.
            tracing::debug!(%error, "a compressed block is not kept");
        }
        Ok(member)
    }
}

/// Content of a large file: little of it may be sent for a while, so that nobody wants it any more is asked for.
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
    /// Fails if the whole is not what it was said to be; returns its CRC-32.
    fn finish(self) -> io::Result<u32> {
        let checksum = self.content.crc().sum();
        self.content.into_inner().finish().map(|()| checksum)
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};
    use slipway_image::layer as tar;
    use tokio::sync::mpsc;

    use super::{super::tree::Item, *};
    use crate::context::content::Part;

    /// A store with one large file, and the layer that it makes.
    fn stored(folder: &std::path::Path) -> (Arc<ContentStore>, Arc<Tree>) {
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
        let tree = Tree::from([(vec!["large".to_owned()], item)]);
        (Arc::new(store), Arc::new(tree))
    }

    /// The layer; parts that are only named are taken from `known`.
    fn packed(packing: Packing, known: &[u8]) -> (Vec<u8>, Vec<u8>, io::Result<Packed>) {
        let (send, mut receive) = mpsc::channel(4);
        let packing = std::thread::spawn(move || packing.pack(PieceWriter::new(send), None));
        let (mut all, mut part, mut in_part) = (Vec::new(), Vec::new(), false);
        while let Some(piece) = receive.blocking_recv() {
            match piece {
                BlobPiece::Data(data) => {
                    all.extend(&data);
                    if in_part {
                        part.extend(&data);
                    }
                }
                BlobPiece::Begin => in_part = true,
                BlobPiece::End => in_part = false,
                BlobPiece::Known(_, size) => {
                    assert_eq!(size, known.len() as u64);
                    all.extend(known);
                }
            }
        }
        (all, part, packing.join().unwrap())
    }

    #[test]
    fn a_layer_is_the_same_when_its_parts_are_only_named() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tree) = stored(folder.path());
        let packing = |name_parts| Packing {
            store: store.clone(),
            tree: tree.clone(),
            whole: Whole::default(),
            name_parts,
            at_worker: Arc::default(),
        };
        let (all, part, made) = packed(packing(true), &[]);
        let made = made.unwrap();
        let (content, checksum) = made.new[0].clone();
        let digest = Digest::of(&part);
        let size = part.len() as u64;
        let note = |checksum| {
            let digest = digest.clone();
            let noted = Part {
                digest,
                size,
                checksum,
            };
            store.note_part(&content, noted);
        };
        note(checksum);
        let (named, nothing, again) = packed(packing(true), &part);
        let again = again.unwrap();
        assert_eq!((named, nothing, again.new.len()), (all.clone(), vec![], 0));
        assert_eq!(again.archive, made.archive);
        let (sent, _, again) = packed(packing(false), &[]);
        assert_eq!((sent, again.unwrap().new.len()), (all, 1));
        // What they were made of is not what is here.
        note(checksum ^ 1);
        assert!(packed(packing(true), &part).2.is_err());
        assert!(store.part(&content).is_none());
    }

    #[test]
    fn blocks_between_large_files_are_compressed_once() {
        let folder = tempfile::tempdir().unwrap();
        let (store, large) = stored(folder.path());
        let mut tree = (*large).clone();
        let large = tree.remove(&vec!["large".to_owned()]).unwrap();
        for number in 0..3_u8 {
            let mut small = large.clone();
            let content = vec![number; WORTH_KEEPING];
            small.header.size = content.len() as u64;
            small.content = Some(store.put(&content).unwrap());
            tree.insert(vec![format!("{number}-a")], small);
            tree.insert(vec![format!("{number}-b")], large.clone());
        }
        let packing = || Packing {
            store: store.clone(),
            tree: Arc::new(tree.clone()),
            whole: Whole::default(),
            name_parts: true,
            at_worker: Arc::default(),
        };
        let (all, parts, made) = packed(packing(), &[]);
        let (content, checksum) = made.unwrap().new[0].clone();
        let part = &parts[..parts.len() / 3];
        let noted = Part {
            digest: Digest::of(part),
            size: part.len() as u64,
            checksum,
        };
        store.note_part(&content, noted);
        assert_eq!(packed(packing(), part).0, all);
        // What is kept is taken, whatever it is.
        let blocks = folder.path().join("content/blocks");
        let mut kept = 0;
        for folder in std::fs::read_dir(blocks).unwrap() {
            for block in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let member = b"[kept]";
                let file = [&Sha256::digest(member)[..], member].concat();
                std::fs::write(block.unwrap().path(), file).unwrap();
                kept += 1;
            }
        }
        let again = packed(packing(), part).0;
        let taken = again.windows(6).filter(|w| w == b"[kept]").count();
        assert_eq!((kept, taken), (3, 3));
    }

    #[test]
    fn a_layer_that_nobody_takes_is_not_compressed_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tree) = stored(folder.path());
        let whole = Whole::default();
        drop(whole.until_dropped());
        let packing = Packing {
            store,
            tree,
            whole,
            name_parts: true,
            at_worker: Arc::default(),
        };
        let error = packed(packing, &[]).2.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
