//! Unpacks a layer into a folder, confined to it, in the form that overlayfs stacks.
//!
//! Whiteouts become overlayfs' own: a character device 0:0, and `trusted.overlay.opaque` on folders
//! (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
//!
//! Confinement: a name with `..` or a leading slash is refused, and so is one whose parent is a
//! symbolic link of the same layer; every parent is opened one component at a time with O_NOFOLLOW
//! from the folder's own descriptor. So nothing outside can be reached, whatever the archive says.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    Entry, Kind, OPAQUE, OPAQUE_XATTR, WHITEOUT,
    compression::decompress,
    tar_read::{TarError, TarReader},
};
use crate::digest::{Algorithm, Digest, DigestReader, Digester};

/// What is the most that a layer may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Content, bytes.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            bytes: 1 << 40,
        }
    }
}

/// Longest name, bytes (PATH_MAX).
const MAX_PATH: usize = 4096;
/// How many parents are kept open.
const MAX_PARENTS: usize = 256;
/// How much is read and written at once, bytes.
const BUFFER: usize = 256 * 1024;

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
    pub implicit_folders: Vec<String>,
}

/// Unpacks a layer, compressed or not, into an empty folder. One pass: hash, inflate, hash, write.
pub fn unpack_layer(
    compressed: impl Read,
    folder: impl AsFd,
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    let mut compressed = DigestReader::new(compressed, Digester::new(Algorithm::Sha256));
    let (diff_id, done) = {
        let plain = decompress(&mut compressed).map_err(TarError::from)?;
        let plain = DigestReader::new(plain, Digester::new(Algorithm::Sha256));
        let mut reader = TarReader::new(plain);
        let mut unpacker = Unpacker::new(folder.as_fd(), limits)?;
        while let Some(entry) = reader.next_entry()? {
            unpacker.entry(&entry, &mut reader)?;
        }
        let done = unpacker.finish()?;
        // What follows the end mark belongs to the digests too.
        let mut plain = reader.into_inner();
        io::copy(&mut plain, &mut io::sink()).map_err(TarError::from)?;
        (plain.into_parts().1.finish(), done)
    };
    io::copy(&mut compressed, &mut io::sink()).map_err(TarError::from)?;
    let (_, digester) = compressed.into_parts();
    Ok(Unpacked {
        compressed_size: digester.bytes(),
        digest: digester.finish(),
        diff_id,
        size: done.bytes,
        entries: done.entries,
        implicit_folders: done.implicit,
    })
}

struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    parents: HashMap<Vec<u8>, OwnedFd>,
    explicit: HashSet<Vec<u8>>,
    implicit: HashSet<Vec<u8>>,
    /// Times of folders, set when nothing more is written into them.
    folder_times: Vec<(Vec<u8>, (i64, u32))>,
    buffer: Vec<u8>,
    entries: u64,
    bytes: u64,
}

struct Done {
    entries: u64,
    bytes: u64,
    implicit: Vec<String>,
}

