//! Hostile and odd layers. Needs root for devices and trusted attributes; says so and passes without.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::*;
use crate::layer::tar_write::TarWriter;

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (1_000, 5),
        size: 0,
        xattrs: vec![],
    }
}

fn tar(entries: &[(Entry, &str)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        let entry = Entry {
            size: content.len() as u64,
            ..entry.clone()
        };
        writer.append(&entry, &mut content.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

fn unpack(bytes: &[u8], folder: &Path) -> Result<Unpacked, UnpackError> {
    let folder = fs::File::open(folder).unwrap();
    unpack_layer(bytes, &folder, Limits::default())
}

#[test]
fn escapes_are_refused_and_touch_nothing() {
    if !root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "safe").unwrap();
    let away = outside.path().to_str().unwrap().as_bytes().to_vec();
    let victim = [&away[..], b"/victim"].concat();
    let file = |path: &str| (entry(path, Kind::File), "evil");
    let cases: Vec<Vec<(Entry, &str)>> = vec![
        vec![file("../evil")],
        vec![file("a/../../evil")],
        vec![file("..")],
        vec![
            (entry("link", Kind::Symlink(away)), ""),
            (entry("link/sub", Kind::Folder), ""),
        ],
        vec![(entry("hard", Kind::HardLink(victim)), "")],
        vec![(entry("hard", Kind::HardLink(b"../victim".to_vec())), "")],
        vec![(entry(".wh...", Kind::File), "")],
        vec![(entry("a/.wh.", Kind::File), "")],
        vec![(entry(".", Kind::Symlink(b"/".to_vec())), "")],
    ];
    for case in cases {
        let target = outside.path().join("target");
        fs::create_dir(&target).unwrap();
        let name = lossy(&case[case.len() - 1].0.path);
        let error = unpack(&tar(&case), &target).unwrap_err();
        assert!(error.to_string().contains(&name), "{name}: {error}");
        fs::remove_dir_all(&target).unwrap();
        let left: Vec<_> = fs::read_dir(outside.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["victim"], "{name}");
        assert_eq!(
            fs::read_to_string(outside.path().join("victim")).unwrap(),
            "safe"
        );
    }
}

#[test]
fn a_link_is_replaced_not_followed() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t");
    fs::create_dir(&target).unwrap();
    let bytes = tar(&[
        (entry("x", Kind::Symlink(b"../outside".to_vec())), ""),
        (entry("x", Kind::File), "inside"),
        (entry("d", Kind::File), "file"),
        (entry("d", Kind::Folder), ""),
        (entry("d/e", Kind::File), "deep"),
        (entry("d", Kind::Symlink(b"x".to_vec())), ""),
    ]);
    unpack(&bytes, &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "inside");
    assert_eq!(fs::read_link(target.join("d")).unwrap(), Path::new("x"));
    assert!(!folder.path().join("outside").exists());
}

#[test]
fn whiteouts_become_overlayfs_own() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = tar(&[
        (entry("etc/.wh.gone", Kind::File), ""),
        (entry("opt/.wh..wh..opq", Kind::File), ""),
        (entry(".wh..wh.plnk", Kind::File), ""),
        (entry("new", Kind::Folder), ""),
        (entry(".wh.new", Kind::File), ""),
    ]);
    let unpacked = unpack(&bytes, folder.path()).unwrap();
    let gone = fs::symlink_metadata(folder.path().join("etc/gone")).unwrap();
    assert_eq!(
        (gone.mode() & libc::S_IFMT, gone.rdev()),
        (libc::S_IFCHR, 0)
    );
    let opaque = |name: &str| {
        let mut value = [0; 4];
        rustix::fs::getxattr(folder.path().join(name), OPAQUE_XATTR, &mut value)
            .is_ok_and(|n| &value[..n] == b"y")
    };
    assert!(opaque("opt") && opaque("new") && !opaque("etc"));
    assert!(!folder.path().join(".wh..wh.plnk").exists());
    assert_eq!(unpacked.implicit_folders, [b"etc", b"opt"]);
}

#[test]
fn metadata_is_kept() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut suid = entry("bin/su", Kind::File);
    suid.mode = 0o4755;
    suid.uid = 5;
    suid.xattrs = vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
    let bytes = tar(&[
        (entry("bin", Kind::Folder), ""),
        (suid, "x"),
        (entry("bin/same", Kind::HardLink(b"bin/su".to_vec())), ""),
    ]);
    let unpacked = unpack(&bytes, folder.path()).unwrap();
    let su = fs::metadata(folder.path().join("bin/su")).unwrap();
    assert_eq!(
        (
            su.mode() & 0o7777,
            su.uid(),
            su.mtime(),
            su.mtime_nsec(),
            su.nlink()
        ),
        (0o4755, 5, 1000, 5, 2)
    );
    let bin = fs::metadata(folder.path().join("bin")).unwrap();
    assert_eq!((bin.mtime(), bin.mtime_nsec()), (1000, 5));
    assert_eq!(unpacked.diff_id, Digest::of(&bytes));
    assert_eq!((unpacked.entries, unpacked.size), (3, 1));
}

#[test]
fn limits_hold() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = tar(&[
        (entry("a", Kind::File), "12345"),
        (entry("b", Kind::File), "12345"),
    ]);
    let run =
        |limits: Limits| unpack_layer(&bytes[..], fs::File::open(folder.path()).unwrap(), limits);
    assert!(matches!(
        run(Limits {
            entries: 1,
            ..Limits::default()
        }),
        Err(UnpackError::TooLarge {
            what: "entries",
            ..
        })
    ));
    fs::remove_file(folder.path().join("a")).unwrap();
    assert!(matches!(
        run(Limits {
            bytes: 7,
            ..Limits::default()
        }),
        Err(UnpackError::TooLarge { what: "bytes", .. })
    ));
}

#[test]
fn what_has_to_come_plain_is_not_inflated() {
    if !root() {
        return;
    }
    let plain = tar(&[(entry("a", Kind::File), "12345")]);
    let mut gzip = crate::layer::gzip::GzipWriter::new(Vec::new(), 1);
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    for (bytes, is_taken) in [(plain, true), (gzip.finish().unwrap(), false)] {
        let folder = tempfile::tempdir().unwrap();
        let at = fs::File::open(folder.path()).unwrap();
        let unpacked = unpack_plain_layer(&bytes[..], at, Limits::default());
        assert_eq!(unpacked.is_ok(), is_taken, "{unpacked:?}");
        assert_eq!(folder.path().join("a").exists(), is_taken);
    }
}
