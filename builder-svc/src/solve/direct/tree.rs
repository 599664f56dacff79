//! The entries of a layer that is made straight from files: what a worker's snapshot would hold, or nothing
//! where that is not certain.

use std::collections::{BTreeMap, BTreeSet};

use slipway_image::{Digest, layer as tar};

use super::super::copy::{Arrangement, Part, attributes, folder, place_of_file};
use crate::{
    context::{Entry, Kind},
    plan::CopyAction,
    worker::{Standing, StandingFolder},
};

/// Most entries of a layer that is held in memory, at half a kilobyte each.
const ENTRIES: usize = 300_000;
/// Most names that a worker is asked for.
const NAMES: usize = 10_000;

/// Entries of a layer by their path, a folder before what is in it, as a walk of the folders would find them.
pub(super) type Tree = BTreeMap<Vec<String>, Item>;

/// An entry of a layer, and where its content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) header: tar::Entry,
    pub(super) content: Option<Digest>,
}

/// Where a layer goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// What is there.
    pub(super) standing: Standing,
    /// The destination is a folder.
    pub(super) is_folder: bool,
}

/// Numbers need no look into a root filesystem; a user without a group has the group of its number.
pub(super) fn owner(spec: &str) -> Option<(u32, u32)> {
    if spec.is_empty() {
        return Some((0, 0));
    }
    let (user, group) = spec.split_once(':').unwrap_or((spec, spec));
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    Some((number(user)?, number(group)?))
}

/// The one folder that everything goes to, and what is put into it, and whether that is a folder; none where
/// there are several.
pub(super) fn target(
    copy: &CopyAction,
    files: &Arrangement,
    is_folder: bool,
) -> Option<(String, Vec<(String, bool)>)> {
    let (mut target, mut names) = (None, BTreeSet::new());
    for part in &files.parts {
        let (into, name) = place_of(copy, part, is_folder);
        if target.get_or_insert_with(|| into.clone()) != &into {
            return None;
        }
        // Nothing can fail where nothing is written.
        let _ = files.each(part, |path, entry| {
            let (first, is_folder) = match path.split_once('/') {
                Some((first, _)) => (first, true),
                None => (path, entry.kind == Kind::Folder),
            };
            if !first.is_empty() {
                let own = name.clone().unwrap_or_else(|| first.to_owned());
                names.insert((own, is_folder));
            }
            Ok(())
        });
    }
    (names.len() <= NAMES).then(|| Some((target?, names.into_iter().collect())))?
}

/// The folder that a part goes to, and its name there.
fn place_of(copy: &CopyAction, part: &Part, is_folder: bool) -> (String, Option<String>) {
    match part.found.folder {
        true => (folder(&copy.destination), None),
        false => {
            let place = place_of_file(&copy.destination, is_folder);
            (place.folder, place.name)
        }
    }
}

/// What the worker's snapshot would hold; none where that is not certain.
pub(super) fn tree(
    copy: &CopyAction,
    files: &Arrangement,
    place: &Place,
    now: i64,
) -> Option<Tree> {
    let owner = place.standing.owner;
    let mut tree = Tree::new();
    let mut certain = true;
    for part in &files.parts {
        let (target, name) = place_of(copy, part, place.is_folder);
        let target: Vec<String> = parts(&target);
        for end in 1..=target.len() {
            certain &= make_folder(&mut tree, &target[..end], owner, now);
        }
        let taken = files.each(part, |path, entry| {
            let mut at = target.clone();
            match (&name, path) {
                (Some(name), _) => at.push(name.clone()),
                // As BuildKit: a target that had to be made is plain, not like its source.
                (None, "") => return Ok(()),
                (None, path) => at.extend(parts(path)),
            }
            for end in target.len() + 1..at.len() {
                // Those that the source does not name are made plainly, as root's.
                certain &= make_folder(&mut tree, &at[..end], (0, 0), now);
            }
            certain &= put(&mut tree, at, item(files, entry, owner));
            Ok(())
        });
        certain &= taken.is_ok() && tree.len() <= ENTRIES;
        if !certain {
            return None;
        }
        certain &= keep_folders(&mut tree, &target, &place.standing.folders, now);
    }
    certain.then_some(tree)
}

/// Folders that are there stay as they are. Only the last of them is changed by what comes into it.
fn keep_folders(tree: &mut Tree, target: &[String], there: &[StandingFolder], now: i64) -> bool {
    for (i, folder) in there.iter().enumerate() {
        let Some(item) = target.get(..=i).and_then(|path| tree.get_mut(path)) else {
            return false;
        };
        item.header.mode = folder.mode;
        (item.header.uid, item.header.gid) = folder.owner;
        item.header.mtime = match i + 1 == there.len() {
            true => (now, 0),
            false => folder.mtime,
        };
    }
    there.iter().all(|folder| !folder.has_xattrs)
}

pub(super) fn parts(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect()
}

