//! What a new file system covers, copied into it (`tmpcopyup`): podman asks for that with each `--tmpfs`.
//!
//! By descriptors only, no link followed, nothing read but regular files: what is copied is the image's.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};

use super::{StartError, Step as _, rootfs};

/// Deepest folder that is copied.
const DEPTH: u32 = 128;

/// Copies what is at `target` inside `root` into a detached mount; nothing there is fine.
pub fn into(root: &OwnedFd, target: &str, mount: &OwnedFd) -> Result<(), StartError> {
    let what = || format!("cannot copy {target} into what covers it");
    let covered = match rootfs::open_inside(root, target, OFlags::DIRECTORY) {
        Ok(covered) => covered,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(e).step(what),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(&covered, ".", flags, Mode::empty()).step(what)?;
    let to = rustix::fs::openat(mount, ".", flags, Mode::empty()).step(what)?;
    folder(&from, &to, 0).step(what)
}

fn folder(from: &OwnedFd, to: &OwnedFd, depth: u32) -> rustix::io::Result<()> {
    if depth > DEPTH {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        one(from, to, name, &stat, depth)?;
    }
    // After its content, which changes the times.
    let stat = rustix::fs::fstat(from)?;
    own(to, &stat)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(to, &times(&stat))
}

fn one(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &std::ffi::CStr,
    stat: &Stat,
    depth: u32,
) -> rustix::io::Result<()> {
    let inside = OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let flags = inside | OFlags::RDONLY | OFlags::DIRECTORY;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
            folder(&source, &copy, depth + 1)
        }
        FileType::RegularFile => {
            // O_NONBLOCK: it may be something else by now.
            let read = inside | OFlags::RDONLY | OFlags::NONBLOCK;
            let source = rustix::fs::openat(from, name, read, Mode::empty())?;
            let write = inside | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let copy = rustix::fs::openat(to, name, write, Mode::from_raw_mode(0o600))?;
            let (mut source, mut copy) = (std::fs::File::from(source), std::fs::File::from(copy));
            std::io::copy(&mut source, &mut copy)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            own(&copy, stat)?;
            // After the owner, whose change takes them away.
            attributes(&source, &copy)?;
            rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            rustix::fs::futimens(&copy, &times(stat))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&*target, to, name)?;
            let link = rustix::fs::openat(to, name, inside | OFlags::PATH, Mode::empty())?;
            own(&link, stat)
        }
        // Sockets and devices mean nothing to a copy.
        _ => Ok(()),
    }
}

fn own(file: impl AsFd, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// File capabilities; other attributes a tmpfs may not take, and nobody misses them.
fn attributes(from: &std::fs::File, to: &std::fs::File) -> rustix::io::Result<()> {
    let mut value = [0; 64];
    let path = |file: &std::fs::File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let read = rustix::fs::getxattr(path(from), "security.capability", &mut value[..]);
    match read {
        Ok(length) => {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(path(to), "security.capability", &value[..length], flags)
        }
        Err(_) => Ok(()),
    }
}
