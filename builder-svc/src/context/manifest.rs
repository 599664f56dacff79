//! What a build's context holds: a tree of names, modes and digests, without the content.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use slipway_image::Digest;
use slipway_pattern::{has_wildcards, matches};

use super::Capability;

/// One thing in the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Nanoseconds since the epoch. Never part of a cache key.
    pub mtime: i64,
    /// Files of one number are names of one file; 0 = it has no other name.
    pub same: u64,
    /// Of a file that came in an archive. BuildKit loses that of a folder's on the way: its receiver sets it, and
    /// then owner and content, at which the kernel takes it away (moby/buildkit#2250).
    pub capability: Option<Capability>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// sha256 of its content.
        digest: Digest,
    },
    /// A folder.
    Folder,
    /// A symbolic link and where it leads.
    Symlink(String),
}

/// Most entries of a context, and most bytes of all their names.
const MAX_ENTRIES: usize = 2_000_000;
const MAX_NAMES: usize = 256 << 20;
/// Longest path and longest target of a link, bytes (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Links followed in one look-up (as the kernel's MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// Entries by path, the root being "".
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    entries: BTreeMap<String, Entry>,
    names: usize,
}

/// What a source stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Its own name; "" for the context's root.
    pub name: String,
    /// Where it is, links resolved.
    pub path: String,
    /// It is a folder.
    pub folder: bool,
}

impl Match {
    /// All of a context.
    pub fn root() -> Self {
        Self {
            name: String::new(),
            path: String::new(),
            folder: true,
        }
    }
}

impl Manifest {
    /// A context of one file whose content is here.
    pub fn of_file(name: &str, entry: Entry) -> Result<Self, String> {
        let mut manifest = Self::default();
        manifest.insert(name, entry)?;
        Ok(manifest)
    }

    /// Takes an entry in. Folders that were not named are there all the same.
    pub fn insert(&mut self, path: &str, entry: Entry) -> Result<(), String> {
        if bad_path(path) {
            return Err(format!("the context names a path that is none: {path:?}"));
        }
        if let Kind::Symlink(target) = &entry.kind
            && (target.is_empty() || target.len() > MAX_PATH || target.contains('\0'))
        {
            return Err(format!("the context's link {path:?} leads nowhere"));
        }
        if let Kind::Symlink(target) = &entry.kind {
            self.names += target.len();
        }
        // A folder that is there has all those above it: deep paths are not looked up part by part.
        let mut missing = Vec::new();
        for (at, _) in path.rmatch_indices('/') {
            match self.entries.get(&path[..at]) {
                Some(parent) if parent.kind == Kind::Folder => break,
                Some(_) => {
                    return Err(format!(
                        "the context's {path:?} lies below something that is no folder"
                    ));
                }
                None => missing.push(at),
            }
        }
        for at in missing {
            self.count(at)?;
            let folder = Entry {
                kind: Kind::Folder,
                mode: 0o755,
                mtime: 0,
                same: 0,
                capability: None,
            };
            self.entries.insert(path[..at].to_owned(), folder);
        }
        self.count(path.len())?;
        let entry_is_folder = entry.kind == Kind::Folder;
        if let Some(old) = self.entries.insert(path.to_owned(), entry)
            && old.kind == Kind::Folder
            && !entry_is_folder
            && self.below(path).next().is_some()
        {
            return Err(format!("the context names {path:?} twice"));
        }
        Ok(())
    }

