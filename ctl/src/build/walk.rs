//! What is in a folder after the ignore rules, found by several threads where there is much.

use std::{
    collections::HashSet,
    fs::{self, FileType},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use slipway_pattern::{Matched, PatternList};
use slipway_proto::builder::v1::{ContextEntry, context_entry::Type};

use super::hashes::Stamp;
use crate::failure::{Failure, Outcome};

/// Folders that wait, from which on another thread is worth its start.
const MANY: usize = 32;
/// Most threads: beyond that the kernel is what they wait for.
const THREADS: usize = 8;

/// Something in the context; a file has a stamp.
pub struct Found {
    pub entry: ContextEntry,
    pub path: PathBuf,
    pub stamp: Option<Stamp>,
    /// It is there only as the folder of something that is.
    above: bool,
}

/// A folder that is to be gone through.
struct Folder {
    path: PathBuf,
    /// Below the root; "" is the root itself.
    inside: String,
    matched: Matched,
}

/// Everything below `root` that the patterns leave in, sorted by path.
pub fn walk(root: &Path, patterns: &PatternList) -> Outcome<Vec<Found>> {
    let top = Folder {
        path: root.to_owned(),
        inside: String::new(),
        matched: Matched::default(),
    };
    let walk = Walk {
        patterns,
        state: Mutex::new(State {
            waiting: vec![top],
            ..State::default()
        }),
        changed: Condvar::new(),
    };
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found = std::thread::scope(|scope| {
        let mut others = Vec::new();
        let found = walk.work(|waiting| {
            if waiting >= MANY && others.len() + 1 < most.min(THREADS) {
                let thread = std::thread::Builder::new();
                // Where there may be no more threads, this one does it.
                others.extend(thread.spawn_scoped(scope, || walk.work(|_| ())));
            }
        });
        let mut all = vec![found];
        for other in others {
            // A panic in it is one here.
            all.push(
                other
                    .join()
                    .unwrap_or_else(|e| std::panic::resume_unwind(e)),
            );
        }
        all.into_iter().flatten().collect::<Vec<_>>()
    });
    if let Some(failure) = walk.lock().failed.take() {
        return Err(failure);
    }
    // An entry has a quarter of a kilobyte, a path some dozen bytes: those are what is moved about.
    found.sort_by_cached_key(|found| found.entry.path.clone());
    drop_empty(&mut found);
    Ok(found)
}

/// Takes folders away that were left out, unless something below them came back.
fn drop_empty(found: &mut Vec<Found>) {
    if !found.iter().any(|f| f.above) {
        return;
    }
    let mut needed = HashSet::new();
    for one in found.iter().filter(|f| !f.above) {
        let path = &one.entry.path;
        needed.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
    }
    found.retain(|f| !f.above || needed.contains(&f.entry.path));
}

struct Walk<'a> {
    patterns: &'a PatternList,
    state: Mutex<State>,
    /// There is another folder, or nothing more will come.
    changed: Condvar,
}

