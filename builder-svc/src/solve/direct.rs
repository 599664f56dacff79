//! Layers straight from files that this service has, without a worker and a root filesystem.
//!
//! Only where the result is provably what the worker would make: nothing is below the layer (`--link`, or the
//! first layer upon scratch), so no link is on the way and no folder is there already; owners are numbers; no
//! archive is unpacked; and no two sources are of one name but of different kinds.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use slipway_image::{
    Descriptor, Digest,
    layer::{self as tar, pack::LayerWriter},
    media_type::OCI_LAYER_GZIP,
};
use slipway_service::chunks::ChunkWriter;
use tokio::sync::mpsc;

use super::{
    Solver,
    copy::{Arrangement, check_destination, folder, place_of_file},
};
use crate::{
    cache::REPOSITORY,
    context::{ContentStore, Entry, Kind, content::Checked},
    error::{Error, Result, Tried as _},
    layer::Layer,
    plan::CopyAction,
    worker::CHUNKS,
};

/// gzip's level: the worker's default.
const LEVEL: u32 = 6;

/// Entries of a layer by their path, a folder before what is in it, as a walk of the folders would find them.
type Tree = BTreeMap<Vec<String>, Item>;

/// An entry of a layer, and where its content is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    header: tar::Entry,
    content: Option<Digest>,
}

impl Solver {
    /// Makes a layer upon nothing; none when that is the worker's to do.
    pub(super) async fn direct(
        &self,
        copy: &CopyAction,
        files: &Arc<Arrangement>,
    ) -> Result<Option<Layer>> {
        let Some(owner) = owner(&copy.chown) else {
            return Ok(None);
        };
        self.fetch_content(files).await?;
        for part in &files.parts {
            if self.is_archive(part).await? {
                return Ok(None);
            }
        }
        if files.parts.iter().any(|p| !p.found.folder) {
            check_destination(copy, files.parts.len(), copy.destination.ends_with('/'))?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or_default());
        let Some(mut tree) = tree(copy, files, owner, now) else {
            return Ok(None);
        };
        // Nothing changes: the worker says so in its own way.
        if tree.is_empty() {
            return Ok(None);
        }
        clamp(&mut tree, self.latest);
        let (send, receive) = mpsc::channel(CHUNKS);
        let store = self.context.store.clone();
        let packing = tokio::task::spawn_blocking(move || pack(&store, &tree, send));
        let stored = self.registry.write_blob(REPOSITORY, receive).await;
        let packed = packing.await.map_err(io::Error::other).and_then(|r| r);
        let (packed, (digest, size)) = match (packed, stored) {
            (Err(packed), Err(stored)) if packed.kind() == io::ErrorKind::BrokenPipe => {
                return Err(stored);
            }
            (packed, stored) => (packed.tried(|| "cannot make a layer".to_owned())?, stored?),
        };
        if digest != packed.digest || size != packed.compressed_size {
            return Err(Error::Invalid(format!(
                "registry-svc stored {digest} where {} was sent",
                packed.digest
            )));
        }
        Ok(Some(Layer {
            descriptor: Descriptor::new(OCI_LAYER_GZIP.to_owned(), digest, size),
            diff_id: packed.diff_id,
            repository: REPOSITORY.to_owned(),
        }))
    }
}

/// Numbers need no look into a root filesystem; a user without a group has the group of its number.
fn owner(spec: &str) -> Option<(u32, u32)> {
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

/// What the worker's snapshot would hold; none where that is not certain.
fn tree(copy: &CopyAction, files: &Arrangement, owner: (u32, u32), now: i64) -> Option<Tree> {
    let mut tree = Tree::new();
    let mut certain = true;
    for part in &files.parts {
        let (target, name) = if part.found.folder {
            (folder(&copy.destination), None)
        } else {
            let place = place_of_file(&copy.destination, copy.destination.ends_with('/'));
            (place.folder, place.name)
        };
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
        certain &= taken.is_ok();
    }
    certain.then_some(tree)
}

fn parts(path: &str) -> Vec<String> {
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

/// False: what is there is of another kind, or may lead elsewhere.
fn put(tree: &mut Tree, path: Vec<String>, item: Item) -> bool {
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
            item.content = Some(digest.clone());
        }
    }
    item
}

/// SOURCE_DATE_EPOCH, as the worker has it.
fn clamp(tree: &mut Tree, latest: Option<i64>) {
    let Some(latest) = latest else { return };
    for item in tree.values_mut() {
        if item.header.mtime.0 >= latest {
            item.header.mtime = (latest, 0);
        }
    }
}

fn pack(
    store: &ContentStore,
    tree: &Tree,
    send: mpsc::Sender<bytes::Bytes>,
) -> io::Result<tar::pack::Packed> {
    let mut layer = LayerWriter::new(ChunkWriter::new(send), LEVEL);
    for (path, item) in tree {
        let mut header = item.header.clone();
        header.path = path.join("/").into_bytes();
        match &item.content {
            None => layer.append(&header, &mut io::empty())?,
            Some(digest) => {
                let mut content = Checked::open(store, digest, header.size)?;
                layer.append(&header, &mut content)?;
                content.finish()?;
            }
        }
    }
    let (mut writer, packed) = layer.finish()?;
    writer.flush()?;
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{context::Manifest, plan::copy::Origin};

    fn arranged(entries: &[(&str, Kind)], sources: &[&str], to: &str) -> Option<Tree> {
        let mut manifest = Manifest::default();
        for (path, kind) in entries {
            let entry = Entry {
                kind: kind.clone(),
                mode: 0o640,
                mtime: 5_000_000_001,
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
        tree(&copy, &files, (1, 2), 9)
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
