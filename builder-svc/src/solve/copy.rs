//! Which files a COPY or ADD means, and under which names they arrive.

use std::{
    collections::{BTreeSet, HashMap, hash_map},
    io,
    sync::Arc,
};

use slipway_image::Digest;
use slipway_pattern::{PatternList, has_wildcards};

use crate::{
    cache::KeyBuilder,
    context::{Capability, Entry, Kind, Manifest, Match},
    error::{Error, Result},
    plan::{Chmod, CopyAction},
};

/// A copy of files that this service knows by name and content.
#[derive(Default)]
pub struct Arrangement {
    /// What the sources stand for, in their order.
    pub parts: Vec<Part>,
    exclude: PatternList,
    chmod: Option<Chmod>,
}

/// A folder whose content is copied, or a single thing.
#[derive(Clone)]
pub struct Part {
    /// Where it is.
    pub manifest: Arc<Manifest>,
    /// What it is.
    pub found: Match,
    /// Only these, with the folders above them.
    include: Option<PatternList>,
    /// If it is an archive it is unpacked.
    pub unpack: bool,
}

impl Arrangement {
    /// With the options of a copy, and nothing to copy yet.
    pub fn new(copy: &CopyAction) -> Result<Self> {
        Ok(Self {
            parts: Vec::new(),
            exclude: PatternList::new(&copy.exclude)
                .map_err(|e| Error::Dockerfile(e.to_string()))?,
            chmod: copy.chmod.clone(),
        })
    }

    /// One thing as it is.
    pub fn of(manifest: Arc<Manifest>, found: Match) -> Self {
        Self {
            parts: vec![Part {
                manifest,
                found,
                include: None,
                unpack: false,
            }],
            ..Self::default()
        }
    }

    /// Adds what a source of the context stands for. One with wildcards may stand for nothing.
    pub fn add(&mut self, manifest: &Arc<Manifest>, source: &str, copy: &CopyAction) -> Result<()> {
        if copy.parents {
            return self.add_with_parents(manifest, source);
        }
        let found = manifest.find(source);
        if found.is_empty() && !has_wildcards(source) {
            return Err(missing(source));
        }
        for found in found {
            if !found.folder && self.exclude.matches(&found.name) {
                continue;
            }
            self.parts.push(Part {
                manifest: manifest.clone(),
                unpack: copy.unpack && !found.folder,
                found,
                include: None,
            });
        }
        Ok(())
    }

    /// Adds a file that came from elsewhere.
    pub fn add_one(&mut self, manifest: Arc<Manifest>, unpack: bool) {
        for found in manifest.find("*") {
            self.parts.push(Part {
                manifest: manifest.clone(),
                found,
                include: None,
                unpack,
            });
        }
    }

    /// Adds everything that another tree holds.
    pub fn add_all(&mut self, manifest: Arc<Manifest>) {
        self.parts.push(Part {
            manifest,
            found: Match::root(),
            include: None,
            unpack: false,
        });
    }

    fn add_with_parents(&mut self, manifest: &Arc<Manifest>, source: &str) -> Result<()> {
        let Pivot { folder, pattern } = Pivot::of(source);
        let include =
            PatternList::new(&[&pattern]).map_err(|e| Error::Dockerfile(e.to_string()))?;
        let required = !has_wildcards(source);
        let mut any = false;
        for found in manifest.find(&folder).into_iter().filter(|m| m.folder) {
            let part = Part {
                manifest: manifest.clone(),
                found,
                include: Some(include.clone()),
                unpack: false,
            };
            self.each(&part, |_, _| {
                any = true;
                Ok(())
            })
            .map_err(|e| Error::Context(e.to_string()))?;
            self.parts.push(part);
        }
        // What --exclude leaves out is there all the same.
        match required && !any && manifest.find(source).is_empty() {
            true => Err(missing(source)),
            false => Ok(()),
        }
    }

    /// The mode that an entry gets.
    pub fn mode(&self, entry: &Entry) -> u32 {
        match (&self.chmod, &entry.kind) {
            (Some(chmod), Kind::File { .. } | Kind::Folder) => {
                chmod.apply(entry.mode, entry.kind == Kind::Folder)
            }
            _ => entry.mode,
        }
    }