impl Unpacker {
    fn new(folder: impl AsFd, limits: Limits) -> Result<Self, UnpackError> {
        let root = rustix::io::fcntl_dupfd_cloexec(folder, 3).map_err(|e| UnpackError::Io {
            path: "/".to_owned(),
            source: e.into(),
        })?;
        Ok(Self {
            root,
            limits,
            parents: HashMap::new(),
            explicit: HashSet::new(),
            implicit: HashSet::new(),
            folder_times: Vec::new(),
            buffer: vec![0; BUFFER],
            entries: 0,
            bytes: 0,
        })
    }

    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::TooLarge {
                limit: self.limits.entries,
                what: "entries",
            });
        }
        let parts = components(&entry.path)?;
        let Some((name, parent_parts)) = parts.split_last() else {
            return self.root_entry(entry);
        };
        let fail = |source: Errno| UnpackError::Io {
            path: lossy(&entry.path),
            source: source.into(),
        };
        let parent = self.parent(parent_parts, &entry.path)?;
        let path = parts.join(&b'/');
        if *name == OPAQUE {
            return mark_opaque(&parent).map_err(fail);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            // Other names with this prefix were aufs' own records.
            if hidden.starts_with(WHITEOUT) {
                return Ok(());
            }
            return self.whiteout(&parent, hidden, &entry.path);
        }
        let hides = self.make_room(&parent, name, &path, entry).map_err(fail)?;
        self.create(entry, reader, &parent, name, &path)?;
        if hides && entry.kind == Kind::Folder {
            let folder = open_folder(&parent, name).map_err(fail)?;
            mark_opaque(&folder).map_err(fail)?;
        }
        Ok(())
    }

    /// The root folder itself may be named, as `./`.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Folder {
            return Err(UnpackError::Escape {
                path: lossy(&entry.path),
                why: "would replace the root",
            });
        }
        let fail = |source: Errno| UnpackError::Io {
            path: "/".to_owned(),
            source: source.into(),
        };
        let root = open_folder(&self.root, b".").map_err(fail)?;
        rustix::fs::fchown(
            &root,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(fail)?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(entry.mode)).map_err(fail)?;
        self.folder_times.push((Vec::new(), entry.mtime));
        self.explicit.insert(Vec::new());
        Ok(())
    }

    /// Takes away what an earlier entry put in this place. Returns whether that was a whiteout.
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
        let whiteout = kind.is_char_device() && stat.st_rdev == 0;
        if kind.is_dir() {
            if entry.kind == Kind::Folder {
                return Ok(false);
            }
            self.forget(path);
            remove_tree(parent, name)?;
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        }
        Ok(whiteout)
    }

    /// Drops what is known of a folder that is going.
    fn forget(&mut self, path: &[u8]) {
        let inside =
            |p: &Vec<u8>| p == path || (p.starts_with(path) && p.get(path.len()) == Some(&b'/'));
        self.parents.retain(|p, _| !inside(p));
        self.implicit.retain(|p| !inside(p));
        self.folder_times.retain(|(p, _)| !inside(p));
    }

    fn create<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let fail = |source: Errno| UnpackError::Io {
            path: lossy(&entry.path),
            source: source.into(),
        };
        let mode = Mode::from_raw_mode(entry.mode);
        match &entry.kind {
            Kind::File => return self.file(entry, reader, parent, name),
            // Owner, mode and times are those of the first name.
            Kind::HardLink(target) => return self.hard_link(entry, target, parent, name),
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(&target[..], parent, name).map_err(fail)?;
            }
            Kind::Folder => match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(fail(e)),
            },
            Kind::CharacterDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                if device == 0 {
                    // It would be overlayfs' whiteout.
                    return Err(UnpackError::Escape {
                        path: lossy(&entry.path),
                        why: "is the device 0:0",
                    });
                }
                rustix::fs::mknodat(
                    parent,
                    name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    device,
                )
                .map_err(fail)?;
            }
            Kind::BlockDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(parent, name, FileType::BlockDevice, Mode::empty(), device)
                    .map_err(fail)?;
            }
            Kind::Fifo => {
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::empty(), 0)
                    .map_err(fail)?;
            }
        }
        let owner = (
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        );
        rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail)?;
        if !matches!(entry.kind, Kind::Symlink(_)) {
            // We have just made it ourselves in a folder that nobody else sees: no link to follow.
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(fail)?;
        }
        if entry.kind == Kind::Folder {
            let folder = open_folder(parent, name).map_err(fail)?;
            set_xattrs(&folder, entry).map_err(fail)?;
            self.implicit.remove(path);
            self.explicit.insert(path.to_vec());
            self.folder_times.push((path.to_vec(), entry.mtime));
        } else {
            rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(fail)?;
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let fail = |source: Errno| UnpackError::Io {
            path: lossy(&entry.path),
            source: source.into(),
        };
        if self
            .bytes
            .checked_add(entry.size)
            .is_none_or(|all| all > self.limits.bytes)
        {
            return Err(UnpackError::TooLarge {
                limit: self.limits.bytes,
                what: "bytes",
            });
        }
        self.bytes += entry.size;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        loop {
            let n = reader.read_content(&mut self.buffer)?;
            if n == 0 {
                break;
            }
            let mut rest = &self.buffer[..n];
            while !rest.is_empty() {
                let written =
                    rustix::io::retry_on_intr(|| rustix::io::write(&file, rest)).map_err(fail)?;
                rest = &rest[written..];
            }
        }
        // The owner first: a change of owner clears setuid, setgid and security.capability.
        rustix::fs::fchown(
            &file,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(fail)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(fail)?;
        set_xattrs(&file, entry).map_err(fail)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(fail)
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        target: &[u8],
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let fail = |source: Errno| UnpackError::Io {
            path: lossy(&entry.path),
            source: source.into(),
        };
        let parts = components(target).map_err(|_| UnpackError::Escape {
            path: lossy(&entry.path),
            why: "is a hard link that leads out of the layer",
        })?;
        let Some((target_name, target_parent)) = parts.split_last() else {
            return Err(UnpackError::Escape {
                path: lossy(&entry.path),
                why: "is a hard link to the root",
            });
        };
        let from = self.parent(target_parent, &entry.path)?;
        let stat =
            rustix::fs::statat(&from, *target_name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_dir() || (kind.is_char_device() && stat.st_rdev == 0) {
            return Err(fail(Errno::PERM));
        }
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is one to the link itself.
        rustix::fs::linkat(&from, *target_name, parent, name, AtFlags::empty()).map_err(fail)
    }

    fn whiteout(
        &mut self,
        parent: &OwnedFd,
        hidden: &[u8],
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let fail = |source: Errno| UnpackError::Io {
            path: lossy(path),
            source: source.into(),
        };
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(UnpackError::Escape {
                path: lossy(path),
                why: "hides no name",
            });
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

    /// Opens a folder below the root, one component at a time; makes what is missing.
    fn parent(&mut self, parts: &[&[u8]], path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let fail = |source: Errno| UnpackError::Io {
            path: lossy(path),
            source: source.into(),
        };
        let whole = parts.join(&b'/');
        if let Some(open) = self.parents.get(&whole) {
            return rustix::io::fcntl_dupfd_cloexec(open, 3).map_err(fail);
        }
        let mut folder = rustix::io::fcntl_dupfd_cloexec(&self.root, 3).map_err(fail)?;
        let mut so_far: Vec<u8> = Vec::new();
        for part in parts {
            if !so_far.is_empty() {
                so_far.push(b'/');
            }
            so_far.extend(*part);
            folder = match open_folder(&folder, part) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, *part, Mode::from_raw_mode(0o755))
                        .map_err(fail)?;
                    self.implicit.insert(so_far.clone());
                    open_folder(&folder, part).map_err(fail)?
                }
                Err(e @ (Errno::NOTDIR | Errno::LOOP)) => {
                    return Err(self.no_folder(&folder, part, path, e));
                }
                Err(e) => return Err(fail(e)),
            };
        }
        if self.parents.len() >= MAX_PARENTS {
            self.parents.clear();
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(&folder, 3).map_err(fail)?;
        self.parents.insert(whole, copy);
        Ok(folder)
    }

    fn no_folder(&self, folder: &OwnedFd, part: &[u8], path: &[u8], error: Errno) -> UnpackError {
        let is_link = rustix::fs::statat(folder, part, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_symlink());
        if is_link {
            UnpackError::Escape {
                path: lossy(path),
                why: "has a symbolic link as its parent",
            }
        } else {
            UnpackError::Io {
                path: lossy(path),
                source: error.into(),
            }
        }
    }

    fn finish(mut self) -> Result<Done, UnpackError> {
        self.parents.clear();
        for (path, time) in std::mem::take(&mut self.folder_times).iter().rev() {
            let fail = |source: Errno| UnpackError::Io {
                path: lossy(path),
                source: source.into(),
            };
            let parts: Vec<&[u8]> = path
                .split(|b| *b == b'/')
                .filter(|p| !p.is_empty())
                .collect();
            let folder = match parts.is_empty() {
                true => open_folder(&self.root, b".").map_err(fail)?,
                false => self.parent(&parts, path)?,
            };
            rustix::fs::utimensat(&folder, ".", &times(*time), AtFlags::empty()).map_err(fail)?;
        }
        let mut implicit: Vec<String> = self.implicit.iter().map(|p| lossy(p)).collect();
        implicit.sort_unstable();
        Ok(Done {
            entries: self.entries,
            bytes: self.bytes,
            implicit,
        })
    }
}

