//! Packs a folder that overlayfs wrote into a layer: sorted, and the same bytes for the same files.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    Entry, Kind, OPAQUE, OPAQUE_XATTR, WHITEOUT,
    gzip::{Act, GzipWriter},
    tar_write::{TarWriter, copy},
};
use crate::digest::{Digest, DigestWriter, Digester};

/// How a layer is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// No time is later than this (seconds since the epoch): SOURCE_DATE_EPOCH.
    pub latest: Option<i64>,
}

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the plain archive.
    pub diff_id: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// Digest of what was written.
    pub digest: Digest,
    /// Its size, bytes.
    pub compressed_size: u64,
    /// Entries; none means that nothing changed.
    pub entries: u64,
}

/// The plain archive of a layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its digest.
    pub diff_id: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// Entries; none means that nothing changed.
    pub entries: u64,
}

/// A gzip layer that is being written, and digested in the same pass.
pub struct LayerWriter<W: Write, C: Write = io::Sink> {
    tar: TarWriter<Body<W, C>>,
    entries: u64,
}

/// Content of a file that need not go everywhere, or not like everything else.
pub struct Content<R, W, C> {
    /// The content.
    pub content: R,
    /// What becomes of it in the gzip stream.
    pub members: Members<W>,
    /// Done with the copy in place of writing the content there.
    pub copied: Option<Act<C>>,
}

/// What becomes of a file's content in a gzip stream.
pub enum Members<W> {
    /// It gets members of its own: what they go to hears where they begin and where they end.
    Apart {
        /// Before the first.
        begin: Act<W>,
        /// After the last.
        end: Act<W>,
    },
    /// They are there already: this puts them in their place.
    Known(Act<W>),
}

/// The plain archive on its way to all who want it.
struct Body<W: Write, C: Write> {
    plain: Digester,
    /// Somebody else who gets it; nobody any more when that fails.
    copy: Option<C>,
    /// What is written now is put into the stream and the copy in another way.
    to_gzip: bool,
    to_copy: bool,
    gzip: GzipWriter<W>,
}

impl<W: Write, C: Write> Body<W, C> {
    fn put_into_copy(&mut self, act: impl FnOnce(&mut C) -> io::Result<()>) {
        if let Some(copy) = &mut self.copy
            && act(copy).is_err()
        {
            self.copy = None;
        }
    }
}

impl<W: Write, C: Write> Write for Body<W, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.to_gzip {
            self.gzip.write_all(bytes)?;
        }
        self.plain.update(bytes);
        if self.to_copy {
            self.put_into_copy(|copy| copy.write_all(bytes));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.gzip.flush()
    }
}

impl<W: Write> LayerWriter<DigestWriter<W>> {
    /// Digests what is written, too. `level` is gzip's, 0 to 9.
    pub fn new(inner: W, level: u32) -> Self {
        Self::upon(DigestWriter::new(inner, Digester::default()), level)
    }

    /// Ends the layer.
    pub fn finish(self) -> io::Result<(W, Packed)> {
        let (inner, archive) = self.end()?;
        let (inner, compressed) = inner.into_parts();
        let packed = Packed {
            size: archive.size,
            diff_id: archive.diff_id,
            entries: archive.entries,
            compressed_size: compressed.bytes(),
            digest: compressed.finish(),
        };
        Ok((inner, packed))
    }
}

impl<W: Write> LayerWriter<W> {
    /// Writes as it is. `level` is gzip's, 0 to 9.
    pub fn upon(inner: W, level: u32) -> Self {
        Self::with_copy(GzipWriter::new(inner, level), None)
    }
}

impl<W: Write, C: Write> LayerWriter<W, C> {
    /// Gives the plain archive to somebody else, too, as long as he takes it.
    pub fn with_copy(gzip: GzipWriter<W>, copy: Option<C>) -> Self {
        let body = Body {
            plain: Digester::default(),
            copy,
            to_gzip: true,
            to_copy: true,
            gzip,
        };
        Self {
            tar: TarWriter::new(body),
            entries: 0,
        }
    }

