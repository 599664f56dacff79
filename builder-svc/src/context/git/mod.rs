//! Git repositories as contexts and as sources of ADD.
//!
//! `reference` what people write, `auth` who asks, `protocol` the conversation with a server, `pack` its
//! answer, `submodules` repositories inside of repositories; this file puts the tree of a commit together as a
//! manifest.

mod auth;
mod pack;
mod protocol;
mod reference;
mod submodules;

use std::{collections::HashSet, fmt, sync::Arc};

pub use reference::GitSource;

use super::{ContentStore, Entry, Fetcher, Kind, Manifest};
use crate::{
    caller::Caller,
    error::{Error, Result, Tried as _},
};
use pack::{Kind as ObjectKind, Object, Objects};
use protocol::Repository;

/// Tags of tags that are followed.
const MAX_TAGS: usize = 16;
/// Most bytes of `.gitmodules`.
const MAX_SETTINGS: u64 = 1 << 20;

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

/// The files of a repository at a reference, with those of its submodules, and the commit. With a checksum the
/// commit must be that one.
pub async fn manifest(
    (fetcher, caller): (&Fetcher, &Caller),
    source: &GitSource,
    checksum: Option<&str>,
) -> Result<(Arc<Manifest>, String)> {
    let shown = source.shown();
    let fail = |why: String| Error::Context(format!("{shown}: {why}"));
    let who = auth::header(caller, &source.remote).await?;
    let repository = Repository::open(fetcher, source, who).await?;
    let id = repository.resolve(&source.reference).await?;
    if let Some(wanted) = checksum
        && !(wanted.len() >= 7 && id.to_string().starts_with(&wanted.to_ascii_lowercase()))
    {
        return Err(Error::Dockerfile(format!(
            "expected checksum to match {wanted}, got {id} ({shown})"
        )));
    }
    let mut whole = Manifest::default();
    let top = files(&repository, id, &source.subfolder, &shown).await?;
    let mut todo = submodules::of(&top, source, "", 0).map_err(fail)?;
    add(&mut whole, "", top.manifest).map_err(fail)?;
    let mut fetched = 0;
    while let Some(module) = todo.pop() {
        fetched += 1;
        if fetched > submodules::MOST {
            return Err(fail(format!(
                "it has more than {} submodules",
                submodules::MOST
            )));
        }
        let who = auth::header(caller, &module.source.remote).await?;
        let repository = Repository::open(fetcher, &module.source, who).await?;
        let shown = module.source.shown();
        let found = files(&repository, module.commit, &module.source.subfolder, &shown).await?;
        let more = submodules::of(&found, &module.source, &module.path, module.depth);
        todo.extend(more.map_err(fail)?);
        add(&mut whole, &module.path, found.manifest).map_err(fail)?;
    }
    match whole.is_empty() && !source.subfolder.is_empty() {
        true => Err(fail(format!(
            "the repository has no folder {}",
            source.subfolder
        ))),
        false => Ok((Arc::new(whole), id.to_string())),
    }
}

/// Adds a tree below a folder, or at the top.
fn add(whole: &mut Manifest, folder: &str, tree: Manifest) -> std::result::Result<(), String> {
    if folder.is_empty() && whole.is_empty() {
        *whole = tree;
        return Ok(());
    }
    for (path, entry) in tree.below("") {
        whole.insert(&format!("{folder}/{path}"), entry.clone())?;
    }
    Ok(())
}

/// The tree of a commit, or a folder of it, once its objects are here.
async fn files(repository: &Repository<'_>, id: Id, folder: &str, shown: &str) -> Result<Tree> {
    let file = repository.pack(&id).await?;
    let store = repository.store().clone();
    let folder = folder.to_owned();
    let built = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        let objects = Objects::read(&store, file)?;
        Ok(tree(&store, &objects, id, &folder))
    });
    let built = built
        .await
        .map_err(std::io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot read {shown}"))?;
    built.map_err(|why| Error::Context(format!("{shown}: {why}")))
}

/// What a commit holds.
struct Tree {
    manifest: Manifest,
    /// Where other repositories belong: paths from the repository's root, the same from the wanted folder, and
    /// commits.
    modules: Vec<(String, String, Id)>,
    /// `.gitmodules`, where there are such.
    settings: String,
}

/// The tree of a commit, or a folder of it.
fn tree(
    store: &ContentStore,
    objects: &Objects,
    id: Id,
    folder: &str,
) -> std::result::Result<Tree, String> {
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
    let (mut modules, mut settings) = (Vec::new(), None);
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
            if path == ".gitmodules" && mode != 0o160_000 {
                settings = Some(id);
            }
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
                    // As git: a folder, filled when the other repository is there.
                    modules.push((path.clone(), inside.to_owned(), id));
                    (Kind::Folder, 0o755)
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
    if manifest.is_empty() && modules.is_empty() && !folder.is_empty() {
        return Err(format!("the repository has no folder {folder}"));
    }
    let settings = match settings.filter(|_| !modules.is_empty()) {
        Some(id) => {
            text(store, objects, &id, MAX_SETTINGS).map_err(|why| format!(".gitmodules: {why}"))?
        }
        None => String::new(),
    };
    Ok(Tree {
        manifest,
        modules,
        settings,
    })
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
    text(store, objects, id, 4096).map_err(|why| format!("the link {id}: {why}"))
}

/// A small file.
fn text(
    store: &ContentStore,
    objects: &Objects,
    id: &Id,
    most: u64,
) -> std::result::Result<String, String> {
    use std::io::Read as _;
    let Some(Object::File(digest, size)) = objects.get(id) else {
        return Err("it is not there".to_owned());
    };
    if *size > most {
        return Err(format!("it has more than {most} bytes"));
    }
    let mut text = String::new();
    store
        .read(digest)
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(|e| e.to_string())?;
    Ok(text)
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
