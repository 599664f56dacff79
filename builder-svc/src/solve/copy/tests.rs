use super::{place::Place, *};
use crate::plan::copy::Origin;

fn manifest(entries: &[(&str, &str, u32, i64)]) -> Arc<Manifest> {
    let mut manifest = Manifest::default();
    for (path, content, mode, mtime) in entries {
        let kind = Kind::File {
            size: content.len() as u64,
            digest: Digest::of(content),
        };
        let entry = Entry {
            kind,
            mode: *mode,
            mtime: *mtime,
            same: 0,
            capability: None,
        };
        manifest.insert(path, entry).unwrap();
    }
    Arc::new(manifest)
}

fn copy(sources: &[&str], destination: &str) -> CopyAction {
    CopyAction {
        origins: sources
            .iter()
            .map(|s| Origin::Path((*s).to_owned()))
            .collect(),
        destination: destination.to_owned(),
        ..CopyAction::default()
    }
}

fn arranged(manifest: &Arc<Manifest>, copy: &CopyAction) -> Result<Arrangement> {
    let mut arrangement = Arrangement::new(copy)?;
    for origin in &copy.origins {
        let Origin::Path(source) = origin else {
            continue;
        };
        arrangement.add(manifest, source, copy)?;
    }
    Ok(arrangement)
}

fn key(manifest: &Arc<Manifest>, copy: &CopyAction) -> String {
    let mut key = KeyBuilder::new("copy");
    arranged(manifest, copy).unwrap().add_to(&mut key);
    key.finish().to_string()
}

fn names(manifest: &Arc<Manifest>, copy: &CopyAction) -> Vec<String> {
    let arrangement = arranged(manifest, copy).unwrap();
    let mut names = Vec::new();
    for part in &arrangement.parts {
        let tell = |path: &str, _: &Entry| {
            names.push(path.to_owned());
            Ok(())
        };
        arrangement.each(part, tell).unwrap();
    }
    names
}

#[test]
fn the_key_is_content_not_time() {
    let first = manifest(&[("app/a", "1", 0o644, 1), ("other", "x", 0o644, 1)]);
    let touched = manifest(&[("app/a", "1", 0o644, 2), ("other", "y", 0o644, 2)]);
    let changed = manifest(&[("app/a", "2", 0o644, 1)]);
    let executable = manifest(&[("app/a", "1", 0o755, 1)]);
    let more = manifest(&[("app/a", "1", 0o644, 1), ("app/b", "", 0o644, 1)]);
    let app = copy(&["./app"], "/app/");
    assert_eq!(key(&first, &app), key(&touched, &app));
    for other in [&changed, &executable, &more] {
        assert_ne!(key(&first, &app), key(other, &app));
    }
    let chmod = CopyAction {
        chmod: Some(Chmod::parse("u+x").unwrap()),
        ..app.clone()
    };
    assert_ne!(key(&first, &app), key(&first, &chmod));
    assert_eq!(key(&more, &app), key(&more, &app));
    let without = CopyAction {
        exclude: vec!["b".to_owned()],
        ..app.clone()
    };
    assert_eq!(key(&more, &without), key(&first, &app));
}

#[test]
fn a_capability_is_part_of_the_key_and_of_the_file() {
    let with = |value: Option<[u8; 20]>| {
        let mut m = Manifest::default();
        let entry = Entry {
            kind: Kind::File {
                size: 0,
                digest: Digest::of(""),
            },
            mode: 0o755,
            mtime: 0,
            same: 0,
            capability: value.and_then(|v| Capability::parse(&v)),
        };
        m.insert("a", entry).unwrap();
        Arc::new(m)
    };
    let (mut one, mut two) = ([0; 20], [0; 20]);
    (one[3], two[3], two[4]) = (2, 2, 1);
    let keys = [None, Some(one), Some(two)].map(|v| key(&with(v), &copy(&["a"], "/")));
    assert!(keys[0] != keys[1] && keys[1] != keys[2]);
    let of = |m: Arc<Manifest>| attributes(m.get("a").unwrap());
    let expected = (b"security.capability".to_vec(), one.to_vec());
    assert_eq!(of(with(Some(one))), [expected]);
    assert!(of(with(None)).is_empty());
}

