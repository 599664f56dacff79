//! The content of contexts: files named by digest, kept between builds so that nothing is sent twice.
//!
//! It is a cache: what is read is hashed again, so that a file torn by a power cut is noticed; a large one once
//! in the life of this process.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use slipway_image::{Digest, Digester};
use slipway_service::disk;

use super::blocks::Blocks;

/// Bytes from which on a file is large: it is a part of its own in a layer, which the next layer that has it only
/// names, and is not hashed each time.
pub const LARGE: u64 = 256 << 10;

/// What a block counts for at least, bytes: those of zeros are tiny, and there may be many.
const SMALLEST: u64 = 4096;

/// The files.
#[derive(Debug)]
pub struct ContentStore {
    root: PathBuf,
    /// Taken to remove a file, shared to find one: what was found is not removed in the same moment.
    removing: RwLock<()>,
    /// Large content that this process has hashed since it was written.
    hashed: Mutex<HashSet<Digest>>,
    /// What large content is compressed.
    parts: Mutex<HashMap<Digest, Part>>,
    /// What blocks of small files are compressed.
    blocks: Blocks,
    /// Bytes of all files, at least; none = nobody has looked yet.
    total: Mutex<Option<u64>>,
}

/// The gzip members of large content: a part that registry-svc has, or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its digest.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// CRC-32 of the content that it was made of.
    pub checksum: u32,
}

/// What all content takes on disk.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Bytes of files.
    pub files: u64,
    /// Bytes of the folders that they are in.
    pub other: u64,
}

/// Content on its way in.
pub struct Incoming {
    file: File,
    temporary: PathBuf,
    digester: Digester,
    /// What it was said to be.
    digest: Option<Digest>,
}

impl ContentStore {
    /// Opens a folder; what an earlier instance had not finished is removed.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(root.join("incoming")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(root.join("incoming"))?;
        let blocks = Blocks::open(root.join("blocks"))?;
        // A file stays where it was made when it gets its name.
        disk::spread(&root.join("incoming"))?;
        Ok(Self {
            root,
            removing: RwLock::default(),
            hashed: Mutex::default(),
            parts: Mutex::default(),
            blocks,
            total: Mutex::default(),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.encoded();
        self.root
            .join(digest.algorithm().as_str())
            .join(&hex[..2])
            .join(hex)
    }

    /// Whether content of this digest and size is here. It counts as used now.
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        let _found = self.removing.read().unwrap_or_else(PoisonError::into_inner);
        File::open(self.path(digest)).is_ok_and(|file| {
            file.metadata().is_ok_and(|m| m.len() == size)
                // Only decides what is evicted first.
                && file.set_modified(SystemTime::now()).is_ok()
        })
    }

