//! Owners, modes, times, attributes, and the numbers that they are written with.

use super::Case;
use crate::archive::{Archive, Header, record};

/// Each with one of them.
pub fn archives() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, bytes| cases.push(Case { name, bytes });
    // Modes and owners.
    let owned = |header: Header, uid, gid| header.octal(108, 8, uid).octal(116, 8, gid);
    add(
        "setuid and owner",
        Archive::default()
            .with(owned(Header::new("su", b'0').mode(0o4755), 5, 7), b"x")
            .with(owned(Header::new("sg", b'0').mode(0o2711), 0, 7), b"x")
            .with(Header::new("root", b'0').mode(0o6755), b"x")
            .with(Header::new("odd", b'0').mode(0o1246), b"x")
            .end(),
    );
    add(
        "all modes",
        (0..512)
            .fold(Archive::default(), |a, mode| {
                a.with(Header::new(&format!("f{mode:o}"), b'0').mode(mode), b"x")
            })
            .end(),
    );
    add(
        "folders that nobody may enter",
        Archive::default()
            .header(Header::new("closed/", b'5').mode(0))
            .file("closed/f", "x")
            .header(Header::new("sticky/", b'5').mode(0o1777))
            .file("sticky/f", "y")
            .end(),
    );
    add(
        "setgid folder",
        Archive::default()
            .header(owned(Header::new("g/", b'5').mode(0o2755), 0, 9))
            .file("g/f", "x")
            .folder("g/d")
            .end(),
    );
    add(
        "mode with the kind in it",
        Archive::default()
            .with(Header::new("f", b'0').mode(0o100_644), b"x")
            .end(),
    );
    add(
        "large owners",
        Archive::default()
            .with(
                Header::new("b", b'0')
                    .binary(108, 8, 3_000_000_000)
                    .binary(116, 8, 2_097_153),
                b"x",
            )
            .pax(&[("uid", b"4000000000"), ("gid", b"2097152")])
            .file("p", "y")
            .end(),
    );

    // Times.
    add(
        "fractions of a second",
        Archive::default()
            .pax(&[("mtime", b"1234567890.987654321")])
            .file("f", "x")
            .end(),
    );
    add(
        "before the epoch",
        Archive::default()
            .with(Header::new("f", b'0').gnu().binary(136, 12, -86_400), b"x")
            .end(),
    );
    add(
        "PAX before the epoch",
        Archive::default()
            .pax(&[("mtime", b"-1.5")])
            .file("f", "x")
            .end(),
    );
    add(
        "times of folders",
        Archive::default()
            .header(Header::new("a/", b'5').octal(136, 12, 111))
            .header(Header::new("a/b/", b'5').octal(136, 12, 222))
            .file("a/b/f", "x")
            .file("a/g", "y")
            .end(),
    );

    // Numbers.
    add(
        "numbers with spaces",
        Archive::default()
            .with(
                Header::new("f", b'0')
                    .set(100, b"  644 \0\0")
                    .set(108, b"     0 \0"),
                b"x",
            )
            .end(),
    );
    add(
        "size in base 256",
        Archive::default()
            .header(Header::new("f", b'0').gnu().binary(124, 12, 3))
            .blocks(b"abc")
            .end(),
    );
    add(
        "PAX size",
        Archive::default()
            .pax(&[("size", b"3")])
            .header(Header::new("f", b'0'))
            .blocks(b"abc")
            .end(),
    );
    let mut signed = Archive::default()
        .with(Header::raw(b"\xe4\xf6\xfc", b'0'), b"x")
        .end();
    let sum: i64 = signed[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| {
            if (148..156).contains(&i) {
                32
            } else {
                i64::from(*b as i8)
            }
        })
        .sum();
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    add("checksum of signed bytes", signed);

    // Headers that say nothing about files.
    add(
        "global header",
        Archive::default()
            .with(
                Header::new("pax_global_header", b'g'),
                &record("comment", b"0123456789"),
            )
            .file("f", "x")
            .end(),
    );
    add(
        "unknown records",
        Archive::default()
            .pax(&[("SLIPWAY.nothing", b"x"), ("atime", b"1"), ("ctime", b"1")])
            .file("f", "x")
            .end(),
    );
    add(
        "several extended headers",
        Archive::default()
            .pax(&[("mtime", b"5")])
            .long(b'L', "long")
            .file("f", "x")
            .end(),
    );
    add(
        "volume label",
        Archive::default()
            .header(Header::new("tape", b'V').gnu())
            .file("f", "x")
            .end(),
    );

    // Attributes.
    add(
        "attributes",
        Archive::default()
            .pax(&[
                ("SCHILY.xattr.user.test", b"va\0lue"),
                ("SCHILY.xattr.user.empty", b""),
            ])
            .file("f", "x")
            .pax(&[("SCHILY.xattr.user.on", b"folder")])
            .folder("d")
            .end(),
    );
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    add(
        "capabilities",
        Archive::default()
            .pax(&[("SCHILY.xattr.security.capability", &capability)])
            .with(owned(Header::new("ping", b'0').mode(0o755), 1, 1), b"x")
            .end(),
    );
    cases
}