#[test]
fn names_of_one_file_are_told_within_a_source() {
    let linked = |numbers: [u64; 3]| {
        let mut m = Manifest::default();
        for (path, same) in ["d/a", "d/b", "e/c"].iter().zip(numbers) {
            let kind = Kind::File {
                size: 1,
                digest: Digest::of("1"),
            };
            let entry = Entry {
                kind,
                mode: 0o644,
                mtime: 0,
                same,
                capability: None,
            };
            m.insert(path, entry).unwrap();
        }
        Arc::new(m)
    };
    let (all, some, none) = (linked([7, 7, 7]), linked([7, 8, 7]), linked([0; 3]));
    let whole = copy(&["."], "/x/");
    let parts = copy(&["d/a", "e"], "/x/");
    let has = |m: &Arc<Manifest>, copy: &CopyAction| arranged(m, copy).unwrap().has_hard_links();
    assert!(has(&all, &whole) && has(&some, &whole) && !has(&none, &whole));
    assert!(!has(&all, &parts));
    assert_ne!(key(&all, &whole), key(&none, &whole));
    assert_ne!(key(&all, &whole), key(&some, &whole));
    assert_eq!(key(&all, &parts), key(&none, &parts));
    // The number itself means nothing.
    assert_eq!(key(&all, &whole), key(&linked([9; 3]), &whole));
}

#[test]
fn excluded_files_are_left_out() {
    let m = manifest(&[
        ("src/a.md", "", 0, 0),
        ("src/a.rs", "", 0, 0),
        ("src/in/b.md", "", 0, 0),
        ("src/in/keep.md", "", 0, 0),
        ("top.md", "", 0, 0),
        ("top.rs", "", 0, 0),
    ]);
    let with = |sources: &[&str], exclude: &[&str]| CopyAction {
        exclude: exclude.iter().map(|e| (*e).to_owned()).collect(),
        ..copy(sources, "/d/")
    };
    assert_eq!(
        names(&m, &with(&["src"], &["*.md"])),
        ["", "a.rs", "in", "in/b.md", "in/keep.md"]
    );
    assert_eq!(names(&m, &with(&["src"], &["**/*.md"])), ["", "a.rs", "in"]);
    assert_eq!(
        names(&m, &with(&["src"], &["in", "!in/keep.md"])),
        ["", "a.md", "a.rs", "in", "in/keep.md"]
    );
    assert_eq!(names(&m, &with(&["top.*"], &["*.md"])), ["top.rs"]);
    assert_eq!(names(&m, &with(&["nothing*"], &[])).len(), 0);
}

#[test]
fn parents_are_kept() {
    let m = manifest(&[
        ("a/b/c/one.txt", "", 0, 0),
        ("a/b/d/two.txt", "", 0, 0),
        ("a/x/one.txt", "", 0, 0),
    ]);
    let parents = |sources: &[&str]| CopyAction {
        parents: true,
        ..copy(sources, "/d/")
    };
    assert_eq!(
        names(&m, &parents(&["a/b/c"])),
        ["a", "a/b", "a/b/c", "a/b/c/one.txt"]
    );
    assert_eq!(
        names(&m, &parents(&["./a/./*/*/one.txt"])),
        ["b", "b/c", "b/c/one.txt"]
    );
    assert_eq!(
        names(&m, &parents(&["a/./**/one.txt"])),
        ["b", "b/c", "b/c/one.txt", "x", "x/one.txt"]
    );
    assert!(matches!(
        arranged(&m, &parents(&["a/none"])),
        Err(Error::SourceMissing(_))
    ));
    let pivot = Pivot::of("/x/../y/./z/../*.c");
    assert_eq!(
        (pivot.folder.as_str(), pivot.pattern.as_str()),
        ("/y", "*.c")
    );
}

#[test]
fn what_is_missing_is_refused() {
    let m = manifest(&[("a", "1", 0, 0), ("b", "1", 0, 0)]);
    assert!(matches!(
        arranged(&m, &copy(&["c"], "/x")),
        Err(Error::SourceMissing(_))
    ));
    let all = copy(&["*"], "/x");
    assert_eq!(arranged(&m, &all).unwrap().parts.len(), 2);
}

#[test]
fn names_at_the_destination() {
    let place = |folder: &str, name: Option<&str>| Place {
        folder: folder.to_owned(),
        name: name.map(str::to_owned),
    };
    assert_eq!(place_of_file("/app/", false), place("/app", None));
    assert_eq!(place_of_file("/", false), place("/", None));
    assert_eq!(place_of_file("/app", true), place("/app", None));
    assert_eq!(place_of_file("/app", false), place("/", Some("app")));
    assert_eq!(place_of_file("/a/b", false), place("/a", Some("b")));
}
