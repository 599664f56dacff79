//! A container's tar stream into the caller's files. The stream comes from whoever runs in the container:
//! it reaches nothing outside of its folder, whatever names and links it has.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use slipway_image::layer::{Entry, Kind, holes::WithHoles, tar_read::TarReader};

/// How things are unpacked.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// In the place of every path's first part; "" = nothing.
    pub name: String,
    /// Owners as in the stream.
    pub owners: bool,
    /// Paths stay as they are.
    pub whole: bool,
    /// Extended attributes as in the stream, as far as the file system takes them.
    pub attributes: bool,
}

/// Unpacks into a folder that is there; returns the bytes of all files.
pub fn unpack(folder: &str, options: &Options, stream: impl Read) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    let mut reader = TarReader::new(stream);
    let mut folders = Vec::new();
    let mut bytes = 0;
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        let Some(parts) = parts(&entry.path, options)? else {
            continue;
        };
        let failed = |e: io::Error| {
            io::Error::new(
                e.kind(),
                format!("{}: {e}", String::from_utf8_lossy(&entry.path)),
            )
        };
        bytes += write(&root, &parts, &entry, options, &mut reader).map_err(failed)?;
        if entry.kind == Kind::Folder {
            folders.push((parts, entry));
        }
    }
    // Last, so that what is written into a folder changes neither its time nor needs its permission.
    for (parts, entry) in folders.into_iter().rev() {
        let (parent, name) = open_parent(&root, &parts)?;
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(&parent, &name[..], mode, AtFlags::empty())?;
        rustix::fs::utimensat(
            &parent,
            &name[..],
            &times(&entry),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(bytes)
}

/// A path's parts with its new name; `None` when nothing is left of it.
fn parts(path: &[u8], options: &Options) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut parts: Vec<Vec<u8>> = path
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
        .map(<[u8]>::to_vec)
        .collect();
    if parts.iter().any(|p| p == b"..") {
        let text = String::from_utf8_lossy(path);
        return Err(io::Error::other(format!("{text} leads out of its folder")));
    }
    match (parts.first_mut(), &*options.name) {
        (None, _) => return Ok(None),
        (Some(_), _) if options.whole => {}
        (Some(_), "") => drop(parts.remove(0)),
        (Some(first), name) => name.as_bytes().clone_into(first),
    }
    Ok((!parts.is_empty()).then_some(parts))
}

/// The folder that a path is in, made when missing, and its last part. No link is followed on the way.
fn open_parent(root: &OwnedFd, parts: &[Vec<u8>]) -> io::Result<(OwnedFd, Vec<u8>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    let (last, parents) = parts.split_last().ok_or(Errno::INVAL)?;
    for part in parents {
        folder = match rustix::fs::openat(&folder, &part[..], flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&folder, &part[..], Mode::from_raw_mode(0o755))?;
                rustix::fs::openat(&folder, &part[..], flags, Mode::empty())?
            }
            other => other?,
        };
    }
    Ok((folder, last.clone()))
}