    /// Writes one entry.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn io::Read) -> io::Result<()> {
        self.entries += 1;
        self.tar.append(entry, content)
    }

    /// Writes a file whose content is known somewhere.
    pub fn append_content(
        &mut self,
        entry: &Entry,
        mut content: Content<impl Read, W, C>,
    ) -> io::Result<()> {
        self.entries += 1;
        self.tar.append_with(entry, |body| {
            let after = match content.members {
                Members::Apart { begin, end } => {
                    body.gzip.then(begin)?;
                    body.gzip.apart(true);
                    end
                }
                Members::Known(put) => {
                    body.to_gzip = false;
                    put
                }
            };
            if let Some(copied) = content.copied {
                body.put_into_copy(copied);
                body.to_copy = false;
            }
            let written = copy(&mut content.content, entry.size, body)?;
            (body.to_gzip, body.to_copy) = (true, true);
            body.gzip.then(after)?;
            body.gzip.apart(false);
            Ok(written)
        })
    }

    /// Ends the layer.
    pub fn end(self) -> io::Result<(W, Archive)> {
        let Body {
            plain, copy, gzip, ..
        } = self.tar.finish()?;
        if let Some(mut copy) = copy {
            // Who fails with it now has not all of it, and knows.
            let _ = copy.flush();
        }
        let archive = Archive {
            size: plain.bytes(),
            diff_id: plain.finish(),
            entries: self.entries,
        };
        Ok((gzip.finish()?, archive))
    }
}

/// Where entries of a walk go.
pub trait Sink {
    /// Writes one entry.
    fn append(&mut self, entry: &Entry, content: &mut dyn io::Read) -> io::Result<()>;
}

impl<W: Write, C: Write> Sink for LayerWriter<W, C> {
    fn append(&mut self, entry: &Entry, content: &mut dyn io::Read) -> io::Result<()> {
        LayerWriter::append(self, entry, content)
    }
}

/// A plain tar stream that is being written: no compression, no digests.
pub struct Plain<W>(TarWriter<W>);

impl<W: Write> Plain<W> {
    /// Begins a stream.
    pub const fn new(inner: W) -> Self {
        Self(TarWriter::new(inner))
    }

    /// Ends it.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Sink for Plain<W> {
    fn append(&mut self, entry: &Entry, content: &mut dyn io::Read) -> io::Result<()> {
        self.0.append(entry, content)
    }
}

/// Puts another name in the place of the first part of every path, or with an empty one takes that part
/// away, and what has no other part with it. Hard links follow.
pub struct Renamed<'a, S> {
    name: Vec<u8>,
    inner: &'a mut S,
}

impl<'a, S> Renamed<'a, S> {
    /// Into another sink.
    pub fn new(name: impl Into<Vec<u8>>, inner: &'a mut S) -> Self {
        Self {
            name: name.into(),
            inner,
        }
    }

    fn rename(&self, path: &[u8]) -> Vec<u8> {
        let rest = path
            .iter()
            .position(|b| *b == b'/')
            .map(|at| &path[at + 1..]);
        match (rest.unwrap_or_default(), self.name.is_empty()) {
            (b"", _) => self.name.clone(),
            (rest, true) => rest.to_vec(),
            (rest, false) => [&self.name, &b"/"[..], rest].concat(),
        }
    }
}

impl<S: Sink> Sink for Renamed<'_, S> {
    fn append(&mut self, entry: &Entry, content: &mut dyn io::Read) -> io::Result<()> {
        let mut entry = entry.clone();
        entry.path = self.rename(&entry.path);
        if let Kind::HardLink(target) = &entry.kind {
            entry.kind = Kind::HardLink(self.rename(target));
        }
        if entry.path.is_empty() {
            return Ok(());
        }
        self.inner.append(&entry, content)
    }
}

/// A tree in use: what goes while it is listed is left out, and so is what is in these folders, which are
/// named as the entries are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Live<'a> {
    /// Folders of which only themselves are written.
    pub without: &'a [&'a [u8]],
}

