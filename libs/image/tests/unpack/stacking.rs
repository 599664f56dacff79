//! Layers that were unpacked by themselves, shown by overlayfs, against a model that applies one after the
//! other (OCI image-spec, layer.md, "Applying Changesets").

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
};

use proptest::prelude::*;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use slipway_image::layer::{Entry, Kind, tar_write::TarWriter};

use super::{root, tree, unpack};

/// What one layer does to one name.
#[derive(Debug, Clone)]
enum Change {
    File(u8),
    Link,
    Folder,
    Gone,
    /// Only names of folders get this one.
    Opaque,
    Hard,
}

/// The model: kind and content by path.
type Model = BTreeMap<String, (char, String)>;

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => any::<u8>().prop_map(Change::File),
        1 => Just(Change::Link),
        3 => Just(Change::Folder),
        3 => Just(Change::Gone),
        2 => Just(Change::Opaque),
        1 => Just(Change::Hard),
    ]
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
}

fn layer() -> impl Strategy<Value = Vec<(String, Change)>> {
    proptest::collection::vec((path(), change()), 0..7)
}

fn entry(path: String, kind: Kind) -> Entry {
    Entry {
        path: path.into_bytes(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (1_000, 0),
        size: 0,
        xattrs: vec![],
    }
}

/// The archive of a layer, and what it does: only what a packer could write. Below a name that is no folder
/// in this layer there is nothing, and no name comes twice.
fn archive(layer: &[(String, Change)]) -> (Vec<u8>, Vec<(String, Change)>) {
    let mut kept: Vec<(String, Change)> = Vec::new();
    for (path, change) in layer {
        let folder = |c: &Change| matches!(c, Change::Folder | Change::Opaque);
        let clash = kept.iter().any(|(other, its)| {
            other == path
                || (path.starts_with(&format!("{other}/")) && !folder(its))
                || (other.starts_with(&format!("{path}/")) && !folder(change))
        });
        if !clash {
            kept.push((path.clone(), change.clone()));
        }
    }
    let mut writer = TarWriter::new(Vec::new());
    let mut files: Vec<String> = Vec::new();
    kept.retain(|(path, change)| {
        let (above, name) = path
            .rsplit_once('/')
            .map_or((String::new(), &path[..]), |(a, n)| (format!("{a}/"), n));
        let (entry, content) = match change {
            Change::File(byte) => {
                files.push(path.clone());
                (entry(path.clone(), Kind::File), vec![*byte; 5])
            }
            Change::Link => (entry(path.clone(), Kind::Symlink(b"a".to_vec())), vec![]),
            Change::Folder => (entry(path.clone(), Kind::Folder), vec![]),
            Change::Gone => (entry(format!("{above}.wh.{name}"), Kind::File), vec![]),
            Change::Opaque => (entry(format!("{path}/.wh..wh..opq"), Kind::File), vec![]),
            Change::Hard => match files.last() {
                Some(first) => (
                    entry(path.clone(), Kind::HardLink(first.clone().into_bytes())),
                    vec![],
                ),
                None => return false,
            },
        };
        let entry = Entry {
            size: content.len() as u64,
            ..entry
        };
        writer.append(&entry, &mut &content[..]).unwrap();
        true
    });
    (writer.finish().unwrap(), kept)
}

fn remove(model: &mut Model, path: &str, itself: bool) {
    let below = format!("{path}/");
    model.retain(|name, _| !(name.starts_with(&below) || (itself && name == path)));
}

/// One layer applied to what is there: what it hides first, then what it has.
fn apply(model: &mut Model, layer: &[(String, Change)]) {
    for (path, change) in layer {
        match change {
            Change::Gone => remove(model, path, true),
            Change::Opaque => remove(model, path, false),
            _ => {}
        }
    }
    let mut last = None;
    for (path, change) in layer {
        let node = match change {
            Change::File(byte) => {
                let content = String::from_utf8_lossy(&[*byte; 5]).into_owned();
                last = Some(content.clone());
                ('f', content)
            }
            Change::Link => ('l', "a".to_owned()),
            Change::Hard => ('f', last.clone().unwrap()),
            Change::Folder | Change::Opaque => ('d', String::new()),
            Change::Gone => {
                // Its folder is there all the same.
                if let Some((above, _)) = path.rsplit_once('/') {
                    put(model, above, ('d', String::new()));
                }
                continue;
            }
        };
        put(model, path, node);
    }
}

fn put(model: &mut Model, path: &str, node: (char, String)) {
    if let Some((above, _)) = path.rsplit_once('/') {
        put(model, above, ('d', String::new()));
    }
    if node.0 != 'd' || model.get(path).is_some_and(|n| n.0 != 'd') {
        remove(model, path, true);
    }
    model.insert(path.to_owned(), node);
}

/// Mounts layers, top first, in a mount namespace of this thread.
fn overlay(layers: &[PathBuf], at: &Path) {
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let lower: Vec<&str> = layers.iter().map(|l| l.to_str().unwrap()).collect();
    let lower = CString::new(lower.join(":")).unwrap();
    rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir", &lower).unwrap();
    rustix::mount::fsconfig_create(fs.as_fd()).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount =
        rustix::mount::fsmount(fs.as_fd(), flags, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", rustix::fs::CWD, at, from).unwrap();
}

fn check(layers: &[Vec<(String, Change)>]) -> Result<(), TestCaseError> {
    let home = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    // overlayfs wants two layers, and there may be nothing else: an empty one is below all.
    let mut folders = vec![home.path().join("empty0"), home.path().join("empty1")];
    for (i, layer) in layers.iter().enumerate() {
        let (bytes, kept) = archive(layer);
        apply(&mut model, &kept);
        let folder = home.path().join(format!("layer{i}"));
        folders.push(folder.clone());
        fs::create_dir(&folder).unwrap();
        unpack(&bytes, &folder).map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
    let at = home.path().join("merged");
    for folder in [&folders[0], &folders[1], &at] {
        fs::create_dir(folder).unwrap();
    }
    folders.reverse();
    overlay(&folders, &at);
    let shown: Model = tree::read(&at)
        .into_iter()
        .map(|(path, node)| {
            let content = match node.kind {
                'f' => fs::read(at.join(&path))
                    .map(|c| String::from_utf8_lossy(&c).into_owned())
                    .unwrap(),
                _ => node.content,
            };
            (path, (node.kind, content))
        })
        .collect();
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
    prop_assert_eq!(shown, model);
    Ok(())
}

#[test]
fn layers_show_what_applying_them_in_order_gives() {
    if !root() {
        return;
    }
    if !alone("stacking::layers_show_what_applying_them_in_order_gives") {
        return;
    }
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(150)
    };
    proptest::test_runner::TestRunner::new(config)
        .run(&proptest::collection::vec(layer(), 1..5), |layers| {
            check(&layers)
        })
        .unwrap();
}

/// Whether this process has mounts of its own; if not, the test is run in one that has.
fn alone(test: &str) -> bool {
    const MARK: &str = "TEST_HAS_OWN_MOUNTS";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1")
        .status()
        .unwrap();
    assert!(status.success(), "see above");
    false
}

#[test]
fn cases_that_layers_get_wrong_easily() {
    if !root() {
        return;
    }
    if !alone("stacking::cases_that_layers_get_wrong_easily") {
        return;
    }
    let name = |p: &str| p.to_owned();
    let folder = |p: &str| (name(p), Change::Folder);
    let file = |p: &str, b| (name(p), Change::File(b));
    let gone = |p: &str| (name(p), Change::Gone);
    for layers in [
        // A folder becomes a file, and a folder again: nothing of the first comes back.
        vec![
            vec![folder("a"), file("a/b", 1)],
            vec![file("a", 2)],
            vec![folder("a")],
        ],
        // A folder is removed and made again in one layer.
        vec![
            vec![file("a/b", 1)],
            vec![gone("a")],
            vec![folder("a"), file("a/c", 2)],
        ],
        // The same within a folder that the layer does not name.
        vec![
            vec![file("a/b/c", 1)],
            vec![gone("a/b")],
            vec![file("a/b/a", 1)],
        ],
        // A folder becomes a link, what was below it is gone for good.
        vec![
            vec![file("b/c", 1)],
            vec![(name("b"), Change::Link)],
            vec![file("b/a", 2)],
        ],
        // Opaque, with something of its own.
        vec![
            vec![file("a/b", 1), file("a/c", 1)],
            vec![(name("a"), Change::Opaque), file("a/c", 2)],
        ],
        // A whiteout of what never was.
        vec![vec![gone("a"), gone("b/c")], vec![gone("a")]],
    ] {
        check(&layers).unwrap();
    }
}
