//! Unpacks a layer into a folder, confined to it, in the form that overlayfs stacks.
//!
//! Whiteouts become overlayfs' own: a character device 0:0, and `trusted.overlay.opaque` on folders
//! (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
//!
//! Confinement is `tree`'s: every name is made clean first, a name that leads out is refused, and every
//! parent is found inside the root; the last component is never followed.
//!
//! Most layers are tens of thousands of small files, so each costs as few system calls as possible: made
//! with O_EXCL and its final mode, written from the buffer that it was inflated into, one call for its time.
//! Owner and mode are set only where the kernel would give others.

mod pipeline;
mod tree;

use std::{
    io::{self, BufRead},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    Entry, Kind, OPAQUE, OPAQUE_XATTR, WHITEOUT,
    limits::Limits,
    remove::remove_tree_at,
    tar_read::{TarError, TarReader},
};
use crate::digest::Digest;
use pipeline::{Form, Plain};
use tree::{Tree, clean, split};

/// Names of folders that are remembered to set their times at the end, and of those that were made for what
/// is in them, bytes.
const MAX_REMEMBERED: usize = 256 << 20;

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive itself.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name that leads out.
    #[error("entry {path:?} {why}: the layer is refused")]
    Escape {
        /// The entry.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Too much.
    #[error("the layer has more than {limit} {what}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// The file system refused.
    #[error("entry {path:?}: {source}")]
    Io {
        /// The entry.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl UnpackError {
    fn io(entry: &[u8], error: Errno) -> Self {
        Self::Io {
            path: lossy(entry),
            source: error.into(),
        }
    }

    fn escape(entry: &[u8], why: &'static str) -> Self {
        Self::Escape {
            path: lossy(entry),
            why,
        }
    }
}

impl From<io::Error> for UnpackError {
    fn from(error: io::Error) -> Self {
        Self::Tar(error.into())
    }
}

/// A layer that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of what came in.
    pub digest: Digest,
    /// Bytes that came in.
    pub compressed_size: u64,
    /// Digest of the plain archive.
    pub diff_id: Digest,
    /// Content written, bytes.
    pub size: u64,
    /// Entries.
    pub entries: u64,
    /// Folders that the archive did not name and that had to be made: they must look like the same
    /// folders of the layers below.
    pub implicit_folders: Vec<Vec<u8>>,
}

/// Unpacks a layer, compressed or not, into an empty folder. One pass: hash, inflate, hash, write, each on
/// a thread of its own; this one writes.
pub fn unpack_layer(
    compressed: impl BufRead + Send,
    folder: impl AsFd,
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    unpack(compressed, Form::Any, folder, limits)
}

/// The same for an archive that comes plain. One that is compressed is none: whoever counts what comes has
/// counted what is written.
pub fn unpack_plain_layer(
    plain: impl BufRead + Send,
    folder: impl AsFd,
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    unpack(plain, Form::Plain, folder, limits)
}

fn unpack(
    source: impl BufRead + Send,
    form: Form,
    folder: impl AsFd,
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    let (done, hashes) = pipeline::run(source, form, limits, |plain| {
        let mut reader = TarReader::new(plain);
        let mut unpacker = Unpacker::new(folder.as_fd(), limits)?;
        while let Some(entry) = reader.next_entry()? {
            unpacker.entry(&entry, &mut reader)?;
        }
        let done = unpacker.finish()?;
        // What follows the end mark belongs to the digest too.
        io::copy(reader.into_inner(), &mut io::sink())?;
        Ok::<_, UnpackError>(done)
    })?;
    Ok(Unpacked {
        digest: hashes.digest,
        compressed_size: hashes.compressed_size,
        diff_id: hashes.diff_id,
        size: done.bytes,
        entries: done.entries,
        implicit_folders: done.implicit,
    })
}

type Reader<'a> = TarReader<&'a mut Plain>;

struct Unpacker {
    tree: Tree,
    limits: Limits,
    owner: Owner,
    /// Times of folders, set when nothing more is written into them.
    folder_times: Vec<(Vec<u8>, (i64, u32))>,
    remembered: usize,
    entries: u64,
    bytes: u64,
}

