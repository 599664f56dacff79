//! The folder that a layer is unpacked into, and the way to the folders in it, confined.
//!
//! Parents are looked up by openat2 inside the root: a symbolic link of the same layer is followed as the
//! container would see it, so it cannot lead out (docker and containerd follow them too, and images rely
//! on it). Where there is no openat2 links in parents are refused. What is missing is made.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::UnpackError;

/// How many parents are kept open.
const MAX_PARENTS: usize = 256;
/// Longest name, bytes (PATH_MAX).
const MAX_PATH: usize = 4096;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// See the module's page.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    open: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// The last one: most entries are in the same folder as the one before.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Folders that were made because something is in them.
    implicit: BTreeSet<Vec<u8>>,
    /// How many were made ever, and what their names cost.
    made: u64,
    remembered: usize,
}

impl Tree {
    pub fn new(folder: impl AsFd) -> rustix::io::Result<Self> {
        let root = rustix::fs::openat(folder, ".", FOLDER, Mode::empty())?;
        Ok(Self {
            root: Rc::new(root),
            open: HashMap::new(),
            last: None,
            implicit: BTreeSet::new(),
            made: 0,
            remembered: 0,
        })
    }

    pub fn made(&self) -> u64 {
        self.made
    }

    /// Bytes that the names of folders take which were made.
    pub fn remembered(&self) -> usize {
        self.remembered
    }

    /// The folders that the archive did not name, sorted.
    pub fn into_implicit(self) -> Vec<Vec<u8>> {
        self.implicit.into_iter().collect()
    }

