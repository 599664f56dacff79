//! A folder as a context: what is in it after the ignore rules, by content.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use slipway_pattern::PatternList;
use slipway_proto::builder::v1::ContextEntry;

use super::{
    hashes::{Hashes, Stamp},
    walk::{self, Found},
};
use crate::failure::{Failure, Outcome};

/// Entries sorted by path, and where each content is.
#[derive(Debug, Default)]
pub struct Context {
    pub entries: Vec<ContextEntry>,
    /// By the SHA-256 of the content, in no order.
    pub files: Vec<([u8; 32], Source)>,
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
    let mut found = walk::walk(root, &patterns)?;
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
            let digest = found.entry.digest[..].try_into();
            context.files.extend(digest.map(|digest| (digest, source)));
        }
        context.entries.push(found.entry);
    }
    Ok(context)
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
    use std::os::unix::fs::PermissionsExt as _;

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
        let mut sources = context.files.iter();
        let (_, source) = sources.find(|(digest, _)| digest[..] == a.digest).unwrap();
        assert!(source.open().is_err());
        fs::write(root.join("X.dockerignore"), "*\n!a").unwrap();
        let context = read(root, Some(&root.join("X"))).unwrap();
        assert_eq!(context.entries.len(), 1);
    }
}
