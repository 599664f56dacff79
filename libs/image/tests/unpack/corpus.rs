//! Archives with one quirk each.

mod metadata;
mod names;
mod sparse;

use super::archive::{Archive, Header};

/// One archive.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// What is to be unpacked alike by everybody, but for the differences that `differential` lists.
pub fn archives() -> Vec<Case> {
    [
        kinds(),
        names::archives(),
        metadata::archives(),
        sparse::archives(),
        compressed(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn kinds() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, bytes| cases.push(Case { name, bytes });
    let one = || Archive::default().folder("d").file("d/f", "content");

    // The ends of archives.
    add("plain", one().end());
    add("no end mark", one().bytes());
    add("one zero block", one().blocks(&[0; 512]).bytes());
    add("ten zero blocks", one().blocks(&[0; 5120]).bytes());
    add(
        "garbage behind the end",
        [one().end(), vec![0xa5; 700]].concat(),
    );
    add("empty", Archive::default().end());

    // Kinds.
    add(
        "v7",
        Archive::default()
            .with(Header::new("f", 0).v7(), b"x")
            .header(Header::new("d/", 0).v7())
            .end(),
    );
    add(
        "contiguous file",
        Archive::default().with(Header::new("f", b'7'), b"x").end(),
    );
    add(
        "file named as a folder",
        Archive::default()
            .header(Header::new("d/", b'0').mode(0o755))
            .end(),
    );
    add(
        "symbolic links",
        Archive::default()
            .file("f", "x")
            .symlink("l", "f")
            .symlink("dangling", "/nowhere")
            .end(),
    );
    add(
        "hard links",
        Archive::default()
            .file("f", "x")
            .hardlink("g", "f")
            .hardlink("h", "g")
            .end(),
    );
    add(
        "hard link to a symbolic link",
        Archive::default()
            .symlink("l", "nowhere")
            .hardlink("m", "l")
            .end(),
    );
    add(
        "hard link with a size",
        Archive::default()
            .file("f", "x")
            .header(Header::new("g", b'1').link("f").size(1))
            .file("z", "y")
            .end(),
    );
    add("empty file", Archive::default().file("f", "").end());
    let device = |name, kind, major, minor| {
        Header::new(name, kind)
            .octal(329, 8, major)
            .octal(337, 8, minor)
            .mode(0o660)
    };
    add(
        "devices",
        Archive::default()
            .header(device("null", b'3', 1, 3))
            .header(device("loop", b'4', 7, 200))
            .header(device("large", b'3', 511, 70000))
            .header(Header::new("fifo", b'6'))
            .end(),
    );

    // One name twice.
    add(
        "a file twice",
        Archive::default()
            .file("f", "one")
            .file("f", "two, longer")
            .end(),
    );
    add(
        "a file becomes a link",
        Archive::default()
            .file("f", "x")
            .file("t", "y")
            .symlink("f", "t")
            .end(),
    );
    add(
        "a link becomes a file",
        Archive::default()
            .file("t", "y")
            .symlink("f", "t")
            .file("f", "x")
            .end(),
    );
    add(
        "a folder twice",
        Archive::default()
            .folder("d")
            .file("d/f", "x")
            .header(Header::new("d/", b'5').mode(0o700))
            .end(),
    );
    add(
        "an empty folder becomes a file",
        Archive::default().folder("d").file("d", "x").end(),
    );
    add(
        "a file becomes a folder",
        Archive::default()
            .file("d", "x")
            .folder("d")
            .file("d/f", "y")
            .end(),
    );
    add(
        "one of two links twice",
        Archive::default()
            .file("f", "x")
            .hardlink("g", "f")
            .file("f", "new")
            .end(),
    );
    add(
        "a hard link to itself",
        Archive::default().file("f", "x").hardlink("f", "f").end(),
    );
    cases
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A gzip header with everything that RFC 1952 has, before a body.
fn gzip_with_fields(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let builder = flate2::GzBuilder::new()
        .filename("layer.tar")
        .comment("a comment");
    let builder = builder.extra(vec![b'A', b'p', 2, 0, 1, 2]).mtime(7);
    let mut encoder = builder.write(Vec::new(), flate2::Compression::none());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, bytes| cases.push(Case { name, bytes });
    let one = || Archive::default().folder("d").file("d/f", "content");
    // Compression.
    let plain = one().file("more", &"text ".repeat(1000)).end();
    add("gzip", gzip(&plain));
    add(
        "gzip, two members",
        [gzip(&plain[..700]), gzip(&plain[700..])].concat(),
    );
    add(
        "gzip, a member for each block",
        plain.chunks(512).flat_map(gzip).collect(),
    );
    add(
        "gzip, an empty member",
        [gzip(b""), gzip(&plain), gzip(b"")].concat(),
    );
    add("gzip, zeros behind", [gzip(&plain), vec![0; 1024]].concat());
    add("gzip, all fields, stored blocks", gzip_with_fields(&plain));
    add("estargz", estargz(&plain));
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    add("zstd", zstd(&plain));
    add("zstd:chunked", zstd_chunked(&plain));
    add(
        "zstd, two frames",
        [zstd(&plain[..700]), zstd(&plain[700..])].concat(),
    );
    let skippable = [&b"\x5e\x2a\x4d\x18\x04\0\0\0abcd"[..], &zstd(&plain)].concat();
    add(
        "zstd, a frame to skip",
        [&skippable[..], b"\x50\x2a\x4d\x18\0\0\0\0"].concat(),
    );
    cases
}

/// Seekable gzip (containerd/stargz-snapshotter, docs/estargz.md): a member for each chunk, a list of
/// contents as the last file, and an empty member whose extra field says where that begins.
fn estargz(plain: &[u8]) -> Vec<u8> {
    let (files, end) = plain.split_at(plain.len() - 1024);
    let mut bytes: Vec<u8> = files.chunks(1536).flat_map(gzip).collect();
    let list_begins = bytes.len();
    let list = Archive::default().file("stargz.index.json", r#"{"version":1,"entries":[]}"#);
    bytes.extend(gzip(&[&list.bytes(), end].concat()));
    let place = format!("{list_begins:016x}STARGZ");
    let extra = [b"SG\x16\0", place.as_bytes()].concat();
    let footer = flate2::GzBuilder::new().extra(extra);
    let footer = footer.write(Vec::new(), flate2::Compression::none());
    bytes.extend(footer.finish().unwrap());
    bytes
}

/// zstd with a frame for each chunk, the list of contents and where that is in frames that are passed over
/// (containers/storage, pkg/chunked/internal/minimal/compression.go).
fn zstd_chunked(plain: &[u8]) -> Vec<u8> {
    let frame = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let passed_over = |content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [b"\x50\x2a\x4d\x18", &length[..], content].concat()
    };
    let mut bytes: Vec<u8> = plain.chunks(1536).flat_map(frame).collect();
    let list_begins = bytes.len() as u64 + 8;
    let list = frame(br#"{"version":1,"entries":[]}"#);
    bytes.extend(passed_over(&list));
    let numbers = [list_begins, list.len() as u64, 26, 1, 0, 0, 0];
    let mut footer: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    footer.extend(b"GNUlInUx");
    bytes.extend(passed_over(&footer));
    bytes
}
