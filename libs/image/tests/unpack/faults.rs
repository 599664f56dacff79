//! Broken and hostile archives: an error or the wrong digest, never a panic, and nothing outside the folder.

use std::{fs, io::Write as _, path::Path};

use slipway_image::layer::{limits::Limits, unpack::unpack_layer};

use super::{
    archive::{Archive, Header},
    root, tree, unpack,
};

/// Something of everything, small.
fn sample() -> Vec<u8> {
    Archive::default()
        .folder("d")
        .pax(&[("path", b"d/longer"), ("SCHILY.xattr.user.a", b"b")])
        .file("x", "content")
        .hardlink("d/h", "d/longer")
        .symlink("d/l", "../..")
        .long(b'L', "d/by its long name")
        .file("x", "more")
        .file("d/.wh.gone", "")
        .header(
            Header::new("s", b'S')
                .gnu()
                .size(3)
                .octal(386, 12, 5)
                .octal(398, 12, 3)
                .octal(483, 12, 90),
        )
        .blocks(b"abc")
        .end()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Unpacks beside a file that must stay as it is.
fn beside_a_canary(outside: &Path, bytes: &[u8]) -> Option<slipway_image::Digest> {
    let target = outside.join("target");
    fs::create_dir(&target).unwrap();
    let unpacked = unpack(bytes, &target);
    fs::remove_dir_all(&target).unwrap();
    let left = tree::read(outside);
    assert_eq!(left.keys().collect::<Vec<_>>(), ["canary"]);
    assert_eq!((left["canary"].size, left["canary"].mode), (4, 0o600));
    unpacked.ok().map(|u| u.diff_id)
}

fn outside() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    fs::write(&canary, "safe").unwrap();
    fs::set_permissions(&canary, fs::Permissions::from_mode(0o600)).unwrap();
    outside
}

#[test]
fn what_is_cut_off_or_damaged_is_noticed() {
    if !root() {
        return;
    }
    let outside = outside();
    for whole in [
        sample(),
        gzip(&sample()),
        zstd::encode_all(&sample()[..], 3).unwrap(),
    ] {
        let right = beside_a_canary(outside.path(), &whole).unwrap();
        let step = (whole.len() / 300).max(1);
        for end in (0..whole.len()).step_by(step) {
            let got = beside_a_canary(outside.path(), &whole[..end]);
            assert_ne!(got.as_ref(), Some(&right), "cut off at {end}");
        }
        for at in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            // Some bits of compressed streams do not matter to the content; the digest of the blob covers
            // them. Of a plain archive all matter.
            let got = beside_a_canary(outside.path(), &damaged);
            let plain = whole[0] == b'd';
            assert!(!plain || got.as_ref() != Some(&right), "bit of {at}");
        }
    }
}

#[test]
fn links_lead_nowhere_outside() {
    if !root() {
        return;
    }
    let outside = outside();
    let away = outside.path().to_str().unwrap();
    let escapes = [
        Archive::default()
            .symlink("l", "..")
            .file("l/canary", "evil"),
        Archive::default()
            .symlink("l", away)
            .file("l/canary", "evil"),
        Archive::default()
            .symlink("l", "/")
            .file(&format!("l{away}/canary"), "evil"),
        Archive::default()
            .symlink("l", "../canary")
            .file("l", "evil")
            .hardlink("h", "l"),
        Archive::default()
            .symlink("l", "..")
            .hardlink("h", "l/canary"),
        Archive::default()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/f", "x"),
        Archive::default()
            .symlink("l", "/proc/self/root")
            .file("l/tmp/f", "x"),
        Archive::default()
            .symlink("l", "/proc/self/cwd")
            .file("l/f", "x"),
        Archive::default()
            .folder("d")
            .symlink("d/l", "../..")
            .folder("d/l")
            .file("d/l/canary", "x"),
        Archive::default()
            .symlink("l", "..")
            .file("l/.wh.canary", ""),
        Archive::default()
            .symlink("l", "..")
            .file("l/.wh..wh..opq", ""),
        Archive::default()
            .symlink("l", "..")
            .header(Header::new("l/canary", b'5').mode(0o777)),
        Archive::default().file("../canary", "evil"),
        Archive::default().file("a/../../canary", "evil"),
        Archive::default().hardlink("h", "../canary"),
    ];
    for escape in escapes {
        // Refused, or confined: both are fine.
        beside_a_canary(outside.path(), &escape.end());
    }
}

