//! What is in a folder, in a form that can be compared.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use slipway_image::Digest;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: char,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub content: String,
    pub mtime: (i64, i64),
    pub device: u64,
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// The first name of the same file.
    pub same_as: Option<String>,
    /// Room on disk, KiB.
    pub room: u64,
}

pub type Tree = BTreeMap<String, Node>;

/// Walks a folder, its own root not included.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first = BTreeMap::new();
    walk(root, root, &mut tree, &mut first);
    tree
}

fn walk(root: &Path, folder: &Path, tree: &mut Tree, first: &mut BTreeMap<u64, String>) {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        // overlayfs lists whiteouts of folders that only one layer has, but nobody can open them.
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let name = path.strip_prefix(root).unwrap().as_os_str();
        let name = name.as_bytes().escape_ascii().to_string();
        let kind = match meta.mode() & libc::S_IFMT {
            libc::S_IFDIR => 'd',
            libc::S_IFREG => 'f',
            libc::S_IFLNK => 'l',
            libc::S_IFCHR => 'c',
            libc::S_IFBLK => 'b',
            libc::S_IFIFO => 'p',
            _ => 's',
        };
        let content = match kind {
            'l' => fs::read_link(&path).unwrap().to_string_lossy().into_owned(),
            'f' => hash(&path, meta.len()),
            _ => String::new(),
        };
        let same_as = match kind {
            'd' => None,
            _ => Some(
                first
                    .entry(meta.ino())
                    .or_insert_with(|| name.clone())
                    .clone(),
            ),
        };
        let device = matches!(kind, 'c' | 'b').then(|| meta.rdev());
        let node = Node {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            size: if kind == 'f' { meta.len() } else { 0 },
            content,
            mtime: (meta.mtime(), meta.mtime_nsec()),
            device: device.unwrap_or_default(),
            xattrs: xattrs(&path),
            same_as: same_as.filter(|first| *first != name),
            room: meta.blocks() / 2,
        };
        tree.insert(name, node);
        if kind == 'd' {
            walk(root, &path, tree, first);
        }
    }
}

/// Of a file that is huge and nearly empty, where it has content.
fn hash(path: &Path, size: u64) -> String {
    if size < 64 << 20 {
        return Digest::of(fs::read(path).unwrap()).short().to_owned();
    }
    let mut file = fs::File::open(path).unwrap();
    let mut content = Vec::new();
    let mut at = 0;
    while let Ok(begin) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(begin)).unwrap();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(begin)).unwrap();
        let mut piece = vec![0; (end - begin) as usize];
        file.read_exact(&mut piece).unwrap();
        // Blocks are larger than pieces: zeros around them are holes for all that it matters.
        content.extend(piece.into_iter().filter(|b| *b != 0));
        at = end;
    }
    Digest::of(content).short().to_owned()
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 64 * 1024];
    let Ok(n) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return Vec::new();
    };
    let mut all: Vec<_> = names[..n]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 * 1024];
            let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(n);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect();
    all.sort();
    all
}