    /// Opens content.
    pub fn read(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// Forgets content that turned out to be broken.
    pub fn forget(&self, digest: &Digest) {
        self.hashed().remove(digest);
        self.parts().remove(digest);
        // Gone already is as good.
        let _ = fs::remove_file(self.path(digest));
    }

    /// Begins to take content in.
    pub fn begin(&self, digest: &Digest) -> io::Result<Incoming> {
        self.incoming(Some(digest.clone()))
    }

    /// Begins to take content in whose digest will be known at its end.
    pub fn begin_unknown(&self) -> io::Result<Incoming> {
        self.incoming(None)
    }

    /// A file of no name, for what is looked at and not kept.
    pub fn unnamed(&self) -> io::Result<File> {
        let incoming = self.incoming(None)?;
        let file = File::options()
            .read(true)
            .write(true)
            .open(&incoming.temporary)?;
        // Its name goes with `incoming`.
        Ok(file)
    }

    /// Where records of what was fetched are.
    pub fn fetched(&self) -> PathBuf {
        self.root.join("fetched")
    }

    fn incoming(&self, digest: Option<Digest>) -> io::Result<Incoming> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = hex::encode(random);
        let folder = self.root.join("incoming").join(&name[..2]);
        let temporary = folder.join(&name[2..]);
        let file = match File::create_new(&temporary) {
            // The first in it; or somebody cleaned the state folder, who loses content, not builds.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&folder)?;
                File::create_new(&temporary)?
            }
            file => file?,
        };
        Ok(Incoming {
            file,
            temporary,
            digester: digest
                .as_ref()
                .map_or_else(Digester::default, Digest::digester),
            digest,
        })
    }

    /// What large content is compressed, if a layer with it was made since this service began.
    pub fn part(&self, digest: &Digest) -> Option<Part> {
        self.parts().get(digest).cloned()
    }

    /// Remembers what large content is compressed.
    pub fn note_part(&self, digest: &Digest, part: Part) {
        self.parts().insert(digest.clone(), part);
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a plain block is compressed, if it is kept.
    pub fn block(&self, plain: &Digest) -> Option<Vec<u8>> {
        self.blocks.find(plain)
    }

    /// Keeps what a plain block is compressed.
    pub fn keep_block(&self, plain: &Digest, member: &[u8]) -> io::Result<()> {
        let bytes = self.blocks.keep(plain, member)?;
        if let Some(total) = &mut *self.total() {
            *total += bytes.max(SMALLEST);
        }
        Ok(())
    }

    /// Keeps a small content.
    pub fn put(&self, content: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(content);
        if !self.has(&digest, content.len() as u64) {
            let mut incoming = self.begin(&digest)?;
            incoming.write(0, content)?;
            self.finish(incoming)?;
        }
        Ok(digest)
    }

    /// Ends taking content in: it is here if it is what it was said to be.
    pub fn finish(&self, incoming: Incoming) -> io::Result<Digest> {
        let actual = incoming.digester.clone().finish();
        if incoming.digest.as_ref().is_some_and(|d| *d != actual) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it changed while it was read: build again",
            ));
        }
        let path = self.path(&actual);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        // The kernel's own time of a write is that of its last tick, which may be before the build began.
        incoming.file.set_modified(SystemTime::now())?;
        fs::rename(&incoming.temporary, path)?;
        self.note_hashed(&actual, incoming.bytes());
        if let Some(total) = &mut *self.total() {
            *total += incoming.bytes();
        }
        Ok(actual)
    }

    fn hashed(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_hashed(&self, digest: &Digest, size: u64) {
        if size >= LARGE {
            self.hashed().insert(digest.clone());
        }
    }

    /// Whether there may be more than so many bytes.
    pub fn exceeds(&self, keep: u64) -> bool {
        self.total().is_none_or(|total| total > keep)
    }

    fn total(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes blocks, then content, those that were used longest ago first, until at most `keep` bytes are left;
    /// returns how many files and bytes on disk went. What was used since `oldest`, when the oldest build began that
    /// runs now, stays.
    pub fn evict(&self, keep: u64, oldest: Option<SystemTime>) -> io::Result<(u64, u64)> {
        // What comes while we look is added to what we find.
        let before = *self.total().get_or_insert(0);
        let mut files = Vec::new();
        // Records of what was fetched are used when their content is, at most a moment earlier.
        collect(&self.fetched(), &mut files)?;
        collect(&self.root.join("sha256"), &mut files)?;
        files.sort_unstable();
        let mut blocks = Vec::new();
        collect(self.blocks.folder(), &mut blocks)?;
        blocks.sort_unstable();
        for block in &mut blocks {
            block.size = block.size.max(SMALLEST);
        }
        // A block is made again in a moment, content has to be sent.
        blocks.append(&mut files);
        let mut total: u64 = blocks.iter().map(|f| f.size).sum();
        let mut gone = (0, 0);
        for file in blocks {
            if total <= keep {
                break;
            }
            if oldest.is_some_and(|oldest| file.used >= oldest) {
                continue;
            }
            if self.remove(&file)? {
                total -= file.size;
                gone = (gone.0 + 1, gone.1 + file.disk);
            }
        }
        let mut known = self.total();
        let came = known.map_or(0, |now| now.saturating_sub(before));
        *known = Some(total + came);
        drop(known);
        // What is known of content that is gone would stay for ever.
        self.hashed().clear();
        if gone.0 > 0 {
            self.parts().retain(|digest, _| self.path(digest).exists());
        }
        Ok(gone)
    }

    /// Removes a file unless it was used since it was seen: by a build that began meanwhile.
    fn remove(&self, file: &Stored) -> io::Result<bool> {
        let _alone = self
            .removing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match fs::metadata(&file.path).and_then(|m| m.modified()) {
            Ok(used) if used == file.used => fs::remove_file(&file.path).map(|()| true),
            Ok(_) => Ok(false),
            // Forgotten meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Bytes that are here, on disk.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut files = Vec::new();
        collect(&self.root.join("sha256"), &mut files)?;
        collect(self.blocks.folder(), &mut files)?;
        let files = files.iter().map(|f| f.disk).sum();
        // The folder above holds nothing else.
        let above = self.root.parent().unwrap_or(&self.root);
        let all = disk::usage(above)?;
        Ok(Usage {
            files,
            other: all.saturating_sub(files),
        })
    }
}

/// Content that is here.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    used: SystemTime,
    size: u64,
    disk: u64,
    path: PathBuf,
}

fn collect(folder: &Path, files: &mut Vec<Stored>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let meta = match entry.metadata() {
            // Forgotten, or evicted, meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(Stored {
                used: meta.modified()?,
                size: meta.len(),
                disk: meta.blocks() * 512,
                path: entry.path(),
            });
        }
    }
    Ok(())
}