    /// Opens a folder by its clean path, following links of the layer inside the root; makes what is missing.
    /// `entry` is for errors.
    pub fn parent(&mut self, path: &[u8], entry: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(folder.clone());
        }
        if let Some(folder) = self.open.get(path) {
            self.last = Some((path.to_vec(), folder.clone()));
            return Ok(folder.clone());
        }
        let folder = match inside(&self.root, path, OFlags::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOSYS | Errno::PERM) => self.make(path, entry)?,
            Err(e) => return Err(UnpackError::io(entry, e)),
        };
        let folder = Rc::new(folder);
        if self.open.len() >= MAX_PARENTS {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), folder.clone());
        self.last = Some((path.to_vec(), folder.clone()));
        Ok(folder)
    }

    /// Opens a folder component by component, and makes what is missing.
    fn make(&mut self, path: &[u8], entry: &[u8]) -> Result<OwnedFd, UnpackError> {
        let fail = |e: Errno| UnpackError::io(entry, e);
        let flags = FOLDER | OFlags::NOFOLLOW;
        let mut folder = rustix::io::fcntl_dupfd_cloexec(&self.root, 3).map_err(fail)?;
        let mut end = 0;
        for part in path.split(|b| *b == b'/') {
            end += part.len() + usize::from(end > 0);
            let so_far = &path[..end];
            folder = match rustix::fs::openat(&folder, part, flags, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755)).map_err(fail)?;
                    self.implicit.insert(so_far.to_vec());
                    self.made += 1;
                    self.remembered += cost(so_far);
                    let made = rustix::fs::openat(&folder, part, flags, Mode::empty());
                    let made = made.map_err(fail)?;
                    // Whatever this process' umask is.
                    rustix::fs::chmodat(&made, ".", Mode::from_raw_mode(0o755), AtFlags::empty())
                        .map_err(fail)?;
                    made
                }
                Err(e @ (Errno::NOTDIR | Errno::LOOP)) => {
                    if !is_link(&folder, part) {
                        return Err(fail(e));
                    }
                    let escape = |why| UnpackError::Escape {
                        path: super::lossy(entry),
                        why,
                    };
                    match inside(&self.root, so_far, OFlags::empty()) {
                        Ok(next) => next,
                        Err(Errno::NOSYS | Errno::PERM) => {
                            return Err(escape("has a symbolic link as its parent"));
                        }
                        Err(_) => {
                            return Err(escape(
                                "has a symbolic link that leads to no folder as its parent",
                            ));
                        }
                    }
                }
                Err(e) => return Err(fail(e)),
            };
        }
        Ok(folder)
    }

    /// Opens a folder of the tree that is no link itself, if it is still there.
    pub fn folder(&mut self, path: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
        let opened = match path {
            [] => rustix::io::fcntl_dupfd_cloexec(&self.root, 3),
            _ => match inside(&self.root, path, OFlags::NOFOLLOW) {
                Err(Errno::NOSYS | Errno::PERM) => self.walk(path),
                other => other,
            },
        };
        match opened {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens the folder that a hard link's target is in, if there is one: nothing is made for it.
    pub fn folder_of_target(&mut self, path: &[u8]) -> rustix::io::Result<Option<Rc<OwnedFd>>> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Some(folder.clone()));
        }
        let opened = match path {
            [] => return Ok(Some(self.root.clone())),
            _ => match inside(&self.root, path, OFlags::empty()) {
                Err(Errno::NOSYS | Errno::PERM) => self.walk(path),
                other => other,
            },
        };
        match opened {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            other => other.map(|folder| Some(Rc::new(folder))),
        }
    }

    fn walk(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mut folder = rustix::io::fcntl_dupfd_cloexec(&self.root, 3)?;
        for part in path.split(|b| *b == b'/') {
            folder = rustix::fs::openat(&folder, part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(folder)
    }

    /// The archive names this folder itself.
    pub fn name(&mut self, path: &[u8]) {
        if !self.implicit.is_empty() {
            self.implicit.remove(path);
        }
    }

    /// A folder or a link is going: what is known of paths through it is not true any more.
    pub fn forget(&mut self, path: &[u8]) {
        self.open.clear();
        self.last = None;
        self.implicit.remove(path);
        // A layer may do this a million times: only those below are looked at. `0` follows `/`.
        let (first, end) = ([path, b"/"].concat(), [path, b"0"].concat());
        let below: Vec<_> = self.implicit.range(first..end).cloned().collect();
        for path in below {
            self.implicit.remove(&path);
        }
    }
}

/// Bytes that it takes to remember a path.
pub(super) fn cost(path: &[u8]) -> usize {
    path.len() + 64
}

fn inside(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(root, path, FOLDER | flags, Mode::empty(), INSIDE) {
            // Something was renamed somewhere while a link went upwards (openat2(2)).
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn is_link(folder: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_symlink())
}

/// A name of an archive as a clean path below the root: no leading slash, no empty components, no `.`, and
/// `..` taken out as docker does (Go: filepath.Clean), unless it leads out. `Err` says what is wrong.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.len() > MAX_PATH {
        return Err("is longer than 4096 bytes");
    }
    if name.contains(&0) {
        return Err("holds a zero byte");
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if path.is_empty() => return Err("leads out with .."),
            b".." => path.truncate(path.iter().rposition(|b| *b == b'/').unwrap_or(0)),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

/// A clean path as its folder and its last component; `None`: the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None if path.is_empty() => None,
        None => Some((b"", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_folders_are_known_and_counted_until_they_go() {
        let root = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(root.path()).unwrap();
        let mut tree = Tree::new(&folder).unwrap();
        for path in ["a/b", "a/b.c", "a.b", "a/b/c"] {
            tree.parent(path.as_bytes(), b"entry").unwrap();
        }
        let all = ["a", "a.b", "a/b", "a/b.c", "a/b/c"].map(|p| p.as_bytes().to_vec());
        assert_eq!(
            tree.remembered(),
            all.iter().map(|p| cost(p)).sum::<usize>()
        );
        tree.forget(b"a/b");
        assert_eq!(
            tree.implicit.clone().into_iter().collect::<Vec<_>>(),
            [&all[..2], &all[3..4]].concat()
        );
        tree.name(b"a");
        tree.forget(b"nothing");
        assert_eq!(tree.into_implicit(), [all[1].clone(), all[3].clone()]);
    }

    #[test]
    fn names_become_clean_paths() {
        for (name, path) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"./a//b/./c/", b"a/b/c"),
            (b"/etc/passwd", b"etc/passwd"),
            (b"a/../b", b"b"),
            (b"a/b/../../c", b"c"),
            (b"./", b""),
            (b"", b""),
            (b"..a/...", b"..a/..."),
            (b"a/b/..", b"a"),
        ] {
            assert_eq!(clean(name).unwrap(), path);
        }
        for name in [
            &b".."[..],
            b"../a",
            b"a/../../b",
            b"/..",
            b"a\0b",
            &[b'a'; 4097],
        ] {
            assert!(clean(name).is_err(), "{:?}", String::from_utf8_lossy(name));
        }
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b""), None);
    }
}
