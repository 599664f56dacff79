//! What is on disk: how much a tree takes, and how much room is left.

use std::{collections::HashSet, io, path::Path, sync::Arc};

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

/// A path below what it is resolved from may be so long until it is resolved from further down (the kernel
/// takes 4096 bytes).
const LONGEST: usize = 2048;

/// Bytes that a tree takes on disk: the blocks of files, folders, links and extended attributes, files of
/// several names once. It is what `du -x` says. What is mounted in it is not its own, what goes away
/// meanwhile does not count, and no link is followed, whoever changes the tree meanwhile. Blocks.
pub fn usage(path: &Path) -> io::Result<u64> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(e) => return Err(e.into()),
    };
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Ok(blocks(&stat));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(root) => Arc::new(root),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(0),
        Err(e) => return Err(e.into()),
    };
    let mut count = Count::default();
    let mut left = vec![(root, Vec::new())];
    while let Some((base, path)) = left.pop() {
        count.folder(base, path, &mut left)?;
    }
    Ok(count.bytes)
}

/// Bytes of a folder itself, without what is in it. Not there is none.
pub fn of_folder(path: &Path) -> io::Result<u64> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(blocks(&stat)),
        Err(Errno::NOENT) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

/// Says of a folder that the folders in it have nothing to do with each other (chattr(1), `T`): ext4 then spreads
/// them, and with them their files, over its block groups (Orlov's allocator, fs/ext4/ialloc.c).
///
/// It is for folders whose content goes and comes anew. ext4 gives no inode out again that was deleted in the
/// last minute (`recently_deleted`), and looks at each such one of a group for each new file: fifty thousand
/// files that take the place of as many need half a minute for that. Other file systems know no such flag, and
/// lose nothing.
pub fn spread(folder: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    // It is a wish: who does not hear it is not asked again.
    if let Ok(flags) = rustix::fs::ioctl_getflags(&folder) {
        let _ = rustix::fs::ioctl_setflags(&folder, flags | IFlags::TOPDIR);
    }
    Ok(())
}

/// A file system's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that it has.
    pub total: u64,
    /// Bytes that can still be written.
    pub free: u64,
}

/// The room of the file system that a path is on.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Room {
        total: stat.f_blocks * stat.f_frsize,
        free: stat.f_bavail * stat.f_frsize,
    })
}

#[derive(Default)]
struct Count {
    bytes: u64,
    /// Files of several names that were counted.
    seen: HashSet<(u64, u64)>,
}

/// Folders that are still to be counted: what a path is resolved from, and the path.
type Left = Vec<(Arc<OwnedFd>, Vec<u8>)>;

impl Count {
    /// Counts a folder and what is in it, but leaves the folders in it to be counted.
    fn folder(&mut self, base: Arc<OwnedFd>, path: Vec<u8>, left: &mut Left) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let name = if path.is_empty() { &b"."[..] } else { &path };
        let folder = match rustix::fs::openat2(&base, name, flags, Mode::empty(), inside) {
            Ok(folder) => folder,
            // Gone, exchanged, or something is mounted there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        self.bytes += blocks(&rustix::fs::fstat(&folder)?);
        let mut entries = Dir::read_from(&folder)?;
        let folder = Arc::new(folder);
        // Open folders are few: only those far down are kept for what is in them.
        let (base, path) = match path.len() > LONGEST {
            true => (folder.clone(), Vec::new()),
            false => (base, path),
        };
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                // The folder was removed while it was read.
                Err(Errno::NOENT) => break,
                Err(e) => return Err(e.into()),
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut kind = entry.file_type();
            if !kind.is_dir() {
                let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(e.into()),
                };
                // Not all file systems tell kinds in their folders.
                kind = FileType::from_raw_mode(stat.st_mode);
                if !kind.is_dir() {
                    self.file(&stat);
                }
            }
            if kind.is_dir() {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend(name.to_bytes());
                left.push((base.clone(), below));
            }
        }
        Ok(())
    }

    fn file(&mut self, stat: &Stat) {
        if stat.st_nlink <= 1 || self.seen.insert((stat.st_dev, stat.st_ino)) {
            self.bytes += blocks(stat);
        }
    }
}

/// stat(2): in units of 512 bytes, whatever the file system's blocks are.
fn blocks(stat: &Stat) -> u64 {
    stat.st_blocks.unsigned_abs() * 512
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    fn du(path: &Path) -> u64 {
        let said = Command::new("du").args(["-sx", "-B1"]).arg(path).output();
        let text = String::from_utf8(said.unwrap().stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_file_of_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), vec![1; 100_000]).unwrap();
        let before = usage(folder.path()).unwrap();
        assert!(before >= 100_000);
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_eq!(usage(folder.path()).unwrap(), before);
        assert_eq!(du(folder.path()), before);
    }

    #[test]
    fn trees_take_what_du_says() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // Deeper than a path may be long, which nobody can walk by name.
        let deep = "d".repeat(200);
        let mut at = rustix::fs::open(root, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &*deep, Mode::from(0o755)).unwrap();
            at = rustix::fs::openat(&at, &*deep, OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        std::os::unix::fs::symlink("/usr", root.join("out")).unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        for number in 0..3000 {
            fs::write(root.join(format!("a-rather-long-name-{number}")), "x").unwrap();
        }
        assert_eq!(usage(root).unwrap(), du(root));
        assert_eq!(usage(&root.join("not there")).unwrap(), 0);
        let one = root.join("a-rather-long-name-1");
        assert_eq!(usage(&one).unwrap(), du(&one));
    }
}
