//! A folder as a context: what is in it after the ignore rules, by content.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File, FileType},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use slipway_pattern::{Matched, PatternList};
use slipway_proto::builder::v1::{ContextEntry, context_entry::Type};

use super::hashes::{Hashes, Stamp};
use crate::failure::{Failure, Outcome};

/// Entries sorted by path, and where each content is.
#[derive(Debug, Default)]
pub struct Context {
    pub entries: Vec<ContextEntry>,
    pub files: HashMap<Vec<u8>, Source>,
}

/// Where a content is, and what the file was when it was hashed.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    stamp: Stamp,
}

impl Source {
    /// Opens the file; fails if it is not what it was.
    pub fn open(&self) -> io::Result<File> {
        let file = open(&self.path)?;
        match Stamp::of(&file.metadata()?) == self.stamp {
            true => Ok(file),
            false => Err(io::Error::other("the file changed since the build began")),
        }
    }
}

/// Never waits: a pipe may have taken the file's place.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Reads a folder. The Dockerfile's own ignore file comes before `.dockerignore`, as docker has it.
pub fn read(root: &Path, dockerfile: Option<&Path>) -> Outcome<Context> {
    let mut candidates = vec![root.join(".dockerignore")];
    if let Some(path) = dockerfile {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        candidates.insert(0, name.into());
    }
    let mut patterns = PatternList::default();
    for file in candidates {
        match fs::read_to_string(&file) {
            Ok(text) => {
                patterns = PatternList::of_file(&text)
                    .map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
                break;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::new(format!("cannot read {}: {e}", file.display()))),
        }
    }
    let mut walk = Walk {
        root,
        patterns,
        found: Vec::new(),
        above: Vec::new(),
    };
    walk.run()?;
    let mut found = walk.found;
    found.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    let mut hashes = Hashes::of(root);
    hash_all(&mut found, &mut hashes)?;
    hashes.save();
    let mut context = Context::default();
    for found in found {
        if let Some(stamp) = found.stamp {
            let source = Source {
                path: found.path,
                stamp,
            };
            context.files.insert(found.entry.digest.to_vec(), source);
        }
        context.entries.push(found.entry);
    }
    Ok(context)
}

/// Something in the context; a file has a stamp.
struct Found {
    entry: ContextEntry,
    path: PathBuf,
    stamp: Option<Stamp>,
}

struct Walk<'a> {
    root: &'a Path,
    patterns: PatternList,
    found: Vec<Found>,
    /// Folders that are left out, but not all of what is in them, above the current one.
    above: Vec<Found>,
}

/// A folder that is being gone through: what is left of it.
struct Level {
    path: PathBuf,
    /// Below the root; "" is the root itself.
    inside: String,
    matched: Matched,
    /// By name: an entry of `read_dir` would keep the folder open.
    children: std::vec::IntoIter<(OsString, FileType)>,
}

impl Level {
    fn open(path: PathBuf, inside: String, matched: Matched) -> Outcome<Self> {
        let children = fs::read_dir(&path).and_then(|children| {
            children
                .map(|child| child.and_then(|c| Ok((c.file_name(), c.file_type()?))))
                .collect::<io::Result<Vec<_>>>()
        });
        Ok(Self {
            children: children.map_err(|e| fail(&path, e))?.into_iter(),
            path,
            inside,
            matched,
        })
    }
}

fn fail(path: &Path, e: io::Error) -> Failure {
    Failure::new(format!(
        "cannot read {} of the context: {e}",
        path.display()
    ))
}

impl Walk<'_> {
    /// Goes through everything, a folder before what is in it. Not by recursion, and with one folder
    /// open at a time: folders may be as deep as names are long.
    fn run(&mut self) -> Outcome<()> {
        let root = Level::open(self.root.to_owned(), String::new(), Matched::default())?;
        let mut levels = vec![root];
        while let Some(level) = levels.last_mut() {
            let Some((name, kind)) = level.children.next() else {
                // Nothing in it came back: then it stays away too.
                self.above.retain(|f| f.entry.path != level.inside);
                levels.pop();
                continue;
            };
            let below = self.child(level, name, kind)?;
            levels.extend(below);
        }
        Ok(())
    }

    /// Takes one thing in, or leaves it out; returns a folder that is to be gone through.
    fn child(&mut self, level: &Level, name: OsString, kind: FileType) -> Outcome<Option<Level>> {
        let path = level.path.join(&name);
        let Ok(name) = name.into_string() else {
            return Err(Failure::new(format!(
                "{} of the context is not UTF-8: rename it, or leave it out in .dockerignore",
                path.display()
            )));
        };
        let name = match level.inside.as_str() {
            "" => name,
            inside => format!("{inside}/{name}"),
        };
        let (excluded, matched) = match self.patterns.is_empty() {
            true => (false, Matched::default()),
            false => self.patterns.step(&name, &level.matched),
        };
        if excluded && !(kind.is_dir() && self.patterns.may_return_below(&name)) {
            return Ok(None);
        }
        let meta = match fs::symlink_metadata(&path) {
            // It went away meanwhile: then it is no part of the context.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(|e| fail(&path, e))?,
        };
        let mut found = Found {
            entry: ContextEntry {
                path: name.clone(),
                mode: meta.permissions().mode() & 0o7777,
                mtime: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
                ..ContextEntry::default()
            },
            path: path.clone(),
            stamp: None,
        };
        if meta.is_dir() {
            found.entry.set_type(Type::Directory);
            match excluded {
                true => self.above.push(found),
                false => self.keep(found),
            }
            return Level::open(path, name, matched).map(Some);
        } else if meta.is_symlink() {
            found.entry.set_type(Type::Symlink);
            let target = fs::read_link(&path).map_err(|e| fail(&path, e))?;
            found.entry.link_target = target.to_string_lossy().into_owned();
        } else if meta.is_file() {
            found.entry.set_type(Type::File);
            found.entry.size = meta.len();
            found.stamp = Some(Stamp::of(&meta));
        } else {
            // Sockets, FIFOs and devices are no content: docker leaves them out too.
            return Ok(None);
        }
        self.keep(found);
        Ok(None)
    }

    /// Keeps something, and the folders above it that were left out.
    fn keep(&mut self, found: Found) {
        debug_assert!(found.path.starts_with(self.root));
        self.found.append(&mut self.above);
        self.found.push(found);
    }
}