/// A thread that may still find folders. The others must not wait for one that has panicked.
struct Busy<'a, 'b>(&'a Walk<'b>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

#[derive(Default)]
struct State {
    waiting: Vec<Folder>,
    /// Threads that may still find folders.
    busy: usize,
    failed: Option<Failure>,
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes through folders until there are none left. Not by recursion, and with one folder open at a
    /// time: folders may be as deep as names are long. `tell` hears how many wait.
    fn work(&self, mut tell: impl FnMut(usize)) -> Vec<Found> {
        let mut found = Vec::new();
        while let Some(folder) = self.next() {
            let _busy = Busy(self);
            let done = self.folder(&folder, &mut found);
            let mut state = self.lock();
            match done {
                Ok(below) => state.waiting.extend(below),
                Err(failure) => {
                    state.waiting.clear();
                    state.failed.get_or_insert(failure);
                }
            }
            let waiting = state.waiting.len();
            drop(state);
            tell(waiting);
        }
        found
    }

    fn next(&self) -> Option<Folder> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(folder) = state.waiting.pop() {
                state.busy += 1;
                return Some(folder);
            }
            if state.busy == 0 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes in what is in one folder; returns the folders in it that are to be gone through.
    fn folder(&self, folder: &Folder, found: &mut Vec<Found>) -> Outcome<Vec<Folder>> {
        let mut below = Vec::new();
        let children = fs::read_dir(&folder.path).map_err(|e| fail(&folder.path, e))?;
        for child in children {
            let child = child.map_err(|e| fail(&folder.path, e))?;
            let kind = child.file_type().map_err(|e| fail(&child.path(), e))?;
            below.extend(self.child(folder, &child, kind, found)?);
        }
        Ok(below)
    }

    /// Takes one thing in, or leaves it out.
    fn child(
        &self,
        folder: &Folder,
        child: &fs::DirEntry,
        kind: FileType,
        found: &mut Vec<Found>,
    ) -> Outcome<Option<Folder>> {
        let path = child.path();
        let Ok(name) = child.file_name().into_string() else {
            return Err(Failure::new(format!(
                "{} of the context is not UTF-8: rename it, or leave it out in .dockerignore",
                path.display()
            )));
        };
        let name = match folder.inside.as_str() {
            "" => name,
            inside => format!("{inside}/{name}"),
        };
        let (excluded, matched) = match self.patterns.is_empty() {
            true => (false, Matched::default()),
            false => self.patterns.step(&name, &folder.matched),
        };
        if excluded && !(kind.is_dir() && self.patterns.may_return_below(&name)) {
            return Ok(None);
        }
        // Relative to the open folder: the kernel need not look its path up again.
        let meta = match child.metadata() {
            // It went away meanwhile: then it is no part of the context.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(|e| fail(&path, e))?,
        };
        let mut one = Found {
            entry: ContextEntry {
                path: name.clone(),
                mode: meta.permissions().mode() & 0o7777,
                mtime: meta
                    .mtime()
                    .saturating_mul(1_000_000_000)
                    .saturating_add(meta.mtime_nsec()),
                ..ContextEntry::default()
            },
            path: path.clone(),
            stamp: None,
            above: excluded,
        };
        if meta.is_dir() {
            one.entry.set_type(Type::Directory);
            found.push(one);
            let inside = name;
            return Ok(Some(Folder {
                path,
                inside,
                matched,
            }));
        } else if meta.is_symlink() {
            one.entry.set_type(Type::Symlink);
            let target = fs::read_link(&path).map_err(|e| fail(&path, e))?;
            one.entry.link_target = target.to_string_lossy().into_owned();
        } else if meta.is_file() {
            one.entry.set_type(Type::File);
            one.entry.size = meta.len();
            if meta.nlink() > 1 {
                // Never 0, which is for those without another name.
                one.entry.same_file = meta.ino() ^ meta.dev().rotate_left(48) | 1 << 63;
            }
            one.stamp = Some(Stamp::of(&meta));
        } else {
            // Sockets, FIFOs and devices are no content: docker leaves them out too.
            return Ok(None);
        }
        // What was asked for as a folder may have become something else.
        if !excluded {
            found.push(one);
        }
        Ok(None)
    }
}

fn fail(path: &Path, e: io::Error) -> Failure {
    Failure::new(format!(
        "cannot read {} of the context: {e}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_folders_are_found_by_all_threads_in_order() {
        let root = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        for i in 0..30 {
            for j in 0..10 {
                let folder = format!("{i:02}/{j}");
                fs::create_dir_all(root.path().join(&folder)).unwrap();
                fs::write(root.path().join(&folder).join("file"), "").unwrap();
                // Between a folder and what is in it.
                fs::write(root.path().join(format!("{folder}-")), "").unwrap();
                let file = format!("{folder}/file");
                names.extend([format!("{folder}-"), folder, file]);
            }
            names.push(format!("{i:02}"));
        }
        names.sort();
        let found = walk(root.path(), &PatternList::default()).unwrap();
        let paths: Vec<_> = found.iter().map(|f| f.entry.path.as_str()).collect();
        assert_eq!(paths, names);
        let patterns = PatternList::of_file("*\n!07/3/file\n!*/9/none").unwrap();
        let found = walk(root.path(), &patterns).unwrap();
        let paths: Vec<_> = found.iter().map(|f| f.entry.path.as_str()).collect();
        assert_eq!(paths, ["07", "07/3", "07/3/file"]);
        assert!(walk(&root.path().join("none"), &patterns).is_err());
    }
}