/// Splits a name into components; empty and `.` are dropped.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let escape = |why| {
        Err(UnpackError::Escape {
            path: lossy(path),
            why,
        })
    };
    if path.len() > MAX_PATH {
        return escape("is longer than 4096 bytes");
    }
    if path.starts_with(b"/") {
        return escape("is an absolute path");
    }
    if path.contains(&0) {
        return escape("holds a zero byte");
    }
    let parts: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return escape("leads out with ..");
    }
    Ok(parts)
}

fn open_folder(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn mark_opaque(folder: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(folder, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Attributes that may come from an image. `trusted.*` would let it forge overlayfs' marks,
/// `security.selinux` and the rest belong to the host.
fn set_xattrs(file: &OwnedFd, entry: &Entry) -> rustix::io::Result<()> {
    for (name, value) in &entry.xattrs {
        if name == b"security.capability" || name.starts_with(b"user.") {
            match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                // A file system without user attributes keeps the file without them, as docker does.
                Err(Errno::NOTSUP) if name.starts_with(b"user.") => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn remove_tree(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let folder = open_folder(parent, name)?;
    for child in rustix::fs::Dir::read_from(&folder)? {
        let child = child?;
        let child_name = child.file_name().to_bytes();
        if child_name == b"." || child_name == b".." {
            continue;
        }
        match rustix::fs::unlinkat(&folder, child_name, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(&folder, child_name)?,
            other => other?,
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
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
