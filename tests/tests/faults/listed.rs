//! The list of points is complete: what is in the code is in the list and the other way round, and all
//! of it is driven.

use std::{collections::BTreeSet, fs, path::Path};

use slipway_fault::inventory;

/// Programs that have points.
const SOURCES: [&str; 3] = ["runtime-svc/src", "netd/src", "registry-svc/src"];

/// Driven by netd's own tests (`netd/tests/host/encrypted.rs`): they need no containers, and some of them another kernel.
const ELSEWHERE: [&str; 2] = ["netd.key", "netd.encrypt"];

#[test]
fn every_point_in_the_code_is_listed_and_every_listed_one_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut steps, mut fallible) = (BTreeSet::new(), BTreeSet::new());
    for source in SOURCES {
        look(&root.join(source), &mut |text| {
            names(text, "slipway_fault::point(\"", &mut steps);
            names(text, "slipway_fault::fallible(\"", &mut fallible);
        });
    }
    let listed = |can_fail| -> BTreeSet<String> {
        let points = inventory::all().filter(|p| p.can_fail == can_fail);
        points.map(|p| p.name.to_owned()).collect()
    };
    assert_eq!(steps, listed(false));
    assert_eq!(fallible, listed(true));
}

fn look(folder: &Path, each: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, each);
        } else if path.extension().is_some_and(|e| e == "rs") {
            each(&fs::read_to_string(path).unwrap());
        }
    }
}

fn names(text: &str, call: &str, into: &mut BTreeSet<String>) {
    for part in text.split(call).skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(into.insert(name.to_owned()), "{name} is there twice");
    }
}

#[test]
fn every_listed_point_is_driven() {
    let driven: BTreeSet<&str> = crate::DRIVEN
        .iter()
        .chain(crate::recovery::DRIVEN)
        .chain(crate::repairs::DRIVEN)
        .chain(crate::durable::DRIVEN)
        .chain(&ELSEWHERE)
        .copied()
        .chain(crate::builds::driven())
        .chain(crate::registry::driven())
        .collect();
    let listed: BTreeSet<&str> = inventory::all().map(crate::operation).collect();
    assert_eq!(driven, listed);
}

/// Looks at what was built for release, where that is there.
#[test]
fn releases_have_no_points() {
    let own = std::env::current_exe().unwrap();
    let release = own.ancestors().nth(3).unwrap().join("release");
    for program in ["runtime-svc", "netd", "registry-svc"] {
        let Ok(bytes) = fs::read(release.join(program)) else {
            slipway_tests::skipped(&format!("{program} was not built for release"));
            continue;
        };
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!has(slipway_fault::VARIABLE.as_bytes()), "{program}");
        assert!(
            !has(b"runtime.create.record")
                && !has(b"netd.attach.recorded")
                && !has(b"registry.tag.written"),
            "{program}"
        );
    }
}