/// Writes `folder` itself as `.`, and everything below it as it is, without whiteouts: a view that is
/// merged already.
pub fn pack_tree(sink: &mut impl Sink, folder: impl AsFd) -> io::Result<()> {
    tree(sink, folder, None)
}

/// The same for a tree that others change meanwhile.
pub fn pack_live_tree(sink: &mut impl Sink, folder: impl AsFd, live: Live<'_>) -> io::Result<()> {
    tree(sink, folder, Some(live))
}

fn tree(sink: &mut impl Sink, folder: impl AsFd, live: Option<Live<'_>>) -> io::Result<()> {
    let mut walk = Walk {
        sink,
        options: Options::default(),
        whiteouts: false,
        links: HashMap::new(),
        live,
    };
    let folder = open(folder, b".", OFlags::DIRECTORY)?;
    let stat = rustix::fs::fstat(&folder)?;
    let own = walk.entry(b".".to_vec(), Kind::Folder, &stat, Vec::new());
    walk.sink.append(&own, &mut io::empty())?;
    let top = walk.level(folder, Vec::new())?;
    walk.descend(top)
}

/// Writes one thing of `folder` under its own name.
pub fn pack_one(sink: &mut impl Sink, folder: impl AsFd, name: &[u8]) -> io::Result<()> {
    one(sink, folder, name, None)
}

/// The same where others change things meanwhile.
pub fn pack_live_one(
    sink: &mut impl Sink,
    folder: impl AsFd,
    name: &[u8],
    live: Live<'_>,
) -> io::Result<()> {
    one(sink, folder, name, Some(live))
}

fn one(
    sink: &mut impl Sink,
    folder: impl AsFd,
    name: &[u8],
    live: Option<Live<'_>>,
) -> io::Result<()> {
    let mut walk = Walk {
        sink,
        options: Options::default(),
        whiteouts: false,
        links: HashMap::new(),
        live,
    };
    let folder = open(folder, b".", OFlags::DIRECTORY)?;
    match walk.child(&folder, name, name.to_vec())? {
        Some(below) => walk.descend(below),
        None => Ok(()),
    }
}

/// Writes everything below `folder`, whiteouts in OCI's form. The folder itself is not an entry.
pub fn pack_folder(sink: &mut impl Sink, folder: impl AsFd, options: Options) -> io::Result<()> {
    let mut walk = Walk {
        sink,
        options,
        whiteouts: true,
        links: HashMap::new(),
        live: None,
    };
    let folder = open(folder, b".", OFlags::DIRECTORY)?;
    let top = walk.level(folder, Vec::new())?;
    walk.descend(top)
}

/// Longest name of an entry, bytes: PATH_MAX, as the unpacker has it, and docker too.
const LONGEST: usize = 4096;

struct Walk<'a, S> {
    sink: &'a mut S,
    /// Turn overlayfs' marks into OCI's.
    whiteouts: bool,
    options: Options,
    /// First name of every file with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    live: Option<Live<'a>>,
}

/// A folder that is being written: what is left of it.
struct Level {
    folder: OwnedFd,
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl<S: Sink> Walk<'_, S> {
    /// Writes what is in a folder and in those below. Not by recursion: who made them may have nested them
    /// as deep as he liked.
    fn descend(&mut self, top: Level) -> io::Result<()> {
        let mut open = vec![top];
        while let Some(level) = open.last_mut() {
            let Some(name) = level.names.next() else {
                open.pop();
                continue;
            };
            let path = match &level.path[..] {
                [] => name.clone(),
                above => [above, b"/", &name].concat(),
            };
            if path.len() > LONGEST {
                let start = String::from_utf8_lossy(&path[..100]);
                return Err(io::Error::other(format!(
                    "{start}...: the name is longer than {LONGEST} bytes, which nobody could unpack"
                )));
            }
            match self.child(&level.folder, &name, path) {
                Err(e) if self.live.is_some() && e.kind() == io::ErrorKind::NotFound => {}
                below => open.extend(below?),
            }
        }
        Ok(())
    }

