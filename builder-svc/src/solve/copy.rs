//! Which files a COPY or ADD means, and under which names they arrive.

mod names;
mod place;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, io, sync::Arc};

use slipway_image::Digest;
use slipway_pattern::{PatternList, has_wildcards};

use crate::{
    cache::KeyBuilder,
    context::{Capability, Entry, Kind, Manifest, Match},
    error::{Error, Result},
    plan::{Chmod, CopyAction},
};

pub use names::Names;
pub use place::{Pivot, folder, place_of_file};

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