impl Incoming {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.digester.bytes()
    }

    /// Takes the next piece; `offset` says where the sender thinks that it belongs.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset != self.digester.bytes() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its pieces came out of order",
            ));
        }
        self.digester.update(data);
        self.file.write_all(data)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `finish` it has another name already.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Content that is checked while it is read: its size when it is opened, its digest at its end. Who
/// reads no further than the size must call [`Checked::finish`].
pub struct Checked<'a> {
    store: &'a ContentStore,
    file: File,
    /// None = it was checked.
    digester: Option<Digester>,
    digest: &'a Digest,
    size: u64,
}

impl<'a> Checked<'a> {
    /// Opens content of a store. `size` is what a manifest says: another one would cut the file off.
    pub fn open(store: &'a ContentStore, digest: &'a Digest, size: u64) -> io::Result<Self> {
        let file = File::open(store.path(digest))?;
        if file.metadata()?.len() != size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{digest} has not {size} bytes"),
            ));
        }
        Ok(Self {
            store,
            file,
            digester: (!store.hashed().contains(digest)).then(|| digest.digester()),
            digest,
            size,
        })
    }

    /// Reads what is left and fails if the whole is not what it was said to be.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        if n > 0 {
            if let Some(digester) = &mut self.digester {
                digester.update(&buffer[..n]);
            }
        } else if let Some(digester) = self.digester.take_if(|_| !buffer.is_empty()) {
            if digester.finish() != *self.digest {
                self.store.forget(self.digest);
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the builder's copy of a context file is broken: build again",
                ));
            }
            self.store.note_hashed(self.digest, self.size);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_checked_when_it_comes_and_when_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path().join("content")).unwrap();
        let digest = Digest::of("hello");
        let mut incoming = store.begin(&digest).unwrap();
        incoming.write(0, b"hel").unwrap();
        assert!(incoming.write(4, b"x").is_err());
        incoming.write(3, b"lo").unwrap();
        assert!(!store.has(&digest, 5));
        store.finish(incoming).unwrap();
        assert!(store.has(&digest, 5) && !store.has(&digest, 6));
        let mut text = String::new();
        Checked::open(&store, &digest, 5)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello");
        assert!(Checked::open(&store, &digest, 4).is_err());
        fs::write(store.path(&digest), "jello").unwrap();
        assert!(
            Checked::open(&store, &digest, 5)
                .unwrap()
                .read_to_string(&mut text)
                .is_err()
        );
        assert!(!store.has(&digest, 5));
        let mut wrong = store.begin(&digest).unwrap();
        wrong.write(0, b"other").unwrap();
        assert!(store.finish(wrong).is_err());
        let mut left = Vec::new();
        collect(&folder.path().join("content/incoming"), &mut left).unwrap();
        assert_eq!(left, []);
    }

    #[test]
    fn blocks_go_before_content() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path().join("content")).unwrap();
        let content = store.put(b"content").unwrap();
        store.evict(u64::MAX, None).unwrap();
        let plain = Digest::of("plain");
        store.keep_block(&plain, b"member").unwrap();
        assert!(store.exceeds(7 + SMALLEST - 1) && !store.exceeds(7 + SMALLEST));
        assert_eq!(store.usage().unwrap().files, 2 * 4096);
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(1000);
        assert_eq!(store.evict(7, Some(long_ago)).unwrap().0, 0);
        assert_eq!(store.evict(7, None).unwrap().0, 1);
        assert_eq!(store.block(&plain), None);
        assert!(store.has(&content, 7) && !store.exceeds(7));
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path().join("content")).unwrap();
        for (text, age) in [("old", 100), ("new", 10)] {
            let digest = Digest::of(text);
            let mut incoming = store.begin(&digest).unwrap();
            incoming.write(0, text.as_bytes()).unwrap();
            store.finish(incoming).unwrap();
            let time = SystemTime::now() - std::time::Duration::from_secs(age);
            File::open(store.path(&digest))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        assert!(store.exceeds(3));
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(1000);
        assert_eq!(store.evict(3, Some(long_ago)).unwrap().0, 0);
        assert!(store.exceeds(3));
        assert_eq!(store.evict(3, None).unwrap().0, 1);
        assert!(!store.exceeds(3));
        assert!(store.has(&Digest::of("new"), 3));
        let begun = SystemTime::now();
        store.put(b"other").unwrap();
        assert!(store.exceeds(3));
        assert_eq!(store.evict(0, Some(begun)).unwrap().0, 1);
        assert!(store.has(&Digest::of("other"), 5));
        store.put(b"new").unwrap();
        assert!(store.usage().unwrap().files >= 3);
    }
}
