//! Layers that are made to use up a host: its memory, its stacks, its time.

use slipway_image::layer::remove::remove_tree;

use super::{
    archive::{Archive, Header},
    root, unpack,
};

/// Each link leads to where the one before ends, so that no name is long and the folders are very deep.
fn deep() -> Archive {
    let down = "a/".repeat(40);
    let mut archive = Archive::default().file(&format!("{down}f"), "");
    for link in 0..35 {
        let above = match link {
            0 => String::new(),
            n => format!("l{}/", n - 1),
        };
        let target = format!("{above}{down}");
        archive = archive
            .symlink(&format!("l{link}"), target.trim_end_matches('/'))
            .file(&format!("l{link}/{down}f"), "");
    }
    archive
}

#[test]
fn what_is_nested_deeper_than_a_stack_can_be_replaced_and_removed() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    std::fs::create_dir(&target).unwrap();
    unpack(&deep().file("a", "in its place").end(), &target).unwrap();
    assert!(target.join("a").is_file());
    unpack(&deep().end(), &target).unwrap_err();
    std::fs::remove_file(target.join("a")).unwrap();
    for link in 0..35 {
        std::fs::remove_file(target.join(format!("l{link}"))).unwrap();
    }
    unpack(&deep().end(), &target).unwrap();
    std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || remove_tree(&target).unwrap())
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_sparse_file_whose_map_is_one_endless_number_is_refused_at_once() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Looked through from its beginning for each block that comes it would take hours.
    let mut map = b"2\n0\n".to_vec();
    map.resize(64 << 20, b'1');
    let bytes = Archive::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", b"1000"),
        ])
        .with(Header::new("x", b'0'), &map)
        .end();
    let error = unpack(&bytes, folder.path()).unwrap_err().to_string();
    assert!(error.contains("map of a sparse file"), "{error}");
}

#[test]
fn an_entry_has_no_endless_attributes() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..5000).map(|n| format!("SCHILY.xattr.x{n}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|n| (&**n, &b""[..])).collect();
    let bytes = Archive::default().pax(&records).file("x", "").end();
    unpack(&bytes, folder.path()).unwrap_err();
}
