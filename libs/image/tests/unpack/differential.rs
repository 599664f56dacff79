//! The same archive unpacked by us, by GNU tar and by bsdtar: the same tree, but for the differences that
//! [`INTENDED`] lists, each with its reason.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Stdio},
};

use super::{
    corpus, skipped,
    tree::{self, Node, Tree},
};

/// One of the others.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    Gnu,
    Bsd,
}

/// What is not compared.
enum Except {
    /// The other one cannot read it, or reads something else.
    All,
    /// One field of all nodes.
    Mtime,
    Mode,
}

/// Archive, by whom it is read in another way, what, and why ours is right.
const INTENDED: &[(&str, Other, Except, &str)] = &[
    (
        "dots inside",
        Other::Gnu,
        Except::Mtime,
        "GNU tar forgets the time of a folder that is named in two ways",
    ),
    (
        "PAX before the epoch",
        Other::Bsd,
        Except::Mtime,
        "libarchive adds the fraction of a negative time",
    ),
    (
        "a folder twice",
        Other::Bsd,
        Except::Mode,
        "bsdtar leaves folders that are there as they are; docker does not",
    ),
    (
        "a hard link to itself",
        Other::Bsd,
        Except::All,
        "bsdtar removes the file first, and then has nothing to link to",
    ),
];

fn run(mut command: Command, bytes: &[u8]) -> bool {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It may stop reading at the end mark.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait().unwrap().success()
}

fn by(other: Other, bytes: &[u8], folder: &Path) -> bool {
    let plain = match bytes {
        [0x1f, 0x8b, ..] => "-z",
        [0x28, 0xb5, ..] | [_, 0x2a, 0x4d, 0x18, ..] => "--zstd",
        _ => "",
    };
    let mut command = match other {
        Other::Gnu => Command::new("tar"),
        Other::Bsd => Command::new("bsdtar"),
    };
    command
        .args(["-x", "-p", "--numeric-owner", "-f", "-", "-C"])
        .arg(folder);
    match other {
        // Links are made at once: unpacked for a container, not in a home folder.
        Other::Gnu => command.args([
            "--same-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--absolute-names",
        ]),
        Other::Bsd => command.args(["--xattrs", "--no-acls", "--no-fflags"]),
    };
    if !plain.is_empty() && other == Other::Gnu {
        command.arg(plain);
    }
    command.env("LC_ALL", "C.UTF-8");
    run(command, bytes)
}

/// Unpacks by GNU tar, as for a container.
pub fn by_gnu_tar(bytes: &[u8], folder: &Path) -> bool {
    by(Other::Gnu, bytes, folder)
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok()
}