/// False: something else is in its place.
fn make_folder(tree: &mut Tree, path: &[String], (uid, gid): (u32, u32), now: i64) -> bool {
    if let Some(there) = tree.get(path) {
        return there.header.kind == tar::Kind::Folder;
    }
    let header = tar::Entry {
        path: Vec::new(),
        kind: tar::Kind::Folder,
        mode: 0o755,
        uid,
        gid,
        mtime: (now, 0),
        size: 0,
        xattrs: Vec::new(),
    };
    tree.insert(
        path.to_vec(),
        Item {
            header,
            content: None,
        },
    );
    true
}

/// False: what is there is of another kind, or may lead elsewhere; or it has the name of a whiteout, which only
/// a folder that nobody unpacks can hold.
fn put(tree: &mut Tree, path: Vec<String>, item: Item) -> bool {
    let whiteout = |name: &String| name.as_bytes().starts_with(tar::WHITEOUT);
    if path.last().is_some_and(whiteout) {
        return false;
    }
    if let Some(there) = tree.get(&path) {
        let folder = |item: &Item| item.header.kind == tar::Kind::Folder;
        if folder(there) != folder(&item) {
            return false;
        }
    }
    tree.insert(path, item);
    true
}

fn item(files: &Arrangement, entry: &Entry, (uid, gid): (u32, u32)) -> Item {
    let second = 1_000_000_000;
    let mut item = Item {
        header: tar::Entry {
            path: Vec::new(),
            kind: tar::Kind::Folder,
            mode: files.mode(entry),
            uid,
            gid,
            mtime: (
                entry.mtime.div_euclid(second),
                u32::try_from(entry.mtime.rem_euclid(second)).unwrap_or_default(),
            ),
            size: 0,
            xattrs: Vec::new(),
        },
        content: None,
    };
    match &entry.kind {
        Kind::Folder => {}
        Kind::Symlink(target) => {
            item.header.kind = tar::Kind::Symlink(target.as_bytes().to_vec());
            item.header.mode = 0o777;
        }
        Kind::File { digest, size } => {
            item.header.kind = tar::Kind::File;
            item.header.size = *size;
            item.header.xattrs = attributes(entry);
            item.content = Some(digest.clone());
        }
    }
    item
}

/// SOURCE_DATE_EPOCH, as the worker has it.
pub(super) fn clamp(tree: &mut Tree, latest: Option<i64>) {
    let Some(latest) = latest else { return };
    for item in tree.values_mut() {
        if item.header.mtime.0 >= latest {
            item.header.mtime = (latest, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{context::Manifest, plan::copy::Origin};

    fn arranged(entries: &[(&str, Kind)], sources: &[&str], to: &str) -> Option<Tree> {
        let mut manifest = Manifest::default();
        for (path, kind) in entries {
            let entry = Entry {
                kind: kind.clone(),
                mode: 0o640,
                mtime: 5_000_000_001,
                same: 0,
                capability: None,
            };
            manifest.insert(path, entry).unwrap();
        }
        let manifest = Arc::new(manifest);
        let copy = CopyAction {
            destination: to.to_owned(),
            origins: sources
                .iter()
                .map(|s| Origin::Path((*s).to_owned()))
                .collect(),
            ..CopyAction::default()
        };
        let mut files = Arrangement::new(&copy).unwrap();
        for source in sources {
            files.add(&manifest, source, &copy).unwrap();
        }
        let mut place = Place {
            is_folder: to.ends_with('/'),
            ..Place::default()
        };
        place.standing.owner = (1, 2);
        tree(&copy, &files, &place, 9)
    }

    fn file() -> Kind {
        Kind::File {
            size: 0,
            digest: Digest::of(""),
        }
    }

    #[test]
    fn a_layer_has_what_the_worker_would_make() {
        let entries = [("a/b/x", file()), ("a/b-c", file()), ("a/b", Kind::Folder)];
        let tree = arranged(&entries, &["a"], "/to/here/").unwrap();
        let told: Vec<_> = tree
            .iter()
            .map(|(path, item)| (path.join("/"), item.header.mode, item.header.mtime))
            .collect();
        let source = (5, 1);
        assert_eq!(
            told,
            [
                ("to".to_owned(), 0o755, (9, 0)),
                ("to/here".to_owned(), 0o755, (9, 0)),
                ("to/here/b".to_owned(), 0o640, source),
                ("to/here/b/x".to_owned(), 0o640, source),
                ("to/here/b-c".to_owned(), 0o640, source),
            ]
        );
        let tree = arranged(&entries, &["a/b/x"], "/one").unwrap();
        assert_eq!(tree.keys().next().unwrap(), &["one"]);
        assert_eq!(
            (tree.len(), owner("7"), owner("7:8")),
            (1, Some((7, 7)), Some((7, 8)))
        );
        for name in ["node", "7:node", ":1", "-1", "4294967296"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_certain_is_left_to_the_worker() {
        let link = Kind::Symlink("/elsewhere".into());
        let entries = [
            ("one/x", link),
            ("two/x/y", file()),
            ("three/x", file()),
            ("four/x", Kind::Folder),
        ];
        for sources in [
            ["one", "two"],
            ["three", "four"],
            ["four", "three"],
            ["three", "two"],
        ] {
            assert_eq!(arranged(&entries, &sources, "/d/"), None, "{sources:?}");
        }
        assert!(arranged(&entries, &["one", "three"], "/d/").is_some());
    }
}