/// What the kernel gives to a file that this process makes.
struct Owner {
    uid: u32,
    gid: u32,
    umask: u32,
    /// A folder of the layer hands its group down.
    inherited: bool,
}

struct Done {
    entries: u64,
    bytes: u64,
    implicit: Vec<Vec<u8>>,
}

impl Owner {
    fn new() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask().unwrap_or(0o7777),
            inherited: false,
        }
    }

    fn is_given(&self, entry: &Entry) -> bool {
        (entry.uid, entry.gid) == (self.uid, self.gid) && !self.inherited
    }

    /// Whether a file made with this mode has it. setuid and setgid go when the owner changes.
    fn mode_is_given(&self, entry: &Entry) -> bool {
        entry.mode & (self.umask | 0o7000) == 0
    }
}

/// umask(2) can only be asked by changing it, for all threads at once.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

impl Unpacker {
    fn new(folder: impl AsFd, limits: Limits) -> Result<Self, UnpackError> {
        let fail = |e: Errno| UnpackError::io(b"/", e);
        // Whatever the folder above hands down to new files is not for these.
        match rustix::fs::fremovexattr(&folder, "system.posix_acl_default") {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(fail(e)),
        }
        let mut owner = Owner::new();
        let stat = rustix::fs::fstat(&folder).map_err(fail)?;
        owner.inherited = stat.st_mode & 0o2000 != 0;
        Ok(Self {
            tree: Tree::new(folder).map_err(fail)?,
            limits,
            owner,
            folder_times: Vec::new(),
            remembered: 0,
            entries: 0,
            bytes: 0,
        })
    }