#[test]
fn a_link_of_the_same_layer_is_followed_inside_it() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = Archive::default()
        .folder("usr")
        .folder("usr/bin")
        .symlink("bin", "usr/bin")
        .symlink("sbin", "/usr/bin")
        .file("bin/a", "a")
        .file("sbin/b", "b")
        .file("sbin/new/c", "c")
        .hardlink("bin/d", "sbin/b")
        .file("/etc/absolute", "e")
        .file("x/../up", "f")
        .end();
    let unpacked = unpack(&bytes, folder.path()).unwrap();
    for (path, content) in [
        ("usr/bin/a", "a"),
        ("usr/bin/b", "b"),
        ("usr/bin/new/c", "c"),
        ("usr/bin/d", "b"),
        ("etc/absolute", "e"),
        ("up", "f"),
    ] {
        assert_eq!(
            fs::read_to_string(folder.path().join(path)).unwrap(),
            content,
            "{path}"
        );
    }
    assert_eq!(unpacked.implicit_folders, [&b"etc"[..], b"sbin/new"]);
}

#[test]
fn refusals_say_what_is_wrong() {
    if !root() {
        return;
    }
    for (bytes, sentence) in [
        (
            Archive::default().hardlink("h", "of-another-layer").end(),
            "is a hard link to what the layer does not have",
        ),
        (
            Archive::default().folder("d").hardlink("h", "d").end(),
            "is a hard link to a folder",
        ),
        (
            Archive::default()
                .symlink("l", "nowhere")
                .file("l/f", "")
                .end(),
            "leads to no folder",
        ),
        (
            Archive::default().file("../f", "").end(),
            "leads out with ..",
        ),
        (
            Archive::default()
                .pax(&[("path", &[b'a'; 4097])])
                .file("f", "")
                .end(),
            "longer than 4096 bytes",
        ),
        (
            Archive::default()
                .pax(&[("path", b"a\0b")])
                .file("f", "")
                .end(),
            "holds a zero byte",
        ),
        (
            Archive::default()
                .with(Header::new("x", b'x'), &vec![b'1'; 2 << 20])
                .end(),
            "longer than 1 MiB",
        ),
        (
            Archive::default().header(Header::new("f", b'Q')).end(),
            "type 'Q' is not supported",
        ),
        (
            Archive::default()
                .pax(&[("size", b"-1")])
                .file("f", "")
                .end(),
            "malformed",
        ),
        (Archive::default().pax(&[("path", b"f")]).end(), "cut off"),
        (
            b"\x1f\x8bnothing of the kind".to_vec(),
            "cannot read the archive",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = unpack(&bytes, folder.path()).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error} / {sentence}");
    }
}

#[test]
fn limits_hold() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unpack = |bytes: &[u8], limits| {
        unpack_layer(bytes, fs::File::open(folder.path()).unwrap(), limits)
            .map_err(|e| e.to_string())
    };
    // Two gigabytes of zeros: a megabyte or two of gzip, a few hundred bytes of zstd.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder
        .write_all(
            &Archive::default()
                .header(Header::new("zeros", b'0').size(2 << 30))
                .bytes(),
        )
        .unwrap();
    for _ in 0..2048 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let error = unpack(&bomb, Limits::default()).unwrap_err();
    assert!(error.contains("more than 200 times its size"), "{error}");
    fs::remove_file(folder.path().join("zeros")).unwrap();

    // Folders that are made on the way count.
    let deep = "d/".repeat(2000) + "f";
    let bytes = Archive::default()
        .pax(&[("path", deep.as_bytes())])
        .file("f", "")
        .end();
    let few = Limits {
        entries: 1000,
        ..Limits::default()
    };
    assert!(unpack(&bytes, few).is_ok());
    let two = Archive::default()
        .pax(&[("path", deep.as_bytes())])
        .file("f", "")
        .file("g", "")
        .end();
    fs::remove_dir_all(folder.path().join("d")).unwrap();
    let error = unpack(&two, few).unwrap_err();
    assert!(error.contains("more than 1000 entries"), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_behind_a_good_start_is_an_error_or_nothing(
        garbage in proptest::collection::vec(proptest::num::u8::ANY, 0..2000), cut in 0usize..9,
    ) {
        if rustix::process::geteuid().is_root() {
            let mut bytes = sample();
            bytes.truncate(cut * 512);
            bytes.extend(garbage);
            let outside = outside();
            beside_a_canary(outside.path(), &bytes);
        }
    }
}