fn write<R: Read>(
    root: &OwnedFd,
    parts: &[Vec<u8>],
    entry: &Entry,
    options: &Options,
    reader: &mut TarReader<R>,
) -> io::Result<u64> {
    let (parent, name) = open_parent(root, parts)?;
    let name = &name[..];
    let there = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
        Err(Errno::NOENT) => None,
        Err(e) => return Err(e.into()),
    };
    match (there, entry.kind == Kind::Folder) {
        (None, _) => {}
        (Some(FileType::Directory), true) => return Ok(0),
        (Some(FileType::Directory), false) => {
            return Err(io::Error::other("cannot overwrite a directory with a file"));
        }
        (Some(_), true) => {
            return Err(io::Error::other("cannot overwrite a file with a directory"));
        }
        (Some(_), false) => rustix::fs::unlinkat(&parent, name, AtFlags::empty())?,
    }
    let mut bytes = 0;
    match &entry.kind {
        Kind::Folder => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?,
        Kind::Symlink(target) => rustix::fs::symlinkat(&target[..], &parent, name)?,
        Kind::Fifo => {
            rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?
        }
        Kind::HardLink(target) => {
            if let Some(parts) = self::parts(target, options)? {
                let (from, file) = open_parent(root, &parts)?;
                rustix::fs::linkat(&from, &file[..], &parent, name, AtFlags::empty())?;
            }
            return Ok(0);
        }
        // As docker: a node is a node. Who is not root hears from the kernel that it may not make one.
        Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) => {
            let kind = match entry.kind {
                Kind::BlockDevice(..) => FileType::BlockDevice,
                _ => FileType::CharacterDevice,
            };
            let device = rustix::fs::makedev(*major, *minor);
            rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), device)?;
        }
        Kind::File => {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
            let mut file = WithHoles::new(File::from(file));
            let mut buffer = vec![0; 128 * 1024];
            loop {
                match reader.read_content(&mut buffer).map_err(io::Error::other)? {
                    0 => break,
                    n => file.write_all(&buffer[..n])?,
                }
            }
            file.finish()?;
            bytes = entry.size;
        }
    }
    if options.owners {
        let (user, group) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&parent, name, Some(user), Some(group), flags)?;
    }
    // After the owner: a change of that takes capabilities away.
    if options.attributes && !entry.xattrs.is_empty() {
        attributes(&parent, name, entry)?;
    }
    // A folder's come last.
    if entry.kind != Kind::Folder {
        if !matches!(entry.kind, Kind::Symlink(_)) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(&parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(bytes)
}

/// As BuildKit's client: those that cannot be set are left out (tonistiigi/fsutil, diskwriter_unix.go).
fn attributes(parent: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
    if !matches!(entry.kind, Kind::File | Kind::Folder) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for (name, value) in &entry.xattrs {
        let _ = rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::empty());
    }
    Ok(())
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime.0,
        tv_nsec: i64::from(entry.mtime.1) as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use slipway_image::layer::tar_write::TarWriter;

    use super::*;

    fn entry(path: &str, kind: Kind, size: u64) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o640,
            uid: 0,
            gid: 0,
            mtime: (1, 0),
            size,
            xattrs: Vec::new(),
        }
    }

    fn tar(entries: &[Entry]) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        for entry in entries {
            let content = vec![b'x'; entry.size as usize];
            tar.append(entry, &mut &content[..]).unwrap();
        }
        tar.finish().unwrap()
    }

    #[test]
    fn attributes_are_set_where_they_are_wanted_and_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        let with = |path: &str, kind: Kind, size: u64| Entry {
            xattrs: vec![
                (b"nonsense".to_vec(), b"refused".to_vec()),
                (b"user.color".to_vec(), b"red".to_vec()),
            ],
            ..entry(path, kind, size)
        };
        let tree = [with("d", Kind::Folder, 0), with("d/f", Kind::File, 3)];
        let color = |path: &str| {
            let mut value = [0; 10];
            let length = rustix::fs::getxattr(folder.path().join(path), "user.color", &mut value);
            length.map(|n| value[..n].to_vec())
        };
        for (attributes, path) in [(false, "without"), (true, "with")] {
            let options = Options {
                name: path.to_owned(),
                attributes,
                ..Options::default()
            };
            unpack(name, &options, &tar(&tree)[..]).unwrap();
        }
        let file = folder.path().join("with/f");
        // Not every file system has them.
        if rustix::fs::setxattr(&file, "user.other", b"x", XattrFlags::empty()).is_ok() {
            assert_eq!(color("with").unwrap(), b"red");
            assert_eq!(color("with/f").unwrap(), b"red");
        }
        assert!(color("without/f").is_err());
    }

    #[test]
    fn names_change_and_nothing_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("into");
        std::fs::create_dir(&into).unwrap();
        let run = |name: &str, entries: &[Entry]| {
            let options = Options {
                name: name.into(),
                ..Options::default()
            };
            unpack(into.to_str().unwrap(), &options, &tar(entries)[..])
        };
        let tree = [
            Entry {
                mode: 0o500,
                ..entry("d", Kind::Folder, 0)
            },
            entry("d/f", Kind::File, 3),
            entry("d/hard", Kind::HardLink(b"d/f".to_vec()), 0),
        ];
        assert_eq!(run("new", &tree).unwrap(), 3);
        assert_eq!(std::fs::read(into.join("new/hard")).unwrap(), b"xxx");
        assert_eq!(run("", &tree).unwrap(), 3);
        assert!(into.join("f").exists() && !into.join("d").exists());

        for evil in [
            vec![entry("d/../../out", Kind::File, 1)],
            vec![
                entry("d", Kind::Folder, 0),
                entry("d/link", Kind::Symlink(b"../..".to_vec()), 0),
                entry("d/link/out", Kind::File, 1),
            ],
            vec![
                entry(
                    "e",
                    Kind::Symlink(folder.path().to_str().unwrap().into()),
                    0,
                ),
                entry("e/out", Kind::File, 1),
            ],
            vec![entry("h", Kind::HardLink(b"h/../../secret".to_vec()), 0)],
        ] {
            assert!(run("evil", &evil).is_err(), "{evil:?}");
        }
        assert!(!folder.path().join("out").exists());
    }
}