    fn entry(&mut self, entry: &Entry, reader: &mut Reader<'_>) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries + self.tree.made() > self.limits.entries {
            return Err(UnpackError::TooLarge {
                limit: self.limits.entries,
                what: "entries",
            });
        }
        let path = clean(&entry.path).map_err(|why| UnpackError::escape(&entry.path, why))?;
        let Some((folder, name)) = split(&path) else {
            return self.root_entry(entry);
        };
        if is_reserved(folder) || (is_reserved(name) && name != OPAQUE) {
            return Ok(());
        }
        let parent = self.tree.parent(folder, &entry.path)?;
        if self.remembered + self.tree.remembered() > MAX_REMEMBERED {
            return Err(UnpackError::TooLarge {
                limit: MAX_REMEMBERED as u64,
                what: "bytes of folder names",
            });
        }
        if name == OPAQUE {
            return mark_opaque(&parent).map_err(|e| UnpackError::io(&entry.path, e));
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return whiteout(&parent, hidden, &entry.path);
        }
        if entry.kind == Kind::CharacterDevice(0, 0) {
            // overlayfs' own whiteout, from a tool that packed an upper folder as it was: it hides what
            // is below in docker's containers, and here.
            self.make_room(&parent, name, &path, entry)
                .map_err(|e| UnpackError::io(&entry.path, e))?;
            return whiteout(&parent, name, &entry.path);
        }
        match self.create(entry, reader, &parent, name, &path) {
            Err(Failure::Exists) => {}
            other => return other.map_err(|e| e.of(entry)),
        }
        let hides = self
            .make_room(&parent, name, &path, entry)
            .map_err(|e| UnpackError::io(&entry.path, e))?;
        self.create(entry, reader, &parent, name, &path)
            .map_err(|e| e.of(entry))?;
        if hides && entry.kind == Kind::Folder {
            open_folder(&parent, name)
                .and_then(|folder| mark_opaque(&folder))
                .map_err(|e| UnpackError::io(&entry.path, e))?;
        }
        Ok(())
    }

    /// The root folder itself may be named, as `./`.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Folder {
            return Err(UnpackError::escape(&entry.path, "would replace the root"));
        }
        let root = self.tree.parent(b"", &entry.path)?;
        self.dress_folder(entry, &root, b".", b"")
            .map_err(|e| e.of(entry))
    }

    /// Takes away what an earlier entry put in this place, unless both are folders. Returns whether that was
    /// a whiteout.
    fn make_room(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
    ) -> rustix::io::Result<bool> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_dir() {
            if entry.kind == Kind::Folder {
                return Ok(false);
            }
            self.forget(path);
            remove_tree_at(parent, name)?;
            return Ok(false);
        }
        if kind.is_symlink() {
            self.forget(path);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        Ok(kind.is_char_device() && stat.st_rdev == 0)
    }

    /// Drops what is known of a folder or link that is going. Times of folders that are gone are passed over
    /// at the end; those of a folder that takes their place come later in the list.
    fn forget(&mut self, path: &[u8]) {
        self.tree.forget(path);
    }

    fn create(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<'_>,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Failure> {
        let device = match &entry.kind {
            Kind::File => return self.file(entry, reader, parent, name),
            // Owner, mode and times are those of the first name.
            Kind::HardLink(target) => return self.hard_link(entry, target, parent, name),
            Kind::Folder => {
                let mode = Mode::from_raw_mode(entry.mode & 0o1777);
                match rustix::fs::mkdirat(parent, name, mode) {
                    Ok(()) => return self.dress_folder(entry, parent, name, path),
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                return match FileType::from_raw_mode(stat.st_mode).is_dir() {
                    true => self.dress_folder(entry, parent, name, path),
                    false => Err(Failure::Exists),
                };
            }
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(&target[..], parent, name)?;
                None
            }
            Kind::CharacterDevice(major, minor) => Some((
                FileType::CharacterDevice,
                rustix::fs::makedev(*major, *minor),
            )),
            Kind::BlockDevice(major, minor) => {
                Some((FileType::BlockDevice, rustix::fs::makedev(*major, *minor)))
            }
            Kind::Fifo => Some((FileType::Fifo, 0)),
        };
        let mode = Mode::from_raw_mode(entry.mode);
        if let Some((kind, number)) = device {
            rustix::fs::mknodat(parent, name, kind, Mode::empty(), number)?;
        }
        chown(entry, parent, name)?;
        if device.is_some() {
            // We have just made it ourselves in a folder that nobody else sees: no link to follow.
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// A folder that was made, or is named again, or is the root: `name` in `parent`.
    fn dress_folder(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Failure> {
        chown(entry, parent, name)?;
        // No link: it is a folder, and nobody else is here.
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        if !entry.xattrs.is_empty() {
            set_xattrs(&open_folder(parent, name)?, entry)?;
        }
        self.owner.inherited |= entry.mode & 0o2000 != 0;
        self.tree.name(path);
        self.remembered += tree::cost(path);
        self.folder_times.push((path.to_vec(), entry.mtime));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<'_>,
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<(), Failure> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(entry.mode))?;
        let written = self.content(entry, reader, &file)?;
        if written < entry.size {
            rustix::fs::ftruncate(&file, entry.size)?;
        }
        // The owner first: a change of owner clears setuid, setgid and security.capability.
        if !self.owner.is_given(entry) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        if !self.owner.mode_is_given(entry) {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        }
        set_xattrs(&file, entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime))?;
        Ok(())
    }

    /// Writes content but no holes; returns where the last of it ends.
    fn content(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<'_>,
        file: &OwnedFd,
    ) -> Result<u64, Failure> {
        let mut end = 0;
        while let Some((at, mut piece)) = reader.next_piece().map_err(UnpackError::from)? {
            self.bytes = self.bytes.saturating_add(piece.len() as u64);
            if self.bytes > self.limits.bytes {
                return Err(Failure::Unpack(UnpackError::TooLarge {
                    limit: self.limits.bytes,
                    what: "bytes",
                }));
            }
            if at != end {
                rustix::fs::seek(file, rustix::fs::SeekFrom::Start(at))
                    .map_err(|e| UnpackError::io(&entry.path, e))?;
            }
            end = at + piece.len() as u64;
            while !piece.is_empty() {
                let n = rustix::io::retry_on_intr(|| rustix::io::write(file, piece))?;
                piece = &piece[n..];
            }
        }
        reader.release();
        Ok(end)
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        target: &[u8],
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<(), Failure> {
        let refuse = |why| Failure::Unpack(UnpackError::escape(&entry.path, why));
        let target =
            clean(target).map_err(|_| refuse("is a hard link that leads out of the layer"))?;
        let Some((folder, target_name)) = split(&target) else {
            return Err(refuse("is a hard link to the root"));
        };
        // Like docker and containerd, which unpack a layer into a folder of its own too.
        let missing = "is a hard link to what the layer does not have";
        let from = match self.tree.folder_of_target(folder)? {
            Some(from) => from,
            None => return Err(refuse(missing)),
        };
        let stat = match rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(refuse(missing)),
            Err(e) => return Err(e.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_dir() {
            return Err(refuse("is a hard link to a folder"));
        }
        if kind.is_char_device() && stat.st_rdev == 0 {
            return Err(refuse(missing));
        }
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is one to the link itself.
        match rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                // To itself: GNU tar writes that when a file was named twice.
                let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) {
                    true => Ok(()),
                    false => Err(Failure::Exists),
                }
            }
            other => Ok(other?),
        }
    }

    fn finish(mut self) -> Result<Done, UnpackError> {
        // The later of two entries for one folder counts.
        for (path, time) in std::mem::take(&mut self.folder_times) {
            let fail = |e: Errno| UnpackError::io(&path, e);
            // A later entry may have put something else in its place.
            if let Some(folder) = self.tree.folder(&path).map_err(fail)? {
                rustix::fs::utimensat(&folder, ".", &times(time), AtFlags::empty())
                    .map_err(fail)?;
            }
        }
        Ok(Done {
            entries: self.entries,
            bytes: self.bytes,
            implicit: self.tree.into_implicit(),
        })
    }
}

