//! Reading `json-file`'s files back: `logs` shows what they hold, not what the log beside them does.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

use serde::Deserialize;

use super::json;
use crate::{logs::Piece, monitor::log_format::Stream};

/// What the files held when they were opened. They stay readable when they are rotated meanwhile.
pub struct History {
    /// Newest first.
    files: Vec<Part>,
    /// Lines of the oldest file to leave out.
    skip: u64,
}

struct Part {
    reader: Box<dyn BufRead + Send>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    time: jiff::Timestamp,
}

/// How much is read at once while lines are looked for from the end, bytes.
const STEP: u64 = 64 * 1024;

impl History {
    /// Opens all files, or as many as the last `lines` lines need. Nobody may write meanwhile.
    pub fn open(folder: &Path, id: &str, lines: Option<u64>) -> io::Result<Self> {
        let path = json::path(folder, id);
        let mut wanted = lines;
        let mut history = Self {
            files: Vec::new(),
            skip: 0,
        };
        for number in 0.. {
            if wanted == Some(0) {
                break;
            }
            let plain = match number {
                0 => path.clone(),
                number => json::rotated(&path, number, false),
            };
            let packed = json::rotated(&path, number.max(1), true);
            if let Some(mut file) = open(&plain)? {
                // What is written later is not of this history.
                let length = file.metadata()?.len();
                let mut from = 0;
                if let Some(wanted) = &mut wanted {
                    let found;
                    (from, found) = last_lines(&file, length, *wanted)?;
                    *wanted -= found;
                }
                file.seek(SeekFrom::Start(from))?;
                history.push(BufReader::new(file.take(length - from)));
            } else if number > 0
                && let Some(file) = open(&packed)?
            {
                if let Some(wanted) = &mut wanted {
                    let all = count(BufReader::new(flate2::read::GzDecoder::new(&file)))?;
                    history.skip = all.saturating_sub(*wanted);
                    *wanted -= all.min(*wanted);
                    (&file).seek(SeekFrom::Start(0))?;
                }
                history.push(BufReader::new(flate2::read::GzDecoder::new(file)));
            } else if number > 0 {
                break;
            }
        }
        Ok(history)
    }

    fn push(&mut self, reader: impl BufRead + Send + 'static) {
        self.files.push(Part {
            reader: Box::new(reader),
        });
    }

    /// The next line; `None` at the end.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let mut line = Vec::new();
        while let Some(part) = self.files.last_mut() {
            line.clear();
            if part.reader.read_until(b'\n', &mut line)? == 0 {
                self.files.pop();
                continue;
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            // A damaged line is passed over, as docker does.
            let Ok(entry) = serde_json::from_slice::<Entry>(&line) else {
                continue;
            };
            return Ok(Some(Piece {
                time: u64::try_from(entry.time.as_nanosecond()).unwrap_or_default(),
                stream: match &*entry.stream {
                    "stderr" => Stream::Stderr,
                    _ => Stream::Stdout,
                },
                data: entry.log.into_bytes(),
            }));
        }
        Ok(None)
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Where the last so many lines begin, and how many there are.
fn last_lines(file: &File, length: u64, wanted: u64) -> io::Result<(u64, u64)> {
    let (mut end, mut found) = (length, 0);
    let mut buffer = vec![0; STEP as usize];
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let part = &mut buffer[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        for at in memchr::memrchr_iter(b'\n', part) {
            let next = start + at as u64 + 1;
            if next == length {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((next, wanted));
            }
        }
        end = start;
    }
    Ok((0, found + u64::from(length > 0)))
}

fn count(mut reader: impl BufRead) -> io::Result<u64> {
    let mut lines = 0;
    loop {
        let part = reader.fill_buf()?;
        if part.is_empty() {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', part).count() as u64;
        let length = part.len();
        reader.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_across_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = json::path(folder.path(), "x");
        let line = |n: u32| {
            format!(
                "{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"time\":\"2023-11-14T22:13:20Z\"}}\n"
            )
        };
        std::fs::write(&path, line(5) + &line(6)).unwrap();
        std::fs::write(json::rotated(&path, 1, false), line(3) + &line(4)).unwrap();
        let out = File::create(json::rotated(&path, 2, true)).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
        io::Write::write_all(&mut gzip, (line(1) + &line(2)).as_bytes()).unwrap();
        gzip.finish().unwrap();
        for (wanted, text) in [
            (None, "1\n2\n3\n4\n5\n6\n"),
            (Some(0), ""),
            (Some(1), "6\n"),
            (Some(3), "4\n5\n6\n"),
            (Some(5), "2\n3\n4\n5\n6\n"),
            (Some(50), "1\n2\n3\n4\n5\n6\n"),
        ] {
            let mut history = History::open(folder.path(), "x", wanted).unwrap();
            let mut all = Vec::new();
            while let Some(piece) = history.next_piece().unwrap() {
                all.extend(piece.data);
            }
            assert_eq!(String::from_utf8(all).unwrap(), text, "{wanted:?}");
        }
    }
}
