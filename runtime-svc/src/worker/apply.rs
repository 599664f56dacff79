//! COPY and ADD: a tar stream into a snapshot, every path resolved inside it.

use std::{
    collections::HashSet,
    io::{self, Read, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use slipway_image::layer::{
    Entry, Kind, compression::decompress, holes::WithHoles, tar_read::TarReader,
};

use super::owner::owner;
use crate::{
    error::{Error, Tried as _},
    executor::{plan::UserMap, rootfs},
};

/// Where and as whose files are applied.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// Folder inside the snapshot.
    pub path: String,
    /// `user[:group]`; "" = as in the archive.
    pub owner: String,
    /// 0 = as in the archive.
    pub mode: u32,
    /// The stream may be compressed, and names may be absolute.
    pub archive: bool,
    /// A folder never takes the place of something else.
    pub keep_kinds: bool,
    /// Owners are ids of a container, which are these on the host.
    pub ids: Option<UserMap>,
}

impl Target {
    /// An owner as the file system is to have it.
    fn on_host(&self, (uid, gid): (u32, u32)) -> Result<(u32, u32), Error> {
        match &self.ids {
            None => Ok((uid, gid)),
            Some(map) => map.uid(uid).zip(map.gid(gid)).ok_or_else(|| {
                Error::Invalid(format!(
                    "{uid}:{gid} cannot own a file there: the container's user namespace has no such ids"
                ))
            }),
        }
    }
}

/// What was applied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Applied {
    /// Content, bytes.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Applies a stream.
pub fn apply(root: &OwnedFd, target: &Target, stream: impl Read) -> Result<Applied, Error> {
    let owner = match target.owner.as_str() {
        "" => None,
        spec => Some(target.on_host(owner(root, spec)?)?),
    };
    let what = || format!("cannot make {}", target.path);
    match make_target(root, &target.path, owner) {
        Err(Errno::NOTDIR) if target.keep_kinds => return Err(non_directory(&target.path)),
        made => made.tried(what)?,
    }
    let invalid =
        |e: &dyn std::fmt::Display| Error::Invalid(format!("the files for {}: {e}", target.path));
    let plain: Box<dyn Read> = match target.archive {
        true => decompress(stream).map_err(|e| invalid(&e))?,
        false => Box::new(stream),
    };
    let mut reader = TarReader::new(plain);
    let mut applier = Applier {
        root,
        target,
        owner,
        buffer: vec![0; 128 * 1024],
        done: Applied::default(),
        times: Vec::new(),
    };
    while let Some(entry) = reader.next_entry().map_err(|e| invalid(&e))? {
        applier.entry(&entry, &mut reader)?;
        slipway_fault::point("runtime.apply.entry");
    }
    slipway_fault::point("runtime.apply.entries");
    applier.set_folder_times()?;
    let done = applier.done;
    // What stands behind the end of an archive is of no interest, but whoever sends it waits.
    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(|e| invalid(&e))?;
    Ok(done)
}

/// BuildKit's sentence (tonistiigi/fsutil, copy: copyDirectory).
fn non_directory(path: &str) -> Error {
    Error::Invalid(format!("cannot copy to non-directory: {path}"))
}

/// Makes the target folder; what had to be made belongs to the owner, and is 0755 whatever is copied.
fn make_target(root: &OwnedFd, path: &str, owner: Option<(u32, u32)>) -> rustix::io::Result<()> {
    let mut so_far = String::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        so_far.push('/');
        so_far.push_str(part);
        match rootfs::open_inside(root, &so_far, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                let folder = rootfs::make_folder_inside(root, &so_far, 0o755)?;
                if let Some((uid, gid)) = owner {
                    rustix::fs::chownat(
                        &folder,
                        "",
                        Some(Uid::from_raw(uid)),
                        Some(Gid::from_raw(gid)),
                        AtFlags::EMPTY_PATH,
                    )?;
                }
            }
            other => drop(other?),
        }
    }
    Ok(())
}

