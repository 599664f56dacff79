//! Any tree that we pack is the tree that we unpack, and the one that GNU tar makes of our archive; and what
//! GNU tar packs we unpack to the same.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Stdio},
};

use proptest::prelude::*;
use slipway_image::layer::pack::{LayerWriter, Options, pack_folder};

use super::{
    root,
    tree::{self, Tree},
    unpack,
};

#[derive(Debug, Clone)]
enum What {
    File(Vec<u8>),
    /// Content, a hole of so many KiB, content.
    Sparse(u16),
    Folder,
    Symlink(String),
    /// To one of those before.
    HardLink(usize),
    Fifo,
    Device(u8, u8),
}

#[derive(Debug, Clone)]
struct Thing {
    path: String,
    what: What,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattr: Option<Vec<u8>>,
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-c]",
        1 => "[ -.0-~]{1,20}".prop_filter("is no name", |n| n != "." && n != ".." && !n.starts_with(".wh.")),
        1 => "[é-ü]{1,5}",
        1 => "n{100,140}",
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    let what = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..1500).prop_map(What::File),
        1 => (1u16..500).prop_map(What::Sparse),
        3 => Just(What::Folder),
        2 => "[a-z./]{1,150}".prop_map(What::Symlink),
        2 => (0usize..20).prop_map(What::HardLink),
        1 => Just(What::Fifo),
        1 => (1u8..9, any::<u8>()).prop_map(|(major, minor)| What::Device(major, minor)),
    ];
    (
        proptest::collection::vec(name(), 1..4).prop_map(|parts| parts.join("/")),
        what,
        0u32..0o10000,
        prop_oneof![Just((0, 0)), (0u32..4_000_000, 0u32..4_000_000)],
        (-1000i64..5_000_000_000, 0u32..1_000_000_000),
        proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 1..50)),
    )
        .prop_map(|(path, what, mode, owner, mtime, xattr)| Thing {
            path,
            what,
            mode,
            owner,
            mtime,
            xattr,
        })
}

/// Makes what can be made: two of a name, or a name below a file, cannot.
fn make(things: &[Thing], folder: &Path) {
    use rustix::fs as sys;
    let mut made: Vec<&Thing> = Vec::new();
    for thing in things {
        let path = folder.join(&thing.path);
        // Never through a link, which may lead anywhere.
        let mut at = folder.to_owned();
        let (inside, _) = thing.path.rsplit_once('/').unwrap_or_default();
        let is_inside = inside.split('/').filter(|p| !p.is_empty()).all(|part| {
            at.push(part);
            // There already is fine, if it is a folder.
            let _ = fs::create_dir(&at);
            fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir())
        });
        if !is_inside || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match &thing.what {
            What::File(content) => fs::write(&path, content).unwrap(),
            What::Sparse(hole) => {
                use std::os::unix::fs::FileExt as _;
                let file = fs::File::create(&path).unwrap();
                file.write_all_at(b"begin", 0).unwrap();
                file.write_all_at(b"end", u64::from(*hole) << 10).unwrap();
            }
            What::Folder => fs::create_dir(&path).unwrap(),
            What::Symlink(target) => symlink(target, &path).unwrap(),
            What::HardLink(of) => {
                if let Some(other) = made.get(*of).filter(|t| !matches!(t.what, What::Folder)) {
                    fs::hard_link(folder.join(&other.path), &path).unwrap();
                }
                continue;
            }
            What::Fifo => {
                let mode = sys::Mode::from_raw_mode(0o600);
                sys::mknodat(sys::CWD, &path, sys::FileType::Fifo, mode, 0).unwrap();
            }
            What::Device(major, minor) => {
                let device = sys::makedev((*major).into(), (*minor).into());
                let kind = sys::FileType::CharacterDevice;
                sys::mknodat(
                    sys::CWD,
                    &path,
                    kind,
                    sys::Mode::from_raw_mode(0o600),
                    device,
                )
                .unwrap();
            }
        }
        made.push(thing);
    }
    // Times of folders last, from the bottom.
    made.sort_by_key(|t| std::cmp::Reverse(t.path.len()));
    for thing in made {
        dress(thing, &folder.join(&thing.path));
    }
}

fn dress(thing: &Thing, path: &Path) {
    use rustix::fs as sys;
    let (uid, gid) = thing.owner;
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
    if !matches!(thing.what, What::Symlink(_)) {
        fs::set_permissions(path, fs::Permissions::from_mode(thing.mode)).unwrap();
    }
    if let (Some(value), What::File(_) | What::Folder) = (&thing.xattr, &thing.what) {
        // tmpfs of old kernels has none.
        let _ = sys::setxattr(path, "user.test", value, sys::XattrFlags::empty());
    }
    let time = sys::Timespec {
        tv_sec: thing.mtime.0,
        tv_nsec: thing.mtime.1.into(),
    };
    let times = sys::Timestamps {
        last_access: time,
        last_modification: time,
    };
    sys::utimensat(sys::CWD, path, &times, sys::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn pack(folder: &Path) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), 1);
    let folder = fs::File::open(folder).unwrap();
    pack_folder(&mut writer, &folder, Options::default()).unwrap();
    writer.finish().unwrap().0
}

fn pack_by_gnu_tar(folder: &Path) -> Vec<u8> {
    let arguments =
        "-c -S --format=posix --xattrs --numeric-owner --warning=no-file-ignored -f - -C";
    let done = Command::new("tar")
        .args(arguments.split(' '))
        .arg(folder)
        .arg(".")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success());
    done.stdout
}

fn unpacked(archive: &[u8]) -> Tree {
    let folder = tempfile::tempdir().unwrap();
    unpack(archive, folder.path()).unwrap();
    comparable(folder.path())
}

fn unpacked_by_gnu_tar(archive: &[u8]) -> Tree {
    let folder = tempfile::tempdir().unwrap();
    assert!(super::differential::by_gnu_tar(archive, folder.path()));
    comparable(folder.path())
}

fn comparable(folder: &Path) -> Tree {
    let mut tree = tree::read(folder);
    for node in tree.values_mut() {
        // How a file system lays things out, and where holes begin.
        node.room = 0;
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_is_what_is_unpacked(things in proptest::collection::vec(thing(), 0..25)) {
        if !root() {
            return Ok(());
        }
        let folder = tempfile::tempdir().unwrap();
        make(&things, folder.path());
        let before = comparable(folder.path());
        let ours = pack(folder.path());
        prop_assert_eq!(&unpacked(&ours), &before, "ours by us");
        prop_assert_eq!(&unpacked_by_gnu_tar(&ours), &before, "ours by GNU tar");
        let theirs = pack_by_gnu_tar(folder.path());
        // It does not look for other names of devices and pipes.
        let apart = |mut tree: Tree| {
            let others = tree.values_mut().filter(|n| matches!(n.kind, 'c' | 'p'));
            others.for_each(|node| node.same_as = None);
            tree
        };
        prop_assert_eq!(apart(unpacked(&theirs)), apart(before), "GNU tar's by us");
    }
}
