//! The tree of a commit as a manifest, once its objects are here.

use std::{collections::HashSet, io::Read as _};

use super::{
    super::{ContentStore, Entry, Kind, Manifest},
    Id,
    kept::{Checkout, Tracked},
    pack::{Kind as ObjectKind, Object, Objects},
};

/// Tags of tags that are followed.
const MAX_TAGS: usize = 16;
/// Most bytes of `.gitmodules`.
const MAX_SETTINGS: u64 = 1 << 20;

/// What a commit holds.
#[derive(Default)]
pub struct Tree {
    /// Its files, or those of the wanted folder.
    pub manifest: Manifest,
    /// Where other repositories belong: paths from the repository's root, the same from the wanted folder, and
    /// commits.
    pub modules: Vec<(String, String, Id)>,
    /// `.gitmodules`, where there are such.
    pub settings: String,
    /// What its `.git` takes, if that is wanted.
    pub checkout: Checkout,
}

/// The tree of a commit, or a folder of it. Errors are sentences.
pub fn tree(
    (store, objects): (&ContentStore, &Objects),
    id: Id,
    folder: &str,
    keep: bool,
) -> Result<Tree, String> {
    let missing = |id: &Id| format!("the repository did not send {id}");
    let mut at = id;
    let mut commit = None;
    let mut checkout = Checkout::default();
    for _ in 0..MAX_TAGS {
        let (kind, text) = match objects.get(&at) {
            Some(Object::Other(kind, text)) => (*kind, text.clone()),
            Some(Object::File(..)) => return Err(format!("{at} is no commit")),
            None => return Err(missing(&at)),
        };
        checkout.objects.push(at);
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
    checkout.mtime = mtime;
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
        if keep {
            checkout.objects.push(id);
        }
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
            let mode_of_tree = mode;
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
            if keep && kind != Kind::Folder {
                checkout.objects.push(id);
            }
            if keep && mode_of_tree != 0o040_000 {
                let size = match objects.get(&id) {
                    Some(Object::File(_, size)) => *size,
                    _ => 0,
                };
                checkout.files.push(Tracked {
                    path: path.clone(),
                    mode: mode_of_tree,
                    id,
                    size,
                });
            }
            if !inside.is_empty() {
                manifest.insert(
                    inside,
                    Entry {
                        kind,
                        mode,
                        mtime,
                        same: 0,
                        capability: None,
                    },
                )?;
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
        checkout,
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

fn link(store: &ContentStore, objects: &Objects, id: &Id) -> Result<String, String> {
    text(store, objects, id, 4096).map_err(|why| format!("the link {id}: {why}"))
}

/// A small file.
fn text(store: &ContentStore, objects: &Objects, id: &Id, most: u64) -> Result<String, String> {
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
