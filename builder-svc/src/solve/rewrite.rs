//! A tar stream of another stage on its way into a snapshot: names, modes, and what is left out.

use std::{
    collections::HashSet,
    io::{self, Read, Write},
};

use slipway_image::layer::{
    Entry, Kind,
    pack::{Plain, Sink as _},
    tar_read::TarReader,
};
use slipway_pattern::PatternList;

use crate::plan::Chmod;

/// What becomes of a stream.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// Put in front of all names; "" = nothing.
    pub prefix: String,
    /// The name of a stream's only entry.
    pub name: Option<String>,
    /// Only what fits, with the folders above it.
    pub include: Option<PatternList>,
    /// Without what fits.
    pub exclude: PatternList,
    /// `--chmod`
    pub chmod: Option<Chmod>,
}

impl Rewrite {
    /// Rewrites a stream and adds it to another one; says how many entries that were.
    pub fn stream(&self, stream: impl Read, out: &mut Plain<impl Write>) -> io::Result<u64> {
        let mut reader = TarReader::new(stream);
        // Folders that come only if something in them does: those above the current path.
        let mut pending: Vec<Entry> = Vec::new();
        let mut left_out: HashSet<Vec<u8>> = HashSet::new();
        let selects = self.include.is_some() || !self.exclude.is_empty();
        let mut written = 0;
        while let Some(mut entry) = reader.next_entry().map_err(io::Error::other)? {
            let own = self.named(&entry.path);
            // A target that has to be made is not like its source.
            if own.is_empty() {
                continue;
            }
            if let (Some(chmod), Kind::File | Kind::Folder) = (&self.chmod, &entry.kind) {
                entry.mode = chmod.apply(entry.mode, entry.kind == Kind::Folder);
            }
            let old = std::mem::replace(&mut entry.path, own);
            if selects {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                pending.retain(|folder| {
                    entry.path.starts_with(&folder.path)
                        && entry.path.get(folder.path.len()) == Some(&b'/')
                });
                let fits = self.include.as_ref().is_none_or(|i| i.matches(&path));
                if !fits || self.exclude.matches(&path) {
                    match entry.kind {
                        Kind::Folder => pending.push(entry),
                        _ => drop(left_out.insert(old)),
                    }
                    continue;
                }
                for folder in pending.drain(..) {
                    out.append(&folder, &mut io::empty())?;
                }
            }
            if let Kind::HardLink(target) = &entry.kind {
                if left_out.contains(target) {
                    return Err(io::Error::other(format!(
                        "{} is a hard link to a file that is left out: copy that too, or neither",
                        String::from_utf8_lossy(&entry.path)
                    )));
                }
                entry.kind = Kind::HardLink(self.named(target));
            }
            out.append(&entry, &mut Content(&mut reader))?;
            written += 1;
        }
        Ok(written)
    }

    fn named(&self, path: &[u8]) -> Vec<u8> {
        if let Some(name) = &self.name {
            return name.as_bytes().to_vec();
        }
        let path = path.strip_prefix(b"./").unwrap_or(path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        match (self.prefix.as_bytes(), path) {
            (prefix, b"." | b"") => prefix.to_vec(),
            (b"", path) => path.to_vec(),
            (prefix, path) => [prefix, b"/", path].concat(),
        }
    }
}

/// The content of a reader's current entry.
struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(buffer).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
        Entry {
            path: path.as_bytes().to_vec(),
            kind,
            mode,
            uid: 1,
            gid: 2,
            mtime: (0, 0),
            size: 0,
            xattrs: Vec::new(),
        }
    }

    fn sample() -> Vec<u8> {
        let mut tar = Plain::new(Vec::new());
        for (path, kind) in [
            (".", Kind::Folder),
            ("a", Kind::Folder),
            ("a/one.md", Kind::File),
            ("a/two.rs", Kind::File),
            ("b", Kind::Folder),
            ("b/c", Kind::Folder),
            ("b/c/three.rs", Kind::File),
            ("b/link", Kind::HardLink(b"a/one.md".to_vec())),
        ] {
            tar.append(&entry(path, kind, 0o644), &mut io::empty())
                .unwrap();
        }
        tar.finish().unwrap()
    }

    fn names(rewrite: &Rewrite) -> io::Result<Vec<(String, u32)>> {
        let mut out = Plain::new(Vec::new());
        rewrite.stream(&sample()[..], &mut out)?;
        let bytes = out.finish().unwrap();
        let mut reader = TarReader::new(&bytes[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let name = String::from_utf8(entry.path).unwrap();
            names.push((name.trim_end_matches('/').to_owned(), entry.mode));
        }
        Ok(names)
    }

    fn list(patterns: &[&str]) -> PatternList {
        PatternList::new(patterns).unwrap()
    }

    #[test]
    fn only_what_is_wanted_comes_with_the_folders_above() {
        let rewrite = Rewrite {
            include: Some(list(&["x/b/**/*.rs"])),
            prefix: "x".to_owned(),
            chmod: Some(Chmod::parse("u+x").unwrap()),
            ..Rewrite::default()
        };
        let expected = ["x", "x/b", "x/b/c", "x/b/c/three.rs"].map(|n| (n.to_owned(), 0o744));
        assert_eq!(names(&rewrite).unwrap(), expected);
        let without = Rewrite {
            exclude: list(&["**/*.rs", "b/link"]),
            ..Rewrite::default()
        };
        let told: Vec<_> = names(&without)
            .unwrap()
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(told, ["a", "a/one.md", "b", "b/c"]);
    }

    #[test]
    fn a_link_to_what_is_left_out_is_refused() {
        let rewrite = Rewrite {
            exclude: list(&["a/*.md"]),
            ..Rewrite::default()
        };
        let error = names(&rewrite).unwrap_err().to_string();
        assert!(error.contains("hard link"), "{error}");
    }
}
