//! What earlier builds found in commits: a commit never changes, so its pack is asked for once.
//!
//! A record is content of the store like any other, and counts only while all content that it names is there.
//! That the server still lets somebody in is asked each time (`protocol`).

use std::io::{self, Read as _};

use serde::{Deserialize, Serialize};
use slipway_image::Digest;

use super::{
    super::{
        ContentStore, Entry, Kind, Manifest,
        content::Checked,
        fetch::{self, Fetched},
    },
    GitSource, Id, Tree,
    kept::{Checkout, Keep},
};

/// A tree as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    entries: Vec<(String, Kept)>,
    /// As [`Tree::modules`].
    modules: Vec<(String, String, String)>,
    settings: String,
}

/// An entry of a manifest: mode, time, and what it is.
#[derive(Debug, Serialize, Deserialize)]
enum Kept {
    File(u32, i64, Digest, u64),
    Folder(u32, i64),
    Symlink(u32, i64, String),
}

/// The name of the files of a commit, or of a tag that leads to one.
pub fn files(repository: &str, id: &Id, source: &GitSource) -> String {
    name(repository, id, &format!("/{}", source.subfolder))
}

/// The name of a `.git` with such a commit.
pub fn git_dir(repository: &str, id: &Id, keep: &Keep) -> String {
    name(repository, id, &format!(".git {keep:?}"))
}

/// Records are found like what URLs gave, and no URL begins like that. The number changes with their form.
fn name(repository: &str, id: &Id, of: &str) -> String {
    format!("git commit 1: {id} {repository} {of}")
}

/// The tree that was kept under a name, without what its `.git` takes.
pub fn find(store: &ContentStore, name: &str) -> Option<Tree> {
    let known = fetch::known(store, name)?;
    let (digest, size) = known.place()?;
    let mut text = Vec::new();
    let mut content = Checked::open(store, &digest, size).ok()?;
    content.read_to_end(&mut text).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    record.tree(store)
}

/// Keeps a tree under a name.
pub fn keep(store: &ContentStore, name: &str, tree: &Tree) -> io::Result<()> {
    let record = serde_json::to_vec(&Record::of(tree))?;
    let fetched = Fetched::content(&store.put(&record)?, record.len() as u64);
    fetch::remember(store, name, &fetched)
}

impl Record {
    fn of(tree: &Tree) -> Self {
        let entries = tree.manifest.below("").map(|(path, entry)| {
            let (mode, mtime) = (entry.mode, entry.mtime);
            let kept = match &entry.kind {
                Kind::File { size, digest } => Kept::File(mode, mtime, digest.clone(), *size),
                Kind::Folder => Kept::Folder(mode, mtime),
                Kind::Symlink(target) => Kept::Symlink(mode, mtime, target.clone()),
            };
            (path.to_owned(), kept)
        });
        let modules = tree.modules.iter();
        Self {
            entries: entries.collect(),
            modules: modules
                .map(|(path, inside, id)| (path.clone(), inside.clone(), id.to_string()))
                .collect(),
            settings: tree.settings.clone(),
        }
    }

    /// None where content is not here any more.
    fn tree(self, store: &ContentStore) -> Option<Tree> {
        let mut manifest = Manifest::default();
        for (path, kept) in self.entries {
            let (mode, mtime, kind) = match kept {
                Kept::File(mode, mtime, digest, size) => {
                    if !store.has(&digest, size) {
                        return None;
                    }
                    (mode, mtime, Kind::File { size, digest })
                }
                Kept::Folder(mode, mtime) => (mode, mtime, Kind::Folder),
                Kept::Symlink(mode, mtime, target) => (mode, mtime, Kind::Symlink(target)),
            };
            let entry = Entry {
                kind,
                mode,
                mtime,
                same: 0,
                capability: None,
            };
            manifest.insert(&path, entry).ok()?;
        }
        let modules = self.modules.into_iter();
        Some(Tree {
            manifest,
            modules: modules
                .map(|(path, inside, id)| Some((path, inside, Id::parse(&id)?)))
                .collect::<Option<_>>()?,
            settings: self.settings,
            checkout: Checkout::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_found_while_all_of_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path().join("content")).unwrap();
        let digest = store.put(b"one").unwrap();
        let mut manifest = Manifest::default();
        for (path, kind) in [
            ("d", Kind::Folder),
            ("d-e", Kind::Symlink("d/f".to_owned())),
            (
                "d/f",
                Kind::File {
                    size: 3,
                    digest: digest.clone(),
                },
            ),
        ] {
            let entry = Entry {
                kind,
                mode: 0o755,
                mtime: -7,
                same: 0,
                capability: None,
            };
            manifest.insert(path, entry).unwrap();
        }
        let id = Id([7; 20]);
        let tree = Tree {
            manifest,
            modules: vec![("lib/m".to_owned(), "m".to_owned(), id)],
            settings: "[submodule]".to_owned(),
            checkout: Checkout::default(),
        };
        let folder = |subfolder: &str| GitSource {
            subfolder: subfolder.to_owned(),
            ..GitSource::default()
        };
        let here = "https://h/r.git";
        let of = files(here, &id, &folder(""));
        assert!(find(&store, &of).is_none());
        keep(&store, &of, &tree).unwrap();
        let found = find(&store, &of).unwrap();
        let entries = |tree: &Tree| {
            let all = tree.manifest.below("");
            all.map(|(path, entry)| (path.to_owned(), entry.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(entries(&found), entries(&tree));
        assert_eq!(
            (found.modules, found.settings),
            (tree.modules, tree.settings)
        );
        for other in [
            files("https://h/s.git", &id, &folder("")),
            files(here, &Id([8; 20]), &folder("")),
            files(here, &id, &folder("d")),
            git_dir(here, &id, &Keep::default()),
        ] {
            assert!(find(&store, &other).is_none(), "{other}");
        }
        store.forget(&digest);
        assert!(find(&store, &of).is_none());
    }
}
