//! Which files of the context a COPY or ADD means, and under which names they arrive.

use std::sync::Arc;

use crate::{
    cache::KeyBuilder,
    context::{Kind, Manifest, Match},
    error::{Error, Result},
    plan::CopyAction,
};

/// A copy from the context, arranged.
pub struct Arrangement {
    /// The context.
    pub manifest: Arc<Manifest>,
    /// What the sources stand for, in their order.
    pub matches: Vec<Match>,
}

impl Arrangement {
    /// Finds the sources.
    pub fn new(manifest: &Arc<Manifest>, copy: &CopyAction) -> Result<Self> {
        let mut matches = Vec::new();
        for source in &copy.sources {
            let found = manifest.find(source);
            if found.is_empty() {
                return Err(missing(source));
            }
            matches.extend(found);
        }
        check_destination(copy, matches.len())?;
        Ok(Self {
            manifest: manifest.clone(),
            matches,
        })
    }

    /// Adds names, kinds, modes and content to a key; no times.
    pub fn add_to(&self, key: &mut KeyBuilder) {
        key.part("context");
        for found in &self.matches {
            key.part("source").number(u64::from(found.folder));
            if !found.folder {
                key.part(&found.name);
                self.add_entry(key, "", &found.path);
                continue;
            }
            let mode = self.manifest.get(&found.path).map_or(0, |e| e.mode);
            key.number(u64::from(mode));
            for (path, _) in self.manifest.below(&found.path) {
                let whole = if found.path.is_empty() {
                    path.to_owned()
                } else {
                    format!("{}/{path}", found.path)
                };
                self.add_entry(key, path, &whole);
            }
        }
    }

    fn add_entry(&self, key: &mut KeyBuilder, shown: &str, path: &str) {
        let Some(entry) = self.manifest.get(path) else {
            return;
        };
        key.part(shown).number(u64::from(entry.mode));
        match &entry.kind {
            Kind::File { digest, .. } => key.part("file").part(digest.to_string()),
            Kind::Folder => key.part("folder"),
            Kind::Symlink(target) => key.part("link").part(target),
        };
    }
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

/// Several files need a folder.
pub fn check_destination(copy: &CopyAction, matches: usize) -> Result<()> {
    if matches > 1 && !copy.destination.ends_with('/') {
        let name = if copy.add { "ADD" } else { "COPY" };
        return Err(Error::Dockerfile(format!(
            "When using {name} with more than one source file, the destination must be a directory and end with a /"
        )));
    }
    Ok(())
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
    use crate::context::Entry;
    use slipway_image::Digest;

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
            };
            manifest.insert(path, entry).unwrap();
        }
        Arc::new(manifest)
    }

    fn copy(sources: &[&str], destination: &str) -> CopyAction {
        CopyAction {
            sources: sources.iter().map(|s| (*s).to_owned()).collect(),
            destination: destination.to_owned(),
            ..CopyAction::default()
        }
    }

    fn key(manifest: &Arc<Manifest>, copy: &CopyAction) -> String {
        let mut key = KeyBuilder::new("copy");
        Arrangement::new(manifest, copy).unwrap().add_to(&mut key);
        key.finish().to_string()
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

    #[test]
    fn what_is_missing_or_ambiguous_is_refused() {
        let m = manifest(&[("a", "1", 0, 0), ("b", "1", 0, 0)]);
        assert!(matches!(
            Arrangement::new(&m, &copy(&["c"], "/x")),
            Err(Error::SourceMissing(_))
        ));
        assert!(matches!(
            Arrangement::new(&m, &copy(&["*"], "/x")),
            Err(Error::Dockerfile(_))
        ));
        assert_eq!(
            Arrangement::new(&m, &copy(&["*"], "/x/"))
                .unwrap()
                .matches
                .len(),
            2
        );
    }
}