    /// Tells everything that a part gives: a folder before what is in it, with paths below the target. The
    /// folder itself is "".
    pub fn each<'a>(
        &self,
        part: &'a Part,
        mut tell: impl FnMut(&str, &'a Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        let manifest = &part.manifest;
        if !part.found.folder {
            return match manifest.get(&part.found.path) {
                Some(entry) => tell(&part.found.name, entry),
                None => Ok(()),
            };
        }
        let top = &part.found.path;
        if let (Some(own), None) = (manifest.get(top), &part.include) {
            tell("", own)?;
        }
        let everything = part.include.is_none() && self.exclude.is_empty();
        let mut told = BTreeSet::new();
        for (path, entry) in manifest.below(top) {
            if everything {
                tell(path, entry)?;
                continue;
            }
            if part.include.as_ref().is_some_and(|i| !i.matches(path)) || self.exclude.matches(path)
            {
                continue;
            }
            for (at, _) in path.match_indices('/') {
                let above = &path[..at];
                if told.contains(above) {
                    continue;
                }
                let whole = match top.as_str() {
                    "" => above.to_owned(),
                    top => format!("{top}/{above}"),
                };
                if let Some(folder) = manifest.get(&whole) {
                    tell(above, folder)?;
                }
                told.insert(above);
            }
            if entry.kind == Kind::Folder {
                told.insert(path);
            }
            tell(path, entry)?;
        }
        Ok(())
    }

    /// Digest and size of every file that is needed.
    pub fn content(&self) -> Vec<(Digest, u64)> {
        let mut wanted = Vec::new();
        for part in &self.parts {
            // Nothing can fail where nothing is written.
            let _ = self.each(part, |_, entry| {
                if let Kind::File { digest, size } = &entry.kind {
                    wanted.push((digest.clone(), *size));
                }
                Ok(())
            });
        }
        wanted
    }

    /// Whether a part holds two names of one file.
    pub fn has_hard_links(&self) -> bool {
        self.parts.iter().any(|part| {
            let (mut names, mut any) = (Names::default(), false);
            // Nothing can fail where nothing is written.
            let _ = self.each(part, |path, entry| {
                any |= names.first(path, entry).is_some();
                Ok(())
            });
            any
        })
    }

    /// Adds names, kinds, modes and content to a key; no times.
    pub fn add_to(&self, key: &mut KeyBuilder) {
        key.part("context");
        for part in &self.parts {
            key.part("source")
                .number(u64::from(part.found.folder))
                .number(u64::from(part.unpack));
            let mut names = Names::default();
            // Nothing can fail where nothing is written.
            let _ = self.each(part, |path, entry| {
                if let Some(first) = names.first(path, entry) {
                    key.part("same file").part(first);
                }
                key.part(path).number(u64::from(self.mode(entry)));
                match &entry.kind {
                    Kind::File { digest, .. } => match &entry.capability {
                        None => key.part("file").part(digest.to_string()),
                        Some(capability) => key
                            .part("file with a capability")
                            .part(digest.to_string())
                            .part(capability.bytes()),
                    },
                    Kind::Folder => key.part("folder"),
                    Kind::Symlink(target) => key.part("link").part(target),
                };
                Ok(())
            });
        }
    }
}

/// Names of the files of a part that have several: a source's, as in BuildKit, whose copies know of each other
/// within one source (tonistiigi/fsutil, copy/hardlink.go).
#[derive(Default)]
pub struct Names(HashMap<(u64, Digest), String>);

impl Names {
    /// The name of a file that was told before under another one.
    pub fn first(&mut self, path: &str, entry: &Entry) -> Option<&str> {
        let Kind::File { digest, .. } = &entry.kind else {
            return None;
        };
        if entry.same == 0 {
            return None;
        }
        // Whoever gives one number to different files has them kept as they are.
        match self.0.entry((entry.same, digest.clone())) {
            hash_map::Entry::Occupied(first) => Some(first.into_mut()),
            hash_map::Entry::Vacant(free) => {
                free.insert(path.to_owned());
                None
            }
        }
    }
}

/// A source of `--parents`: `folder/./pattern`, or the whole as the pattern.
#[derive(Debug, PartialEq, Eq)]
pub struct Pivot {
    /// From here on paths are kept.
    pub folder: String,
    /// What is copied, relative to the folder.
    pub pattern: String,
}

impl Pivot {
    /// Reads a source.
    pub fn of(source: &str) -> Self {
        let (folder, pattern) = source.split_once("/./").unwrap_or(("/", source));
        let clean = |path: &str| slipway_pattern::list::clean(&format!("/{path}"));
        Self {
            folder: clean(folder),
            pattern: clean(pattern).trim_start_matches('/').to_owned(),
        }
    }
}

/// The extended attributes that a file gets.
pub fn attributes(entry: &Entry) -> Vec<(Vec<u8>, Vec<u8>)> {
    let capability = entry.capability.iter();
    capability.map(Capability::attribute).collect()
}

/// A source that the context does not hold.
fn missing(source: &str) -> Error {
    Error::SourceMissing(format!(
        "\"/{}\": not found (is it left out by .dockerignore, or outside of the context?)",
        source.trim_start_matches('/')
    ))
}

/// A source of `COPY --from` that is not there.
pub fn missing_in(from: &str, source: &str) -> Error {
    let source = source.trim_start_matches('/');
    Error::SourceMissing(format!("\"/{source}\": not found in {from}"))
}

