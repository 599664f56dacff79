//! Reading a container's log: from the beginning, from the end, and as it grows.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use crate::monitor::log_format::{self, Header, Stream};

/// One piece of output, exactly as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Where it came from.
    pub stream: Stream,
    /// The bytes.
    pub data: Vec<u8>,
}

/// A log and how far it was read.
pub struct LogReader {
    file: BufReader<File>,
    offset: u64,
}

impl LogReader {
    /// Begins at an offset, which must be that of a record.
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(128 * 1024, File::open(path)?);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, offset })
    }

    /// The next piece; `None` when there is none yet.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let mut data = Vec::new();
        match log_format::read_record(&mut self.file, &mut data)? {
            Some(header) => {
                self.offset += log_format::HEADER as u64 + u64::from(header.length);
                Ok(Some(Piece {
                    time: header.time,
                    stream: header.stream,
                    data,
                }))
            }
            None => {
                // Back to where the next record will be whole.
                self.file.seek(SeekFrom::Start(self.offset))?;
                Ok(None)
            }
        }
    }
}

/// What of a log is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Not before (nanoseconds since the epoch).
    pub since: Option<u64>,
    /// Not after.
    pub until: Option<u64>,
}

impl Selection {
    /// Whether a piece is wanted.
    pub fn takes(&self, piece: &Piece) -> bool {
        let stream = match piece.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream
            && self.since.is_none_or(|since| piece.time >= since)
            && self.until.is_none_or(|until| piece.time <= until)
    }
}

/// Where the last `lines` lines of a log begin: offset of a record, and bytes of it to leave out.
///
/// Lines of each stream that is wanted count together, as docker counts them.
pub fn tail(path: &Path, lines: u64, selection: &Selection) -> io::Result<(u64, usize)> {
    let mut file = BufReader::with_capacity(128 * 1024, File::open(path)?);
    // Records and how many newlines each has: 24 bytes a record, read once forward.
    let mut records: Vec<(u64, Header, u64)> = Vec::new();
    let (mut offset, mut data, mut ends_with_newline) = (0, Vec::new(), true);
    while let Some(header) = log_format::read_record(&mut file, &mut data)? {
        let piece = Piece {
            time: header.time,
            stream: header.stream,
            data: std::mem::take(&mut data),
        };
        if selection.takes(&piece) {
            let newlines = piece.data.iter().filter(|b| **b == b'\n').count() as u64;
            ends_with_newline = piece.data.last() == Some(&b'\n');
            records.push((offset, header, newlines));
        }
        offset += log_format::HEADER as u64 + u64::from(header.length);
    }
    if lines == 0 {
        return Ok((offset, 0));
    }
    // A line that has no end yet counts too.
    let mut wanted = lines + u64::from(ends_with_newline);
    for (at, header, newlines) in records.iter().rev() {
        if *newlines >= wanted {
            let skip = skip_in_record(path, *at, header, *newlines - wanted)?;
            return Ok((*at, skip));
        }
        wanted -= newlines;
    }
    Ok((records.first().map_or(offset, |r| r.0), 0))
}

/// Length of a record's first `newlines + 1` lines.
fn skip_in_record(path: &Path, at: u64, header: &Header, newlines: u64) -> io::Result<usize> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at + log_format::HEADER as u64))?;
    let mut data = vec![0; header.length as usize];
    file.read_exact(&mut data)?;
    let mut ends = data
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'\n')
        .map(|(i, _)| i + 1);
    Ok(ends.nth(newlines as usize).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn log(pieces: &[(&str, Stream)]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for (i, (text, stream)) in pieces.iter().enumerate() {
            let header = Header {
                time: i as u64,
                length: text.len() as u32,
                stream: *stream,
            };
            file.write_all(&header.encode()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        file
    }

    fn tail_text(file: &tempfile::NamedTempFile, lines: u64) -> String {
        let all = Selection {
            stdout: true,
            stderr: true,
            ..Selection::default()
        };
        let (offset, skip) = tail(file.path(), lines, &all).unwrap();
        let mut reader = LogReader::open(file.path(), offset).unwrap();
        let mut text = Vec::new();
        while let Some(piece) = reader.next_piece().unwrap() {
            text.extend(piece.data);
        }
        String::from_utf8(text[skip..].to_vec()).unwrap()
    }

    #[test]
    fn the_last_lines_wherever_the_records_end() {
        let file = log(&[
            ("a\nb\n", Stream::Stdout),
            ("c", Stream::Stderr),
            ("d\ne\n", Stream::Stdout),
        ]);
        for (lines, text) in [
            (0, ""),
            (1, "e\n"),
            (2, "cd\ne\n"),
            (3, "b\ncd\ne\n"),
            (4, "a\nb\ncd\ne\n"),
            (9, "a\nb\ncd\ne\n"),
        ] {
            assert_eq!(tail_text(&file, lines), text, "{lines}");
        }
        assert_eq!(tail_text(&log(&[("x\ny", Stream::Stdout)]), 1), "y");
    }
}
