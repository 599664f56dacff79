//! Root filesystems as another implementation would unpack them.

use std::{collections::BTreeMap, path::Path};

use crate::Site;

/// Path, and everything about it that a layer says: type, mode, owner, size, time, link target.
pub type Tree = BTreeMap<String, String>;

/// What docker and we lay over an image's own files, or mount.
const OURS: [&str; 7] = [
    "dev",
    "proc",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    ".dockerenv",
];

const FORMAT: &str = "%P\\t%y %m %U:%G %T@ %l\\t%s\\n";

/// The files of an image as a container of ours sees them; the image must have a `find`.
pub fn seen(site: &Site, image: &str) -> Tree {
    let find = [
        "run",
        "--rm",
        "--user",
        "0",
        "--entrypoint",
        "find",
        image,
        "/",
        "-xdev",
        "-printf",
        FORMAT,
    ];
    parse(&site.ctl(&find).ok())
}

/// The files of an image of an OCI layout, as umoci unpacks it.
pub fn unpacked_by_umoci(site: &Site, layout: &Path, tag: &str) -> Tree {
    let bundle = site.path(&format!("umoci-{tag}"));
    let image = format!("{}:{tag}", layout.display());
    let output = site.output(
        "umoci",
        &["unpack", "--image", &image, bundle.to_str().unwrap()],
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let root = bundle.join("rootfs");
    let output = site.output(
        "find",
        &[root.to_str().unwrap(), "-xdev", "-printf", FORMAT],
    );
    let tree = parse(&String::from_utf8_lossy(&output.stdout));
    std::fs::remove_dir_all(bundle).unwrap();
    tree
}

fn parse(text: &str) -> Tree {
    let mut tree = Tree::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(path), Some(about), Some(size)) = (fields.next(), fields.next(), fields.next())
        else {
            panic!("find said {line:?}");
        };
        let ours = OURS.iter().any(|o| {
            path == *o
                || path
                    .strip_prefix(o)
                    .is_some_and(|rest| rest.starts_with('/'))
        });
        if ours {
            continue;
        }
        // The time of the root and of /etc is that of what was laid over them; the size of a folder is the
        // file system's own affair.
        let about = match path {
            "" | "etc" => about.split(' ').take(3).collect::<Vec<_>>().join(" "),
            _ => about.to_owned(),
        };
        let size = if about.starts_with('d') { "" } else { size };
        tree.insert(path.to_owned(), format!("{about} {size}"));
    }
    tree
}

/// Fails with the first differences.
#[track_caller]
pub fn assert_same(ours: &Tree, theirs: &Tree) {
    let mut differences = Vec::new();
    for path in ours
        .keys()
        .chain(theirs.keys().filter(|p| !ours.contains_key(*p)))
    {
        let (a, b) = (ours.get(path), theirs.get(path));
        if a != b {
            differences.push(format!("/{path}\n  ours   {a:?}\n  theirs {b:?}"));
        }
    }
    let shown = differences.iter().take(20).cloned().collect::<Vec<_>>();
    assert!(
        differences.is_empty(),
        "{} paths differ:\n{}",
        differences.len(),
        shown.join("\n")
    );
    assert!(ours.len() > 1000, "only {} paths", ours.len());
}
