//! Names: long, odd, and in every format.

use super::Case;
use crate::archive::{Archive, Header};

fn long_name(length: usize) -> String {
    let mut name = String::new();
    while name.len() < length {
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(&"n".repeat(200.min(length - name.len())));
    }
    name
}

/// Each with names of one kind.
pub fn archives() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, bytes| cases.push(Case { name, bytes });
    // Names.
    add(
        "./ in front",
        Archive::default()
            .folder("./")
            .folder("./a/")
            .file("./a/f", "x")
            .end(),
    );
    add(
        "double and trailing slashes",
        Archive::default()
            .folder("a//b//")
            .file("a//b//f", "x")
            .end(),
    );
    add(
        "dots inside",
        Archive::default()
            .folder("a")
            .file("a/./f", "x")
            .file("./a/././g", "y")
            .end(),
    );
    add(
        "not UTF-8",
        Archive::default()
            .with(Header::raw(b"caf\xe9\xff", b'0'), b"x")
            .end(),
    );
    add(
        "odd characters",
        Archive::default()
            .file("new\nline", "x")
            .file("back\\slash", "y")
            .file(" ", "z")
            .end(),
    );
    add(
        "255 bytes a component",
        Archive::default()
            .long(b'L', &"m".repeat(255))
            .file("short", "x")
            .end(),
    );
    add(
        "GNU long name",
        Archive::default()
            .long(b'L', &long_name(700))
            .file("short", "x")
            .end(),
    );
    add(
        "GNU long link",
        Archive::default()
            .long(b'K', &"t".repeat(300))
            .symlink("l", "short")
            .end(),
    );
    add(
        "GNU long hard link",
        Archive::default()
            .long(b'L', &long_name(300))
            .file("short", "x")
            .long(b'K', &long_name(300))
            .hardlink("h", "short")
            .end(),
    );
    add(
        "PAX path",
        Archive::default()
            .pax(&[("path", long_name(1000).as_bytes())])
            .file("short", "x")
            .end(),
    );
    add(
        "PAX linkpath",
        Archive::default()
            .pax(&[("linkpath", "u".repeat(400).as_bytes())])
            .symlink("l", "short")
            .end(),
    );
    add(
        "path of 4000 bytes",
        Archive::default()
            .pax(&[("path", long_name(4000).as_bytes())])
            .file("s", "x")
            .end(),
    );
    let deep = "d/".repeat(500) + "f";
    add(
        "deep",
        Archive::default()
            .pax(&[("path", deep.as_bytes())])
            .file("short", "x")
            .end(),
    );
    add(
        "ustar prefix",
        Archive::default()
            .with(Header::new("name", b'0').set(345, b"some/prefix"), b"x")
            .end(),
    );
    add(
        "no prefix in GNU's header",
        Archive::default()
            .with(Header::new("name", b'0').gnu().set(345, b"12345"), b"x")
            .end(),
    );
    add(
        "name of 100 bytes without a zero",
        Archive::default().file(&"k".repeat(100), "x").end(),
    );
    cases
}