struct Applier<'a> {
    root: &'a OwnedFd,
    target: &'a Target,
    owner: Option<(u32, u32)>,
    buffer: Vec<u8>,
    done: Applied,
    times: Vec<(String, (i64, u32))>,
}

impl Applier<'_> {
    fn owner_of(&self, entry: &Entry) -> Result<(u32, u32), Error> {
        match self.owner {
            Some(owner) => Ok(owner),
            None => self.target.on_host((entry.uid, entry.gid)),
        }
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut TarReader<R>) -> Result<(), Error> {
        self.done.entries += 1;
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let refuse = |why: &str| Err(Error::Invalid(format!("{name} {why}")));
        if name.split('/').any(|part| part == "..")
            || (name.starts_with('/') && !self.target.archive)
        {
            return refuse("leads out of its target");
        }
        let parts: Vec<&str> = name
            .split('/')
            .filter(|p| !p.is_empty() && *p != ".")
            .collect();
        let Some((leaf, parents)) = parts.split_last() else {
            // The source folder itself. As BuildKit: a target that had to be made is plain, not like it.
            return Ok(());
        };
        let parent_path = format!(
            "{}/{}",
            self.target.path.trim_end_matches('/'),
            parents.join("/")
        );
        let what = || format!("cannot apply {name}");
        let parent = rootfs::make_folder_inside(self.root, &parent_path, 0o755).tried(what)?;
        let parent = rustix::fs::openat(
            &parent,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .tried(what)?;
        let path = format!("{}/{leaf}", parent_path.trim_end_matches('/'));
        let existing = match self.make_room(&parent, leaf, &path, entry) {
            Err(Errno::NOTDIR) if entry.kind == Kind::Folder => {
                return Err(non_directory(&path));
            }
            existing => existing.tried(what)?,
        };
        match &entry.kind {
            Kind::File => return self.file(entry, reader, &parent, leaf),
            Kind::HardLink(target) => {
                let target = String::from_utf8_lossy(target).into_owned();
                if target.split('/').any(|part| part == "..") {
                    return refuse("is a hard link that leads out of its target");
                }
                let (folder, file) = target.rsplit_once('/').unwrap_or(("", &target));
                let folder = format!("{}/{folder}", self.target.path);
                let from =
                    rootfs::open_inside(self.root, &folder, OFlags::DIRECTORY).tried(what)?;
                return rustix::fs::linkat(&from, file, &parent, *leaf, AtFlags::empty())
                    .tried(what);
            }
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(&target[..], &parent, *leaf).tried(what)?
            }
            Kind::Folder => {
                if !existing {
                    rustix::fs::mkdirat(&parent, *leaf, Mode::from_raw_mode(0o755)).tried(what)?;
                }
                return self.dress(&path, entry);
            }
            Kind::Fifo => {
                rustix::fs::mknodat(&parent, *leaf, FileType::Fifo, Mode::empty(), 0).tried(what)?
            }
            // overlayfs takes it for a mark that hides what is below.
            Kind::CharacterDevice(0, 0) => {
                return refuse("is a whiteout, which is not copied");
            }
            Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                let kind = match entry.kind {
                    Kind::BlockDevice(..) => FileType::BlockDevice,
                    _ => FileType::CharacterDevice,
                };
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(&parent, *leaf, kind, Mode::empty(), device).tried(what)?;
            }
        }
        let (uid, gid) = self.owner_of(entry)?;
        rustix::fs::chownat(
            &parent,
            *leaf,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .tried(what)?;
        if !matches!(entry.kind, Kind::Symlink(_)) {
            // In a running container somebody may put a link in its place: chmod by name would follow it.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(&parent, *leaf, flags, Mode::empty()).tried(what)?;
            let stat = rustix::fs::fstat(&made).tried(what)?;
            if FileType::from_raw_mode(stat.st_mode).is_symlink() {
                return refuse("was exchanged for a link");
            }
            use std::os::fd::AsRawFd as _;
            let path = format!("/proc/self/fd/{}", made.as_raw_fd());
            rustix::fs::chmod(path, self.mode(entry)).tried(what)?;
        }
        rustix::fs::utimensat(
            &parent,
            *leaf,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .tried(what)?;
        Ok(())
    }

    /// Gives a folder its owner, mode and time. It is resolved inside the snapshot and changed by its
    /// descriptor: by name, a link in its place would be followed on the host.
    fn dress(&mut self, path: &str, entry: &Entry) -> Result<(), Error> {
        let what = || format!("cannot make {path}");
        let folder = rootfs::open_inside(self.root, path, OFlags::DIRECTORY).tried(what)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&folder, ".", flags, Mode::empty()).tried(what)?;
        let (uid, gid) = self.owner_of(entry)?;
        rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .tried(what)?;
        rustix::fs::fchmod(&folder, self.mode(entry)).tried(what)?;
        self.times.push((path.to_owned(), entry.mtime));
        Ok(())
    }

    fn mode(&self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(if self.target.mode == 0 {
            entry.mode
        } else {
            self.target.mode
        })
    }

    /// Returns whether a folder is there that the entry's folder merges with. As docker: a folder is
    /// never replaced by a file.
    fn make_room(
        &self,
        parent: &OwnedFd,
        leaf: &str,
        path: &str,
        entry: &Entry,
    ) -> rustix::io::Result<bool> {
        let stat = match rustix::fs::statat(parent, leaf, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if entry.kind == Kind::Folder {
            if kind.is_dir() {
                return Ok(true);
            }
            // A link to a folder inside stays, and what follows goes where it leads.
            if kind.is_symlink() && rootfs::open_inside(self.root, path, OFlags::DIRECTORY).is_ok()
            {
                return Ok(true);
            }
        }
        if kind.is_dir() {
            return Err(Errno::ISDIR);
        }
        if entry.kind == Kind::Folder && self.target.keep_kinds {
            return Err(Errno::NOTDIR);
        }
        rustix::fs::unlinkat(parent, leaf, AtFlags::empty())?;
        Ok(false)
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
        parent: &OwnedFd,
        leaf: &str,
    ) -> Result<(), Error> {
        let what = || format!("cannot write {}", String::from_utf8_lossy(&entry.path));
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(parent, leaf, flags, Mode::from_raw_mode(0o600)).tried(what)?;
        let mut file = WithHoles::new(file.into());
        loop {
            let n = reader
                .read_content(&mut self.buffer)
                .map_err(|e| Error::Invalid(format!("{}: {e}", what())))?;
            if n == 0 {
                break;
            }
            file.write_all(&self.buffer[..n]).tried(what)?;
            self.done.bytes += n as u64;
        }
        let file = file.finish().tried(what)?;
        let (uid, gid) = self.owner_of(entry)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .tried(what)?;
        rustix::fs::fchmod(&file, self.mode(entry)).tried(what)?;
        for (name, value) in &entry.xattrs {
            if name == b"security.capability" || name.starts_with(b"user.") {
                rustix::fs::fsetxattr(file.as_fd(), &name[..], value, XattrFlags::empty())
                    .tried(what)?;
            }
        }
        rustix::fs::futimens(&file, &times(entry.mtime)).tried(what)
    }

    fn set_folder_times(&self) -> Result<(), Error> {
        // A folder that two sources have is as the last of them, in time as in mode.
        let mut set = HashSet::new();
        for (path, time) in self.times.iter().rev() {
            if !set.insert(path) {
                continue;
            }
            let what = || format!("cannot set the time of {path}");
            let folder = rootfs::open_inside(self.root, path, OFlags::DIRECTORY).tried(what)?;
            rustix::fs::utimensat(&folder, ".", &times(*time), AtFlags::empty()).tried(what)?;
        }
        Ok(())
    }
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