    fn level(&self, folder: OwnedFd, path: Vec<u8>) -> io::Result<Level> {
        let mut names = Vec::new();
        if !self
            .live
            .is_some_and(|live| live.without.contains(&&path[..]))
        {
            for child in rustix::fs::Dir::read_from(&folder)? {
                let child = child?;
                let name = child.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(name.to_vec());
                }
            }
        }
        names.sort_unstable();
        Ok(Level {
            folder,
            path,
            names: names.into_iter(),
        })
    }

    /// Writes one thing; a folder without what is in it, which is the answer.
    fn child(&mut self, parent: &OwnedFd, name: &[u8], path: Vec<u8>) -> io::Result<Option<Level>> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.whiteouts && kind.is_char_device() && stat.st_rdev == 0 {
            return self.mark(&path, &stat).map(|()| None);
        }
        if !kind.is_dir() && stat.st_nlink > 1 {
            let first = self
                .links
                .entry((stat.st_dev, stat.st_ino))
                .or_insert_with(|| path.clone());
            if *first != path {
                let kind = Kind::HardLink(first.clone());
                let entry = self.entry(path, kind, &stat, Vec::new());
                self.sink.append(&entry, &mut io::empty())?;
                return Ok(None);
            }
        }
        let device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        let kind = match kind {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => {
                Kind::Symlink(rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes())
            }
            FileType::CharacterDevice => Kind::CharacterDevice(device.0, device.1),
            FileType::BlockDevice => Kind::BlockDevice(device.0, device.1),
            FileType::Fifo => Kind::Fifo,
            // A socket lives only as long as its program: GNU tar leaves it out, and so does docker.
            _ => return Ok(None),
        };
        match kind {
            Kind::File => {
                // It may have been exchanged for a pipe, which nobody writes to.
                let file = open(parent, name, OFlags::NONBLOCK)?;
                if !FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file() {
                    return Err(io::Error::other("a file changed while it was read"));
                }
                let xattrs = xattrs(&file)?;
                let entry = self.entry(path, kind, &stat, xattrs);
                self.sink.append(&entry, &mut File::from(file))?;
                Ok(None)
            }
            Kind::Folder => {
                let folder = open(parent, name, OFlags::DIRECTORY)?;
                let entry = self.entry(path.clone(), kind, &stat, xattrs(&folder)?);
                self.sink.append(&entry, &mut io::empty())?;
                if self.whiteouts && is_opaque(&folder)? {
                    let path = [&path[..], b"/", OPAQUE].concat();
                    let entry = self.entry(path, Kind::File, &stat, Vec::new());
                    self.sink.append(
                        &Entry {
                            size: 0,
                            mode: 0o644,
                            ..entry
                        },
                        &mut io::empty(),
                    )?;
                }
                self.level(folder, path).map(Some)
            }
            kind => {
                let entry = self.entry(path, kind, &stat, Vec::new());
                self.sink.append(&entry, &mut io::empty())?;
                Ok(None)
            }
        }
    }

    /// A whiteout.
    fn mark(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        let at = path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let path = [&path[..at], WHITEOUT, &path[at..]].concat();
        let entry = self.entry(path, Kind::File, stat, Vec::new());
        let entry = Entry {
            size: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            ..entry
        };
        self.sink.append(&entry, &mut io::empty())
    }

    fn entry(
        &self,
        path: Vec<u8>,
        kind: Kind,
        stat: &Stat,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Entry {
        #[expect(
            clippy::unnecessary_cast,
            reason = "the types differ between architectures"
        )]
        let mut mtime = (stat.st_mtime as i64, stat.st_mtime_nsec as u32);
        if let Some(latest) = self.options.latest.filter(|latest| mtime.0 >= *latest) {
            mtime = (latest, 0);
        }
        Entry {
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime,
            size: stat.st_size as u64,
            xattrs,
        }
    }
}