fn compare(name: &str, bytes: &[u8]) -> Vec<String> {
    let mut wrong = Vec::new();
    let ours = tempfile::tempdir().unwrap();
    fs::set_permissions(ours.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let made = match super::unpack(bytes, ours.path()) {
        Ok(unpacked) => unpacked,
        Err(error) => return vec![format!("{name}: we refuse it: {error}")],
    };
    let mine = tree::read(ours.path());
    for (other, program) in [(Other::Gnu, "tar"), (Other::Bsd, "bsdtar")] {
        if !has(program) {
            skipped(&format!("{program} is not installed"));
            continue;
        }
        let excepted: Vec<_> = INTENDED
            .iter()
            .filter(|(case, by, ..)| *case == name && *by == other)
            .map(|(_, _, what, _)| what)
            .collect();
        if excepted.iter().any(|e| matches!(e, Except::All)) {
            continue;
        }
        let theirs = tempfile::tempdir().unwrap();
        if !by(other, bytes, theirs.path()) {
            wrong.push(format!("{name}: {program} refuses it"));
            continue;
        }
        let mut yours = tree::read(theirs.path());
        let mut mine = mine.clone();
        for tree in [&mut mine, &mut yours] {
            level(tree, &excepted, &made.implicit_folders);
        }
        wrong.extend(differences(&mine, &yours).map(|line| format!("{name}: {program}: {line}")));
    }
    wrong
}

/// Takes out what is not compared.
fn level(tree: &mut Tree, excepted: &[&Except], implicit: &[Vec<u8>]) {
    for path in implicit {
        // Nobody said when, or with what mode.
        if let Some(node) = tree.get_mut(&path.escape_ascii().to_string()) {
            (node.mtime, node.mode) = ((0, 0), 0);
        }
    }
    for node in tree.values_mut() {
        if node.kind == 'd' {
            node.room = 0;
        }
        // Blocks of file systems differ by what is around: sparse or not is the question.
        node.room = u64::from(node.room > 64 && node.room * 1024 > node.size / 2);
        for except in excepted {
            match except {
                Except::All => {}
                Except::Mtime => node.mtime = (0, 0),
                Except::Mode => node.mode = 0,
            }
        }
    }
}

fn differences<'a>(mine: &'a Tree, yours: &'a Tree) -> impl Iterator<Item = String> + 'a {
    let names: std::collections::BTreeSet<_> = mine.keys().chain(yours.keys()).collect();
    let short = |node: Option<&Node>| match node {
        None => "nothing".to_owned(),
        Some(node) => format!("{node:?}").chars().take(400).collect(),
    };
    names.into_iter().filter_map(move |name| {
        let (a, b) = (mine.get(name), yours.get(name));
        let name: String = name.chars().take(80).collect();
        (a != b).then(|| format!("{name}:\n   ours {}\n  other {}", short(a), short(b)))
    })
}

#[test]
fn quirks_are_read_as_gnu_tar_and_bsdtar_read_them() {
    if !super::root() {
        return;
    }
    let wrong: Vec<String> = corpus::archives()
        .iter()
        .flat_map(|case| compare(case.name, &case.bytes))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A tree with something of everything, on disk.
fn model(root: &Path) {
    let file = |name: &str, content: &[u8]| fs::write(root.join(name), content).unwrap();
    fs::create_dir_all(root.join("some/folder/with space")).unwrap();
    file("some/file", b"content");
    file("some/folder/with space/empty", b"");
    file(&format!("some/{}", "x".repeat(90)), b"fits into a header");
    fs::hard_link(root.join("some/file"), root.join("some/second name")).unwrap();
    std::os::unix::fs::symlink("file", root.join("some/link")).unwrap();
    fs::set_permissions(root.join("some/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(root.join("some/folder"), fs::Permissions::from_mode(0o1777)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890);
    for name in ["some/file", "some/folder/with space/empty"] {
        fs::File::options()
            .append(true)
            .open(root.join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
}

/// What only the younger formats can say.
fn rich(root: &Path) {
    let long = format!(
        "{}/{}/{}",
        "a".repeat(200),
        "b".repeat(200),
        "c".repeat(255)
    );
    fs::create_dir_all(root.join(&long).parent().unwrap()).unwrap();
    fs::write(root.join(&long), "long").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), root.join("long link")).unwrap();
    fs::hard_link(root.join(&long), root.join("short name")).unwrap();
    let owned = fs::File::create(root.join("owned")).unwrap();
    rustix::fs::fchown(
        &owned,
        Some(rustix::fs::Uid::from_raw(3_000_000)),
        Some(rustix::fs::Gid::from_raw(3_000_001)),
    )
    .unwrap();
}

fn sparse(root: &Path) {
    let file = fs::File::create(root.join("sparse")).unwrap();
    use std::os::unix::fs::FileExt as _;
    for i in 0..20 {
        file.write_all_at(b"piece", i * 1_000_000).unwrap();
    }
    file.set_len(30_000_000).unwrap();
    fs::File::create(root.join("hole"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
}

fn xattrs(root: &Path) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("some/file"), "user.colour", b"blue\0\n=", flags).unwrap();
    rustix::fs::setxattr(root.join("some/folder"), "user.on", b"folder", flags).unwrap();
}

fn pack(program: &str, args: &[&str], root: &Path) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command
        .args(args)
        .arg("-C")
        .arg(root)
        .arg(".")
        .env("LC_ALL", "C.UTF-8");
    let output = command.stderr(Stdio::inherit()).output().ok()?;
    assert!(output.status.success(), "{program} {args:?}");
    Some(output.stdout)
}

const PYTHON: &str = "
import sys, tarfile, os
form, root = sys.argv[1:]
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=getattr(tarfile, form)) as tar:
    tar.add(root, arcname='.')
";

#[test]
fn what_real_tools_write_comes_back() {
    if !super::root() {
        return;
    }
    let mut wrong = Vec::new();
    let mut check = |name: String, bytes: Option<Vec<u8>>, root: &Path, except: &[&Except]| {
        let Some(bytes) = bytes else {
            skipped(&format!("{name} is not installed"));
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        if let Err(error) = super::unpack(&bytes, folder.path()) {
            wrong.push(format!("{name}: we refuse it: {error}"));
            return;
        }
        let (mut mine, mut model) = (tree::read(folder.path()), tree::read(root));
        for tree in [&mut mine, &mut model] {
            level(tree, except, &[]);
            // Formats without fractions of seconds.
            tree.values_mut().for_each(|node| node.mtime.1 = 0);
        }
        wrong.extend(differences(&mine, &model).map(|line| format!("{name}: {line}")));
    };
    let plain = tempfile::tempdir().unwrap();
    model(plain.path());
    let full = tempfile::tempdir().unwrap();
    model(full.path());
    rich(full.path());
    let holes = tempfile::tempdir().unwrap();
    model(holes.path());
    sparse(holes.path());
    let attributes = tempfile::tempdir().unwrap();
    model(attributes.path());
    xattrs(attributes.path());

    for format in ["v7", "ustar", "oldgnu", "gnu", "posix"] {
        let args = ["--format", format, "--numeric-owner", "-cf", "-"];
        check(
            format!("tar {format}"),
            pack("tar", &args, plain.path()),
            plain.path(),
            &[],
        );
    }
    for format in ["gnu", "posix"] {
        let args = ["--format", format, "-cf", "-"];
        check(
            format!("tar {format}, rich"),
            pack("tar", &args, full.path()),
            full.path(),
            &[],
        );
    }
    for form in [
        "--format=oldgnu",
        "--format=gnu",
        "--sparse-version=0.0",
        "--sparse-version=0.1",
        "--sparse-version=1.0",
    ] {
        let format = if form.starts_with("--sparse") {
            "--format=posix"
        } else {
            form
        };
        let args = [format, form, "--sparse", "-cf", "-"];
        check(
            format!("tar --sparse {form}"),
            pack("tar", &args, holes.path()),
            holes.path(),
            &[],
        );
    }
    let args = ["--xattrs", "--xattrs-include=*", "-cf", "-"];
    check(
        "tar --xattrs".into(),
        pack("tar", &args, attributes.path()),
        attributes.path(),
        &[],
    );
    for format in ["ustar", "gnutar", "pax"] {
        let args = ["--format", format, "-cf", "-"];
        check(
            format!("bsdtar {format}"),
            pack("bsdtar", &args, plain.path()),
            plain.path(),
            &[],
        );
    }
    for format in ["gnutar", "pax"] {
        let args = ["--format", format, "-cf", "-"];
        check(
            format!("bsdtar {format}, rich"),
            pack("bsdtar", &args, full.path()),
            full.path(),
            &[],
        );
    }
    let args = ["--format", "pax", "--read-sparse", "-cf", "-"];
    check(
        "bsdtar, sparse".into(),
        pack("bsdtar", &args, holes.path()),
        holes.path(),
        &[],
    );
    let args = ["--format", "pax", "--xattrs", "-cf", "-"];
    check(
        "bsdtar, attributes".into(),
        pack("bsdtar", &args, attributes.path()),
        attributes.path(),
        &[],
    );
    for (format, root) in [
        ("USTAR_FORMAT", plain.path()),
        ("GNU_FORMAT", full.path()),
        ("PAX_FORMAT", full.path()),
    ] {
        let output = Command::new("python3")
            .args(["-c", PYTHON, format])
            .arg(root)
            .output();
        let bytes = output.ok().map(|output| {
            assert!(output.status.success(), "python {format}");
            output.stdout
        });
        check(format!("python {format}"), bytes, root, &[]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn attributes_that_are_not_an_images_to_set_are_left_out() {
    if !super::root() {
        return;
    }
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.system.posix_acl_access", b"x"),
        ("SCHILY.xattr.user.kept", b"y"),
    ];
    let bytes = super::archive::Archive::default()
        .pax(records)
        .folder("d")
        .end();
    let folder = tempfile::tempdir().unwrap();
    super::unpack(&bytes, folder.path()).unwrap();
    let tree = tree::read(folder.path());
    assert_eq!(tree["d"].xattrs, [("user.kept".to_owned(), b"y".to_vec())]);
    assert_eq!(
        fs::metadata(folder.path().join("d")).unwrap().mode() & 0o777,
        0o755
    );
}
