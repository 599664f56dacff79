//! Git repositories as contexts and as sources of ADD.
//!
//! `reference` what people write, `protocol` the conversation with a server, `pack` its answer; this file
//! puts the tree of a commit together as a manifest.

mod pack;
mod protocol;
mod reference;

use std::{collections::HashSet, fmt, sync::Arc};

pub use reference::GitSource;

use super::{ContentStore, Entry, Fetcher, Kind, Manifest};
use crate::error::{Error, Result, Tried as _};
use pack::{Kind as ObjectKind, Object, Objects};
use protocol::Repository;

/// Tags of tags that are followed.
const MAX_TAGS: usize = 16;

/// An object's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id([u8; 20]);

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 20];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some(Self(id))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The files of a repository at a reference, and the commit. With a checksum the commit must be that one.
pub async fn manifest(
    fetcher: &Fetcher,
    source: &GitSource,
    checksum: Option<&str>,
) -> Result<(Arc<Manifest>, String)> {
    let shown = source.shown();
    let repository = Repository::open(fetcher, source).await?;
    let id = repository.resolve(&source.reference).await?;
    if let Some(wanted) = checksum
        && !(wanted.len() >= 7 && id.to_string().starts_with(&wanted.to_ascii_lowercase()))
    {
        return Err(Error::Dockerfile(format!(
            "expected checksum to match {wanted}, got {id} ({shown})"
        )));
    }
    let file = repository.pack(&id).await?;
    let store = fetcher.store().clone();
    let folder = source.subfolder.clone();
    let built = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        let objects = Objects::read(&store, file)?;
        Ok(tree(&store, &objects, id, &folder))
    });
    let built = built
        .await
        .map_err(std::io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot read {shown}"))?;
    built
        .map(|manifest| (Arc::new(manifest), id.to_string()))
        .map_err(|why| Error::Context(format!("{shown}: {why}")))
}

/// The tree of a commit, or a folder of it.
fn tree(
    store: &ContentStore,
    objects: &Objects,
    id: Id,
    folder: &str,
) -> std::result::Result<Manifest, String> {
    let missing = |id: &Id| format!("the repository did not send {id}");
    let mut at = id;
    let mut commit = None;
    for _ in 0..MAX_TAGS {
        let (kind, text) = match objects.get(&at) {
            Some(Object::Other(kind, text)) => (*kind, text.clone()),
            Some(Object::File(..)) => return Err(format!("{at} is no commit")),
            None => return Err(missing(&at)),
        };
        match kind {
            ObjectKind::Tag => at = field(&text, "object ").ok_or("a tag of nothing")?,
            ObjectKind::Commit => {
                commit = Some(text);
                break;
            }
            _ => return Err(format!("{at} is no commit")),
        }
    }
    let commit = commit.ok_or("a tag of a tag of a tag")?;
    let mtime = committed(&commit).saturating_mul(1_000_000_000);
    let mut todo = vec![(
        String::new(),
        field(&commit, "tree ").ok_or("a commit without a tree")?,
    )];
    let mut manifest = Manifest::default();
    // Not by recursion, and no tree twice on the way down: a commit of a few kilobytes can name any number
    // of files. The manifest ends that.
    while let Some((above, id)) = todo.pop() {
        let Some(Object::Other(ObjectKind::Tree, bytes)) = objects.get(&id) else {
            return Err(missing(&id));
        };
        let mut rest = &bytes[..];
        // A name that is there twice would have its tree gone through twice, at every level.
        let mut names = HashSet::new();
        while !rest.is_empty() {
            let (mode, name, id) = entry(&mut rest)
                .filter(|(_, name, _)| names.insert(*name))
                .ok_or_else(|| format!("the tree {id} is broken"))?;
            if name.eq_ignore_ascii_case(".git") || name.contains('/') {
                return Err(format!("{name:?} is not a name that a repository may have"));
            }
            let path = match above.as_str() {
                "" => name.to_owned(),
                above => format!("{above}/{name}"),
            };
            // Only the folder that is wanted, and what leads to it.
            let Some(inside) = inside(folder, &path) else {
                continue;
            };
            let (kind, mode) = match mode {
                0o040_000 => {
                    todo.push((path.clone(), id));
                    (Kind::Folder, 0o755)
                }
                0o120_000 => (Kind::Symlink(link(store, objects, &id)?), 0o777),
                0o160_000 => {
                    return Err(format!(
                        "{path} is a submodule, which is not supported: fetch it by an ADD of its own"
                    ));
                }
                mode => match objects.get(&id) {
                    Some(Object::File(digest, size)) => (
                        Kind::File {
                            digest: digest.clone(),
                            size: *size,
                        },
                        if mode & 0o100 == 0 { 0o644 } else { 0o755 },
                    ),
                    _ => return Err(missing(&id)),
                },
            };
            if !inside.is_empty() {
                manifest.insert(inside, Entry { kind, mode, mtime })?;
            } else if path == folder && kind != Kind::Folder {
                return Err(format!("{folder} is not a folder"));
            }
        }
    }
    match manifest.is_empty() && !folder.is_empty() {
        true => Err(format!("the repository has no folder {folder}")),
        false => Ok(manifest),
    }
}