fn open(parent: impl AsFd, name: &[u8], extra: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Whether overlayfs hides what is below this folder. `x` marks one that only has such children.
fn is_opaque(folder: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(folder, OPAQUE_XATTR, &mut value) {
        Ok(n) => Ok(&value[..n] == b"y"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The attributes that belong into an image, sorted: capabilities and the user's own.
fn xattrs(file: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Nearly every file has none or few: a large buffer for each would cost more than all the rest.
    let mut list = vec![0; 256];
    let length = match rustix::fs::flistxattr(file, &mut list) {
        Err(Errno::RANGE) => {
            list.resize(64 * 1024, 0);
            rustix::fs::flistxattr(file, &mut list)?
        }
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    let mut found = Vec::new();
    for name in list[..length].split(|b| *b == 0) {
        if name != b"security.capability" && !name.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::fgetxattr(file, name, &mut value)?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{limits::Limits, unpack::unpack_layer};
    use std::{fs, os::unix::fs::symlink};

    fn pack(path: &std::path::Path) -> (Vec<u8>, Packed) {
        let mut writer = LayerWriter::new(Vec::new(), 6);
        pack_folder(
            &mut writer,
            File::open(path).unwrap(),
            Options { latest: Some(7) },
        )
        .unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_nested_deeper_than_a_stack_is_refused_or_packed_but_no_crash() {
        let folder = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(folder.path(), flags, Mode::empty()).unwrap();
        let mut packed = Vec::new();
        for depth in 1..=2100 {
            rustix::fs::mkdirat(&at, "a", Mode::from(0o755)).unwrap();
            at = rustix::fs::openat(&at, "a", flags, Mode::empty()).unwrap();
            if depth % 700 == 0 {
                let folder = File::open(folder.path()).unwrap();
                let pack = move || {
                    let mut writer = LayerWriter::new(io::sink(), 1);
                    pack_folder(&mut writer, &folder, Options::default())
                };
                let thread = std::thread::Builder::new().stack_size(512 << 10);
                packed.push(thread.spawn(pack).unwrap().join().unwrap().is_ok());
            }
        }
        assert_eq!(packed, [true, true, false]);
        crate::layer::remove::remove_tree(&folder.path().join("a")).unwrap();
    }

    #[test]
    fn folders_of_a_live_tree_are_left_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("proc/1")).unwrap();
        fs::create_dir_all(folder.path().join("srv/proc")).unwrap();
        let live = Live {
            without: &[b"proc"],
        };
        let mut tar = Plain::new(Vec::new());
        pack_live_tree(&mut tar, File::open(folder.path()).unwrap(), live).unwrap();
        let bytes = tar.finish().unwrap();
        let mut reader = super::super::tar_read::TarReader::new(&bytes[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let name = String::from_utf8(entry.path).unwrap();
            names.push(name.trim_matches(['.', '/']).to_owned());
        }
        assert_eq!(names, ["", "proc", "srv", "srv/proc"]);
    }

    #[test]
    fn a_folder_comes_back_as_it_was_and_packs_to_the_same_bytes() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = one.path();
        fs::create_dir_all(path.join("b/c")).unwrap();
        fs::write(path.join("b/file"), "content").unwrap();
        fs::hard_link(path.join("b/file"), path.join("b/second")).unwrap();
        symlink("/nowhere", path.join("a")).unwrap();
        let folder = File::open(path.join("b/c")).unwrap();
        rustix::fs::fsetxattr(&folder, OPAQUE_XATTR, b"y", rustix::fs::XattrFlags::empty())
            .unwrap();
        rustix::fs::mknodat(&folder, "gone", FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let (bytes, packed) = pack(path);
        assert_eq!(packed.entries, 7);
        let unpacked = unpack_layer(
            &bytes[..],
            File::open(two.path()).unwrap(),
            Limits::default(),
        )
        .unwrap();
        assert_eq!(
            (&unpacked.diff_id, &unpacked.digest),
            (&packed.diff_id, &packed.digest)
        );
        assert!(unpacked.implicit_folders.is_empty());
        assert_eq!(pack(two.path()), (bytes, packed));
    }
}
