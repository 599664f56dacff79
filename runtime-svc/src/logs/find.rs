//! Where in a log to begin: the last so many lines, or a time. By the index, so that little is read.

use std::{fs::File, io, path::Path};

use super::{Piece, pack::Packed, reader::LogReader};
use crate::monitor::{
    log_files::{self, Mark},
    log_format::Stream,
};

/// Where reading begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Of a record.
    pub position: u64,
    /// Bytes of the first piece that are left out.
    pub skip: usize,
    /// The beginning of a line of the other stream, which goes on after `position`.
    pub before: Option<Piece>,
    /// How many bytes of records were looked at.
    pub looked_at: u64,
}

/// Where a log ends.
pub fn end(folder: &Path) -> io::Result<u64> {
    let Some(base) = log_files::list(folder)?.pop() else {
        return Ok(0);
    };
    Ok(segment(folder, base)?.map_or(base, |s| base + s.end.offset))
}

/// What is known of a segment.
struct Known {
    /// Marks up to its end, which is the last one.
    marks: Vec<Mark>,
    end: Mark,
    looked_at: u64,
}

/// `None` = it was removed meanwhile.
fn segment(folder: &Path, base: u64) -> io::Result<Option<Known>> {
    match File::open(log_files::plain(folder, base)) {
        Ok(mut file) => {
            let (end, mut marks) = log_files::measure(folder, base, &mut file)?;
            let looked_at = end.offset - marks.last().map_or(0, |m| m.offset);
            marks.insert(0, Mark::default());
            Ok(Some(Known {
                marks,
                end,
                looked_at,
            }))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let marks = match Packed::open(&log_files::packed(folder, base)) {
                Ok(packed) => packed.marks()?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
            Ok(Some(Known {
                end: marks.last().copied().unwrap_or_default(),
                marks,
                looked_at: 0,
            }))
        }
        Err(e) => Err(e),
    }
}

/// Where the last `lines` lines begin. Lines of both streams count together, as docker counts them; one
/// that has no end yet counts too.
pub fn tail(folder: &Path, lines: u64) -> io::Result<Start> {
    let mut bases = log_files::list(folder)?;
    let (mut looked_at, mut wanted) = (0, None);
    let mut oldest = 0;
    while let Some(base) = bases.pop() {
        let Some(known) = segment(folder, base)? else {
            continue;
        };
        looked_at += known.looked_at;
        oldest = base;
        if wanted.is_none() && lines == 0 {
            return Ok(Start {
                position: base + known.end.offset,
                looked_at,
                ..Start::default()
            });
        }
        let ends = match wanted {
            Some(wanted) => wanted,
            // The end before the first of them is looked for as well.
            None if known.end.offset == 0 => continue,
            None => lines + u64::from(ends_a_line(folder, base, &known, &mut looked_at)?),
        };
        if known.end.lines >= ends {
            let mut start = locate(folder, base, &known, known.end.lines - ends)?;
            start.looked_at += looked_at;
            return Ok(start);
        }
        wanted = Some(ends - known.end.lines);
    }
    Ok(Start {
        position: oldest,
        looked_at,
        ..Start::default()
    })
}

/// Whether the last piece of a segment ends a line.
fn ends_a_line(folder: &Path, base: u64, known: &Known, looked_at: &mut u64) -> io::Result<bool> {
    // The last mark may stand at the very end.
    let before = known
        .marks
        .iter()
        .rev()
        .find(|m| m.offset < known.end.offset)
        .map_or(0, |m| m.offset);
    let mut reader = LogReader::open(folder.to_owned(), base + before);
    let mut ends = true;
    while reader.position() < base + known.end.offset {
        let Some(piece) = reader.next_piece()? else {
            break;
        };
        ends = piece.data.last() == Some(&b'\n');
    }
    *looked_at += reader.bytes_read();
    Ok(ends)
}

/// The position behind the end of line number `line` (from 0) of a segment.
fn locate(folder: &Path, base: u64, known: &Known, line: u64) -> io::Result<Start> {
    let mark = known
        .marks
        .iter()
        .rev()
        .find(|m| m.lines <= line && m.offset < known.end.offset)
        .copied()
        .unwrap_or_default();
    let mut reader = LogReader::open(folder.to_owned(), base + mark.offset);
    let mut left = line - mark.lines;
    // What each stream has said of a line that has no end yet.
    let mut begun: [Option<Piece>; 2] = [None, None];
    loop {
        let position = reader.position();
        let Some(piece) = reader.next_piece()? else {
            return Ok(Start {
                position,
                looked_at: reader.bytes_read(),
                ..Start::default()
            });
        };
        let own = usize::from(piece.stream == Stream::Stderr);
        let ends = log_files::newlines(&piece.data);
        if ends > left {
            let skip = memchr::memchr_iter(b'\n', &piece.data)
                .nth(left as usize)
                .map_or(0, |at| at + 1);
            return Ok(Start {
                position,
                skip,
                before: begun[1 - own].take(),
                looked_at: reader.bytes_read(),
            });
        }
        left -= ends;
        let rest = match memchr::memrchr(b'\n', &piece.data) {
            Some(at) => {
                begun[own] = None;
                &piece.data[at + 1..]
            }
            None => &piece.data[..],
        };
        if !rest.is_empty() {
            match &mut begun[own] {
                Some(line) => line.data.extend_from_slice(rest),
                none => {
                    *none = Some(Piece {
                        time: piece.time,
                        stream: piece.stream,
                        data: rest.to_vec(),
                    });
                }
            }
        }
    }
}

/// Where to begin for what was written at this time or later: a position before which everything is
/// older.
pub fn since(folder: &Path, time: u64) -> io::Result<u64> {
    let bases = log_files::list(folder)?;
    for base in bases.iter().rev() {
        let length = match log_files::plain(folder, *base).metadata() {
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        };
        let mut marks = log_files::marks(folder, *base, length)?;
        if let Ok(packed) = Packed::open(&log_files::packed(folder, *base)) {
            marks = packed.marks()?;
        }
        let older = marks.iter().rev().find(|m| m.offset > 0 && m.latest < time);
        if let Some(mark) = older {
            return Ok(base + mark.offset);
        }
    }
    Ok(bases.first().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            pack::pack_all,
            reader::tests::{append, rest, writer},
        },
        *,
    };

    fn tail_text(folder: &Path, lines: u64) -> String {
        let start = tail(folder, lines).unwrap();
        let mut reader = LogReader::open(folder.to_owned(), start.position);
        let before = start.before.map(|p| p.data).unwrap_or_default();
        String::from_utf8(before).unwrap() + &rest(&mut reader)[start.skip..]
    }

    #[test]
    fn the_last_lines_wherever_the_records_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 20, 1000);
        append(&mut log, 1, Stream::Stdout, b"a\nb\n");
        append(&mut log, 2, Stream::Stderr, b"c\n");
        append(&mut log, 3, Stream::Stdout, b"d\ne\n");
        for packed in [false, true] {
            if packed {
                pack_all(folder.path()).unwrap();
            }
            for (lines, text) in [
                (0, ""),
                (1, "e\n"),
                (2, "d\ne\n"),
                (3, "c\nd\ne\n"),
                (4, "b\nc\nd\ne\n"),
                (9, "a\nb\nc\nd\ne\n"),
            ] {
                assert_eq!(tail_text(folder.path(), lines), text, "{lines} {packed}");
            }
        }
        append(&mut log, 4, Stream::Stdout, b"x");
        assert_eq!(tail_text(folder.path(), 1), "x");
        assert_eq!(tail_text(folder.path(), 2), "e\nx");
    }

    #[test]
    fn a_line_that_another_stream_cut_in_two_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 1 << 20, 2);
        append(&mut log, 1, Stream::Stdout, b"old\nbegin");
        append(&mut log, 2, Stream::Stderr, b"x\n");
        append(&mut log, 3, Stream::Stdout, b"end\n");
        assert_eq!(tail_text(folder.path(), 1), "beginend\n");
    }

    #[test]
    fn a_large_log_is_not_read_for_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 1 << 20, 1000);
        let line = [&[b'x'; 99][..], b"\n"].concat().repeat(40);
        for i in 0..2500 {
            append(&mut log, i, Stream::Stdout, &line);
        }
        let total = log.position();
        assert!(total > 10_000_000);
        for packed in [false, true] {
            if packed {
                pack_all(folder.path()).unwrap();
            }
            let start = tail(folder.path(), 10).unwrap();
            assert!(start.looked_at < 250_000, "{} of {total}", start.looked_at);
            // Far back, in a complete segment: still a few blocks.
            let start = tail(folder.path(), 50_000).unwrap();
            assert!(start.looked_at < 600_000, "{} of {total}", start.looked_at);
            let mut reader = LogReader::open(folder.path().to_owned(), start.position);
            let lines = rest(&mut reader)[start.skip..].lines().count();
            assert_eq!(lines, 50_000);
            let from = since(folder.path(), 2000).unwrap();
            let mut reader = LogReader::open(folder.path().to_owned(), from);
            let first = reader.next_piece().unwrap().unwrap().time;
            assert!((1900..=2000).contains(&first), "{first}");
        }
    }
}