/// A path relative to a folder; "" for the folder itself and those above it; none for what is elsewhere.
fn inside<'a>(folder: &str, path: &'a str) -> Option<&'a str> {
    if folder.is_empty() {
        return Some(path);
    }
    if folder == path
        || folder
            .strip_prefix(path)
            .is_some_and(|r| r.starts_with('/'))
    {
        return Some("");
    }
    path.strip_prefix(folder)?.strip_prefix('/')
}

fn link(store: &ContentStore, objects: &Objects, id: &Id) -> std::result::Result<String, String> {
    use std::io::Read as _;
    let Some(Object::File(digest, ..=4096)) = objects.get(id) else {
        return Err(format!("the link {id} leads nowhere"));
    };
    let mut target = String::new();
    store
        .read(digest)
        .and_then(|mut file| file.read_to_string(&mut target))
        .map_err(|e| format!("the link {id}: {e}"))?;
    Ok(target)
}

/// An id in the header of a commit or tag.
fn field(text: &[u8], name: &str) -> Option<Id> {
    let line = text.split(|b| *b == b'\n').next()?;
    Id::parse(std::str::from_utf8(line).ok()?.strip_prefix(name)?)
}

/// When a commit was made, seconds since the epoch.
fn committed(text: &[u8]) -> i64 {
    let header = text.split(|b| *b == b'\n').take_while(|l| !l.is_empty());
    let line = header
        .filter_map(|l| l.strip_prefix(b"committer "))
        .map(String::from_utf8_lossy)
        .next();
    line.and_then(|l| l.rsplit(' ').nth(1)?.parse().ok())
        .unwrap_or_default()
}

/// The next entry of a tree: mode, name, id.
fn entry<'a>(rest: &mut &'a [u8]) -> Option<(u32, &'a str, Id)> {
    let end = rest.iter().position(|b| *b == 0)?;
    let (mode, name) = std::str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
    let id = rest.get(end + 1..end + 21)?;
    *rest = &rest[end + 21..];
    Some((
        u32::from_str_radix(mode, 8).ok()?,
        name,
        Id(id.try_into().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_cut_out_of_a_tree() {
        for (folder, path, expected) in [
            ("", "a/b", Some("a/b")),
            ("a/b", "a", Some("")),
            ("a/b", "a/b", Some("")),
            ("a/b", "a/b/c", Some("c")),
            ("a/b", "a/bc", None),
            ("a/b", "x", None),
            ("ab", "a", None),
        ] {
            assert_eq!(inside(folder, path), expected, "{folder} {path}");
        }
    }

    #[test]
    fn entries_and_headers_are_read_or_refused() {
        let bytes = [&b"100644 name\0"[..], &[7; 20], b"40000 x\0", &[8; 19]].concat();
        let mut rest = &bytes[..];
        assert_eq!(entry(&mut rest), Some((0o100_644, "name", Id([7; 20]))));
        assert_eq!(entry(&mut rest), None);
        let commit = format!(
            "tree {}\ncommitter A <a@b> 1700000000 +0100\n\nx",
            "0".repeat(40)
        );
        assert_eq!(field(commit.as_bytes(), "tree "), Some(Id([0; 20])));
        assert_eq!(committed(commit.as_bytes()), 1_700_000_000);
    }
}