/// Gives every file its hash: from the cache, or by reading it, on all processors.
fn hash_all(found: &mut [Found], hashes: &mut Hashes) -> Outcome<()> {
    let now = SystemTime::now();
    let mut unknown = Vec::new();
    for (i, found) in found.iter_mut().enumerate() {
        let Some(stamp) = found.stamp else { continue };
        match hashes.find(stamp) {
            Some(hash) => found.entry.digest = hash.to_vec().into(),
            None => unknown.push(i),
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(unknown.len() / 32 + 1).min(16);
    let next = AtomicUsize::new(0);
    let work = || -> Vec<(usize, io::Result<[u8; 32]>)> {
        let mut done = Vec::new();
        let mut buffer = vec![0; 128 * 1024];
        while let Some(i) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((*i, hash(&found[*i], &mut buffer)));
        }
        done
    };
    let done: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            // A panic in it is one here.
            done.extend(
                other
                    .join()
                    .unwrap_or_else(|e| std::panic::resume_unwind(e)),
            );
        }
        done
    });
    for (i, outcome) in done {
        let found = &mut found[i];
        let hash = outcome.map_err(|e| {
            Failure::new(format!(
                "cannot read {} of the context: {e}",
                found.path.display()
            ))
        })?;
        found.entry.digest = hash.to_vec().into();
        if let Some(stamp) = found.stamp {
            hashes.put(stamp, hash, now);
        }
    }
    Ok(())
}

fn hash(found: &Found, buffer: &mut [u8]) -> io::Result<[u8; 32]> {
    let mut file = open(&found.path)?;
    let mut hasher = Sha256::new();
    loop {
        let n = file.read(buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    match Some(Stamp::of(&file.metadata()?)) == found.stamp {
        true => Ok(hasher.finalize().into()),
        false => Err(io::Error::other(
            "it changed while it was read: build again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_may_be_deep() {
        let folder = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(1800);
        fs::create_dir_all(folder.path().join(&deep)).unwrap();
        fs::write(folder.path().join(&deep).join("f"), "x").unwrap();
        let context = read(folder.path(), None).unwrap();
        assert_eq!(context.entries.len(), 1801);
        assert_eq!(context.entries[1800].path, format!("{deep}f"));
        // From below: `TempDir` would hold all of them open.
        fs::remove_file(folder.path().join(&deep).join("f")).unwrap();
        for end in (1..=1800).rev() {
            fs::remove_dir(folder.path().join("d/".repeat(end))).unwrap();
        }
    }

    #[test]
    fn ignored_files_are_left_out_and_exceptions_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("docs/none")).unwrap();
        fs::set_permissions(root.join("docs"), fs::Permissions::from_mode(0o700)).unwrap();
        for (name, text) in [
            ("a", "1"),
            ("docs/b.md", "2"),
            ("docs/keep.md", "3"),
            (".dockerignore", "docs\n!docs/keep.md\n!docs/none/x\n"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        let context = read(root, None).unwrap();
        let names: Vec<_> = context.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(names, [".dockerignore", "a", "docs", "docs/keep.md"]);
        assert_eq!(context.entries[2].mode, 0o700);
        assert_eq!(context.files.len(), 3);
        fs::write(root.join("a"), "other").unwrap();
        let a = context.entries.iter().find(|e| e.path == "a").unwrap();
        assert!(context.files[&a.digest.to_vec()].open().is_err());
        fs::write(root.join("X.dockerignore"), "*\n!a").unwrap();
        let context = read(root, Some(&root.join("X"))).unwrap();
        assert_eq!(context.entries.len(), 1);
    }
}