    /// Counts another entry against the limits.
    fn count(&mut self, name: usize) -> Result<(), String> {
        self.names += name;
        if self.entries.len() >= MAX_ENTRIES || self.names > MAX_NAMES {
            return Err(format!(
                "the context has more than {MAX_ENTRIES} files, or too long names: leave some out in .dockerignore"
            ));
        }
        Ok(())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all names and targets of links.
    pub const fn name_bytes(&self) -> usize {
        self.names
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An entry by its own path, no link followed.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// An entry, to be changed.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Entry> {
        self.entries.get_mut(path)
    }

    /// Everything below a folder, sorted, with paths relative to it.
    pub fn below<'a>(
        &'a self,
        folder: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Entry)> + use<'a> {
        let prefix = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        self.entries
            .range(prefix.clone()..)
            .map_while(move |(path, entry)| Some((path.strip_prefix(&prefix)?, entry)))
    }

    /// The names of what is directly in a folder, sorted; what is below them is jumped over.
    fn children(&self, folder: &str) -> Vec<&str> {
        let prefix = match folder {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let mut names = Vec::new();
        let mut from = Bound::Included(prefix.clone());
        while let Some((path, _)) = self
            .entries
            .range::<String, _>((from.as_ref(), Bound::Unbounded))
            .next()
        {
            let Some(rest) = path.strip_prefix(&prefix) else {
                break;
            };
            from = match rest.split_once('/') {
                // `0` is what follows `/`.
                Some((name, _)) => Bound::Included(format!("{prefix}{name}0")),
                None => {
                    names.push(rest);
                    Bound::Excluded(path.clone())
                }
            };
        }
        names
    }

    /// What a source of COPY stands for: one path, or what its wildcards match, sorted. As in BuildKit
    /// it is cleaned as text first. Links in it are followed inside the context; nothing leads out of it.
    pub fn find(&self, source: &str) -> Vec<Match> {
        let source = slipway_pattern::list::clean(&format!("/{source}"));
        let mut found = vec![Match::root()];
        for part in source.split('/').filter(|p| !p.is_empty()) {
            let mut next = Vec::new();
            // Any number of links may lead to one folder: it is looked through once, or each `*` of a
            // source would multiply what there is.
            let mut seen = BTreeSet::new();
            for base in &found {
                let Some(folder) = self.resolve(&base.path).filter(|m| m.folder) else {
                    continue;
                };
                if !seen.insert(folder.path.clone()) {
                    continue;
                }
                if has_wildcards(part) {
                    let names = self.children(&folder.path).into_iter();
                    next.extend(
                        names
                            .filter(|name| matches(part, name))
                            .map(|name| child(&folder.path, name)),
                    );
                } else {
                    let child = child(&folder.path, part);
                    if self.entries.contains_key(&child.path) {
                        next.push(child);
                    }
                }
            }
            found = next;
        }
        let named = found.into_iter().filter_map(|found| {
            let real = self.resolve(&found.path)?;
            Some(Match {
                name: found.name,
                ..real
            })
        });
        named.collect()
    }

    /// Follows links until something else is there.
    fn resolve(&self, path: &str) -> Option<Match> {
        let mut todo: Vec<String> = parts(path);
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(part);
            let so_far = done.join("/");
            match &self.entries.get(&so_far)?.kind {
                Kind::Folder => {}
                Kind::File { .. } if todo.is_empty() => {}
                Kind::File { .. } => return None,
                Kind::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        done.clear();
                    } else {
                        done.pop();
                    }
                    todo.extend(parts(target));
                }
            }
        }
        let path = done.join("/");
        let folder = path.is_empty() || self.entries.get(&path)?.kind == Kind::Folder;
        Some(Match {
            name: done.pop().unwrap_or_default(),
            path,
            folder,
        })
    }
}

/// Whether this is no path below a folder.
pub fn bad_path(path: &str) -> bool {
    path.is_empty()
        || path.len() > MAX_PATH
        || path.contains('\0')
        || path.split('/').any(|p| matches!(p, "" | "." | ".."))
}

/// Components in reverse, ready to be popped.
fn parts(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|p| !matches!(*p, "" | "."))
        .map(str::to_owned)
        .collect()
}