/// Where something goes: the folder, and its name there ("" = its own).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Absolute.
    pub folder: String,
    /// None = it keeps its name.
    pub name: Option<String>,
}

/// Where a single file goes. `is_folder` tells whether the destination is one already.
pub fn place_of_file(destination: &str, is_folder: bool) -> Place {
    if destination.ends_with('/') || is_folder {
        return Place {
            folder: folder(destination),
            name: None,
        };
    }
    let (parent, name) = destination.rsplit_once('/').unwrap_or(("", destination));
    Place {
        folder: folder(parent),
        name: Some(name.to_owned()),
    }
}

/// A destination as a folder, without the slash at its end.
pub fn folder(destination: &str) -> String {
    match destination.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::copy::Origin;

    fn manifest(entries: &[(&str, &str, u32, i64)]) -> Arc<Manifest> {
        let mut manifest = Manifest::default();
        for (path, content, mode, mtime) in entries {
            let kind = Kind::File {
                size: content.len() as u64,
                digest: Digest::of(content),
            };
            let entry = Entry {
                kind,
                mode: *mode,
                mtime: *mtime,
                same: 0,
                capability: None,
            };
            manifest.insert(path, entry).unwrap();
        }
        Arc::new(manifest)
    }

    fn copy(sources: &[&str], destination: &str) -> CopyAction {
        CopyAction {
            origins: sources
                .iter()
                .map(|s| Origin::Path((*s).to_owned()))
                .collect(),
            destination: destination.to_owned(),
            ..CopyAction::default()
        }
    }

    fn arranged(manifest: &Arc<Manifest>, copy: &CopyAction) -> Result<Arrangement> {
        let mut arrangement = Arrangement::new(copy)?;
        for origin in &copy.origins {
            let Origin::Path(source) = origin else {
                continue;
            };
            arrangement.add(manifest, source, copy)?;
        }
        Ok(arrangement)
    }

    fn key(manifest: &Arc<Manifest>, copy: &CopyAction) -> String {
        let mut key = KeyBuilder::new("copy");
        arranged(manifest, copy).unwrap().add_to(&mut key);
        key.finish().to_string()
    }

    fn names(manifest: &Arc<Manifest>, copy: &CopyAction) -> Vec<String> {
        let arrangement = arranged(manifest, copy).unwrap();
        let mut names = Vec::new();
        for part in &arrangement.parts {
            let tell = |path: &str, _: &Entry| {
                names.push(path.to_owned());
                Ok(())
            };
            arrangement.each(part, tell).unwrap();
        }
        names
    }

    #[test]
    fn the_key_is_content_not_time() {
        let first = manifest(&[("app/a", "1", 0o644, 1), ("other", "x", 0o644, 1)]);
        let touched = manifest(&[("app/a", "1", 0o644, 2), ("other", "y", 0o644, 2)]);
        let changed = manifest(&[("app/a", "2", 0o644, 1)]);
        let executable = manifest(&[("app/a", "1", 0o755, 1)]);
        let more = manifest(&[("app/a", "1", 0o644, 1), ("app/b", "", 0o644, 1)]);
        let app = copy(&["./app"], "/app/");
        assert_eq!(key(&first, &app), key(&touched, &app));
        for other in [&changed, &executable, &more] {
            assert_ne!(key(&first, &app), key(other, &app));
        }
        let chmod = CopyAction {
            chmod: Some(Chmod::parse("u+x").unwrap()),
            ..app.clone()
        };
        assert_ne!(key(&first, &app), key(&first, &chmod));
        assert_eq!(key(&more, &app), key(&more, &app));
        let without = CopyAction {
            exclude: vec!["b".to_owned()],
            ..app.clone()
        };
        assert_eq!(key(&more, &without), key(&first, &app));
    }

    #[test]
    fn a_capability_is_part_of_the_key_and_of_the_file() {
        let with = |value: Option<[u8; 20]>| {
            let mut m = Manifest::default();
            let entry = Entry {
                kind: Kind::File {
                    size: 0,
                    digest: Digest::of(""),
                },
                mode: 0o755,
                mtime: 0,
                same: 0,
                capability: value.and_then(|v| Capability::parse(&v)),
            };
            m.insert("a", entry).unwrap();
            Arc::new(m)
        };
        let (mut one, mut two) = ([0; 20], [0; 20]);
        (one[3], two[3], two[4]) = (2, 2, 1);
        let keys = [None, Some(one), Some(two)].map(|v| key(&with(v), &copy(&["a"], "/")));
        assert!(keys[0] != keys[1] && keys[1] != keys[2]);
        let of = |m: Arc<Manifest>| attributes(m.get("a").unwrap());
        let expected = (b"security.capability".to_vec(), one.to_vec());
        assert_eq!(of(with(Some(one))), [expected]);
        assert!(of(with(None)).is_empty());
    }

    #[test]
    fn names_of_one_file_are_told_within_a_source() {
        let linked = |numbers: [u64; 3]| {
            let mut m = Manifest::default();
            for (path, same) in ["d/a", "d/b", "e/c"].iter().zip(numbers) {
                let kind = Kind::File {
                    size: 1,
                    digest: Digest::of("1"),
                };
                let entry = Entry {
                    kind,
                    mode: 0o644,
                    mtime: 0,
                    same,
                    capability: None,
                };
                m.insert(path, entry).unwrap();
            }
            Arc::new(m)
        };
        let (all, some, none) = (linked([7, 7, 7]), linked([7, 8, 7]), linked([0; 3]));
        let whole = copy(&["."], "/x/");
        let parts = copy(&["d/a", "e"], "/x/");
        let has =
            |m: &Arc<Manifest>, copy: &CopyAction| arranged(m, copy).unwrap().has_hard_links();
        assert!(has(&all, &whole) && has(&some, &whole) && !has(&none, &whole));
        assert!(!has(&all, &parts));
        assert_ne!(key(&all, &whole), key(&none, &whole));
        assert_ne!(key(&all, &whole), key(&some, &whole));
        assert_eq!(key(&all, &parts), key(&none, &parts));
        // The number itself means nothing.
        assert_eq!(key(&all, &whole), key(&linked([9; 3]), &whole));
    }

    #[test]
    fn excluded_files_are_left_out() {
        let m = manifest(&[
            ("src/a.md", "", 0, 0),
            ("src/a.rs", "", 0, 0),
            ("src/in/b.md", "", 0, 0),
            ("src/in/keep.md", "", 0, 0),
            ("top.md", "", 0, 0),
            ("top.rs", "", 0, 0),
        ]);
        let with = |sources: &[&str], exclude: &[&str]| CopyAction {
            exclude: exclude.iter().map(|e| (*e).to_owned()).collect(),
            ..copy(sources, "/d/")
        };
        assert_eq!(
            names(&m, &with(&["src"], &["*.md"])),
            ["", "a.rs", "in", "in/b.md", "in/keep.md"]
        );
        assert_eq!(names(&m, &with(&["src"], &["**/*.md"])), ["", "a.rs", "in"]);
        assert_eq!(
            names(&m, &with(&["src"], &["in", "!in/keep.md"])),
            ["", "a.md", "a.rs", "in", "in/keep.md"]
        );
        assert_eq!(names(&m, &with(&["top.*"], &["*.md"])), ["top.rs"]);
        assert_eq!(names(&m, &with(&["nothing*"], &[])).len(), 0);
    }

    #[test]
    fn parents_are_kept() {
        let m = manifest(&[
            ("a/b/c/one.txt", "", 0, 0),
            ("a/b/d/two.txt", "", 0, 0),
            ("a/x/one.txt", "", 0, 0),
        ]);
        let parents = |sources: &[&str]| CopyAction {
            parents: true,
            ..copy(sources, "/d/")
        };
        assert_eq!(
            names(&m, &parents(&["a/b/c"])),
            ["a", "a/b", "a/b/c", "a/b/c/one.txt"]
        );
        assert_eq!(
            names(&m, &parents(&["./a/./*/*/one.txt"])),
            ["b", "b/c", "b/c/one.txt"]
        );
        assert_eq!(
            names(&m, &parents(&["a/./**/one.txt"])),
            ["b", "b/c", "b/c/one.txt", "x", "x/one.txt"]
        );
        assert!(matches!(
            arranged(&m, &parents(&["a/none"])),
            Err(Error::SourceMissing(_))
        ));
        let pivot = Pivot::of("/x/../y/./z/../*.c");
        assert_eq!(
            (pivot.folder.as_str(), pivot.pattern.as_str()),
            ("/y", "*.c")
        );
    }

    #[test]
    fn what_is_missing_is_refused() {
        let m = manifest(&[("a", "1", 0, 0), ("b", "1", 0, 0)]);
        assert!(matches!(
            arranged(&m, &copy(&["c"], "/x")),
            Err(Error::SourceMissing(_))
        ));
        let all = copy(&["*"], "/x");
        assert_eq!(arranged(&m, &all).unwrap().parts.len(), 2);
    }

    #[test]
    fn names_at_the_destination() {
        let place = |folder: &str, name: Option<&str>| Place {
            folder: folder.to_owned(),
            name: name.map(str::to_owned),
        };
        assert_eq!(place_of_file("/app/", false), place("/app", None));
        assert_eq!(place_of_file("/", false), place("/", None));
        assert_eq!(place_of_file("/app", true), place("/app", None));
        assert_eq!(place_of_file("/app", false), place("/", Some("app")));
        assert_eq!(place_of_file("/a/b", false), place("/a", Some("b")));
    }
}
