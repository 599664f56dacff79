//! Sparse files, in all forms that GNU tar ever wrote.

use super::Case;
use crate::archive::{Archive, Header};

fn old_sparse(name: &str, real: u64, pieces: &[(u64, u64)]) -> Header {
    let sum = pieces.iter().map(|(_, n)| n).sum();
    let mut header = Header::new(name, b'S').gnu().size(sum).octal(483, 12, real);
    for (i, (offset, length)) in pieces.iter().take(4).enumerate() {
        header = header
            .octal(386 + 24 * i, 12, *offset)
            .octal(398 + 24 * i, 12, *length);
    }
    header.set(482, &[u8::from(pieces.len() > 4)])
}

/// The block behind an old sparse header with more than four pieces.
fn more_pieces(pieces: &[(u64, u64)], more: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (offset, length) in pieces {
        block.extend(format!("{offset:011o}\0{length:011o}\0").bytes());
    }
    block.resize(504, 0);
    block.push(u8::from(more));
    block.resize(512, 0);
    block
}

/// Each with one sparse file.
pub fn archives() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, bytes| cases.push(Case { name, bytes });
    // Sparse files.
    add(
        "old sparse",
        Archive::default()
            .header(old_sparse(
                "s",
                1 << 20,
                &[(0, 512), (1 << 19, 100), (1 << 20, 0)],
            ))
            .blocks(&[&[b'a'; 512][..], &[b'b'; 100]].concat())
            .file("z", "behind")
            .end(),
    );
    add(
        "old sparse, hole at the end",
        Archive::default()
            .header(old_sparse("s", 1 << 20, &[(4096, 3), (1 << 20, 0)]))
            .blocks(b"abc")
            .end(),
    );
    add(
        "old sparse, nothing but a hole",
        Archive::default()
            .header(old_sparse("s", 1 << 20, &[(1 << 20, 0)]))
            .end(),
    );
    let mut pieces: Vec<(u64, u64)> = (0..60).map(|i| (i * 65536, 512)).collect();
    pieces.push((60 * 65536, 0));
    add(
        "old sparse, many pieces",
        Archive::default()
            .header(old_sparse("s", 60 * 65536, &pieces))
            .blocks(&more_pieces(&pieces[4..25], true))
            .blocks(&more_pieces(&pieces[25..46], true))
            .blocks(&more_pieces(&pieces[46..], false))
            .blocks(&[b'p'; 60 * 512])
            .file("z", "behind")
            .end(),
    );
    // Pieces are whole blocks, but for the last: GNU tar reads them as such.
    let content = &[&[b'a'; 512][..], b"def"].concat()[..];
    add(
        "sparse 0.0",
        Archive::default()
            .pax(&[
                ("GNU.sparse.size", b"100000"),
                ("GNU.sparse.numblocks", b"3"),
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"512"),
                ("GNU.sparse.offset", b"50000"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"100000"),
                ("GNU.sparse.numbytes", b"0"),
            ])
            .with(Header::new("s", b'0'), content)
            .end(),
    );
    add(
        "sparse 0.1",
        Archive::default()
            .pax(&[
                ("GNU.sparse.size", b"100000"),
                ("GNU.sparse.numblocks", b"3"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.map", b"0,512,50000,3,100000,0"),
            ])
            .with(Header::new("GNUSparseFile.1/s", b'0'), content)
            .end(),
    );
    let one_zero = |real: &[u8], map: &str, content: &[u8]| {
        let mut body = map.as_bytes().to_vec();
        body.resize(body.len().next_multiple_of(512), 0);
        body.extend(content);
        Archive::default()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", real),
            ])
            .with(Header::new("GNUSparseFile.1/s", b'0'), &body)
            .file("z", "behind")
            .end()
    };
    add(
        "sparse 1.0",
        one_zero(b"100000", "3\n0\n512\n50000\n3\n100000\n0\n", content),
    );
    add(
        "sparse 1.0, nothing but a hole",
        one_zero(b"100000", "1\n100000\n0\n", b""),
    );
    let map: String = (0..300)
        .map(|i| format!("{}\n512\n", i * 8192))
        .collect::<String>()
        + "2500000\n0\n";
    add(
        "sparse 1.0, a map of several blocks",
        one_zero(b"2500000", &format!("301\n{map}"), &[b'm'; 300 * 512]),
    );
    add(
        "larger than 8 GiB",
        one_zero(b"9000000000", "2\n0\n512\n8999999997\n3\n", content),
    );
    cases
}