fn child(folder: &str, name: &str) -> Match {
    Match {
        name: name.to_owned(),
        path: if folder.is_empty() {
            name.to_owned()
        } else {
            format!("{folder}/{name}")
        },
        folder: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(entries: &[(&str, Kind)]) -> Manifest {
        let mut manifest = Manifest::default();
        for (path, kind) in entries {
            let entry = Entry {
                kind: kind.clone(),
                mode: 0o644,
                mtime: 0,
                same: 0,
                capability: None,
            };
            manifest.insert(path, entry).unwrap();
        }
        manifest
    }

    fn file() -> Kind {
        Kind::File {
            size: 0,
            digest: Digest::of(""),
        }
    }

    fn link(target: &str) -> Kind {
        Kind::Symlink(target.to_owned())
    }

    #[test]
    fn sources_are_found() {
        let m = manifest(&[
            ("a/one.js", file()),
            ("a/two.js", file()),
            ("a/b/three.js", file()),
            ("link", link("a/b")),
            ("up", link("../../a")),
            ("absolute", link("/a/one.js")),
            ("loop", link("loop")),
            ("dangling", link("nowhere")),
        ]);
        let on = |source: &str| -> Vec<(String, String)> {
            m.find(source)
                .into_iter()
                .map(|f| (f.name, f.path))
                .collect()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(on("a/one.js"), [pair("one.js", "a/one.js")]);
        assert_eq!(
            on("/a/*.js"),
            [pair("one.js", "a/one.js"), pair("two.js", "a/two.js")]
        );
        // Go knows `^` only: this is `!` or `o`.
        assert_eq!(on("a/[!o]*"), [pair("one.js", "a/one.js")]);
        assert_eq!(on("a/[^o]*.js"), [pair("two.js", "a/two.js")]);
        assert_eq!(on("link/three.js"), [pair("three.js", "a/b/three.js")]);
        assert_eq!(on("link"), [pair("link", "a/b")]);
        assert_eq!(on("up/one.js"), [pair("one.js", "a/one.js")]);
        assert_eq!(on("absolute"), [pair("absolute", "a/one.js")]);
        assert_eq!(on("../../a/one.js"), [pair("one.js", "a/one.js")]);
        assert_eq!(on("."), [pair("", "")]);
        for none in ["loop", "dangling", "missing", "a/one.js/x", "loop/x"] {
            assert_eq!(on(none).len(), 0, "{none}");
        }
        let below: Vec<_> = m.below("a").map(|(p, _)| p).collect();
        assert_eq!(below, ["b", "b/three.js", "one.js", "two.js"]);
        assert_eq!(m.below("").count(), m.len());
    }

    #[test]
    fn wildcards_do_not_multiply() {
        let mut entries = vec![
            ("d/a".to_owned(), file()),
            ("d-e".to_owned(), file()),
            ("d/sub/b".to_owned(), file()),
        ];
        entries.extend((0..200).map(|i| (format!("l{i}"), link("."))));
        let entries: Vec<_> = entries.iter().map(|(p, k)| (&p[..], k.clone())).collect();
        let m = manifest(&entries);
        assert_eq!(m.children("d"), ["a", "sub"]);
        assert_eq!(m.children("").len(), 202);
        assert_eq!(m.children("d/a").len(), 0);
        assert_eq!(m.find(&"*/".repeat(1000)).len(), 205);
        assert_eq!(m.find(&format!("{}d", "*/../".repeat(1000))).len(), 1);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["", "/a", "../a", "a/../b", "a//b", "a/", "a/./b", "a\0b"] {
            let entry = Entry {
                kind: file(),
                mode: 0,
                mtime: 0,
                same: 0,
                capability: None,
            };
            assert!(Manifest::default().insert(path, entry).is_err(), "{path:?}");
        }
        let mut m = manifest(&[("a", file()), ("l", link("/etc"))]);
        let entry = Entry {
            kind: file(),
            mode: 0,
            mtime: 0,
            same: 0,
            capability: None,
        };
        assert!(m.insert("a/b", entry.clone()).is_err());
        assert!(m.insert("l/passwd", entry).is_err());
    }
}