/// Why an entry could not be made.
enum Failure {
    /// Something of an earlier entry is there.
    Exists,
    Kernel(Errno),
    Unpack(UnpackError),
}

impl Failure {
    fn of(self, entry: &Entry) -> UnpackError {
        match self {
            Self::Exists => UnpackError::io(&entry.path, Errno::EXIST),
            Self::Kernel(error) => UnpackError::io(&entry.path, error),
            Self::Unpack(error) => error,
        }
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        match error {
            Errno::EXIST => Self::Exists,
            error => Self::Kernel(error),
        }
    }
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

/// Names that aufs kept its own records under, and what is in them.
fn is_reserved(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').any(|part| {
        part.strip_prefix(WHITEOUT)
            .is_some_and(|rest| rest.starts_with(WHITEOUT))
    })
}

fn whiteout(parent: &OwnedFd, hidden: &[u8], entry: &[u8]) -> Result<(), UnpackError> {
    let fail = |e: Errno| UnpackError::io(entry, e);
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(UnpackError::escape(entry, "hides no name"));
    }
    match rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => Ok(()),
        // A whiteout speaks of the layers below: what this layer has itself stays, and a folder
        // of it does not merge with the one below.
        Err(Errno::EXIST) => match open_folder(parent, hidden) {
            Ok(folder) => mark_opaque(&folder).map_err(fail),
            Err(_) => Ok(()),
        },
        Err(e) => Err(fail(e)),
    }
}

fn open_folder(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn chown(entry: &Entry, parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn mark_opaque(folder: &OwnedFd) -> rustix::io::Result<()> {
    // Parents are opened for finding things in them only.
    let folder = open_folder(folder, b".")?;
    rustix::fs::fsetxattr(folder, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Attributes that may come from an image. `trusted.*` would let it forge overlayfs' marks,
/// `security.selinux` and the rest belong to the host.
fn set_xattrs(file: &OwnedFd, entry: &Entry) -> rustix::io::Result<()> {
    for (name, value) in &entry.xattrs {
        let users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if name == b"security.capability" || users {
            match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                // A file system without user attributes keeps the file without them, as docker does.
                Err(Errno::NOTSUP) if users => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds) as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
