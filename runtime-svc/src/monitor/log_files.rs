//! The files of a log: which there are, what they are called, and the marks in them.
//!
//! A log is one sequence of bytes, cut into segments. A segment is named by the offset of its first
//! byte in that sequence, so a position means the same before and after a rotation: `log` begins at 0,
//! `log.<offset>` there. Beside a segment stands its index, `index.<offset>`: a mark every 64 KiB. A
//! segment that is complete may be replaced by its packed form, `log.<offset>.z`, by runtime-svc.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// Length of a mark, bytes.
pub const MARK: usize = 32;
/// How much output lies between two marks, bytes.
pub const INTERVAL: u64 = 64 * 1024;

/// A segment.
pub fn plain(folder: &Path, base: u64) -> PathBuf {
    match base {
        0 => folder.join("log"),
        base => folder.join(format!("log.{base}")),
    }
}

/// Its packed form.
pub fn packed(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("log.{base}.z"))
}

/// That one while it is made. One that is left is of a runtime-svc that was killed.
pub fn packing(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("log.{base}.z.new"))
}

/// Its index.
pub fn index(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("index.{base}"))
}

/// Where the segments of a log begin, oldest first.
pub fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        bases.extend(name.to_str().and_then(base_of));
    }
    bases.sort_unstable();
    bases.dedup();
    Ok(bases)
}

fn base_of(name: &str) -> Option<u64> {
    if name == "log" {
        return Some(0);
    }
    let rest = name.strip_prefix("log.")?;
    rest.strip_suffix(".z").unwrap_or(rest).parse().ok()
}

/// Removes a segment in all its forms. The plain one first: whoever is packing it notices by that
/// (`logs::pack`).
pub fn remove(folder: &Path, base: u64) {
    for path in [
        plain(folder, base),
        packing(folder, base),
        packed(folder, base),
        index(folder, base),
    ] {
        // Not there is the usual case; what cannot be removed goes with the container.
        let _ = fs::remove_file(path);
    }
}

/// What is known about a segment up to some offset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Of a record, from the segment's beginning.
    pub offset: u64,
    /// Ends of lines before it, in this segment.
    pub lines: u64,
    /// The latest time before it, in the whole log.
    pub latest: u64,
}

impl Mark {
    /// As bytes.
    pub fn encode(&self) -> [u8; MARK] {
        let mut bytes = [0; MARK];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lines.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.latest.to_le_bytes());
        let check = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// From bytes; `None` when they are no mark.
    pub fn decode(bytes: &[u8; MARK]) -> Option<Self> {
        let number = |at: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(part)
        };
        let check = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
        (check == crc32fast::hash(&bytes[..24])).then(|| Self {
            offset: number(0),
            lines: number(8),
            latest: number(16),
        })
    }
}

/// The marks of a plain segment of this length; none when it is short or the index is damaged.
pub fn marks(folder: &Path, base: u64, length: u64) -> io::Result<Vec<Mark>> {
    let mut bytes = Vec::new();
    match File::open(index(folder, base)) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    // After a power loss the index may be ahead of the log, or hold zeros: up to there it is right.
    let (chunks, _) = bytes.as_chunks::<MARK>();
    Ok(chunks
        .iter()
        .map_while(Mark::decode)
        .take_while(|m| m.offset <= length)
        .collect())
}

/// The whole records at the end of a segment: its length, ends of lines and latest time.
pub fn measure(folder: &Path, base: u64, file: &mut File) -> io::Result<(Mark, Vec<Mark>)> {
    use super::log_format::{HEADER, Header};
    let end = file.metadata()?.len();
    let marks = marks(folder, base, end)?;
    let mut now = marks.last().copied().unwrap_or_default();
    let mut reader = io::BufReader::with_capacity(INTERVAL as usize, &*file);
    reader.seek(SeekFrom::Start(now.offset))?;
    let (mut header, mut payload) = ([0; HEADER], Vec::new());
    loop {
        match reader.read_exact(&mut header) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        let Some(header) = Header::decode(&header) else {
            break;
        };
        let next = now.offset + HEADER as u64 + u64::from(header.length);
        if next > end {
            break;
        }
        payload.resize(header.length as usize, 0);
        reader.read_exact(&mut payload)?;
        now = Mark {
            offset: next,
            lines: now.lines + newlines(&payload),
            latest: now.latest.max(header.time),
        };
    }
    Ok((now, marks))
}

/// Ends of lines in a piece of output.
pub fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_where_a_segment_begins() {
        assert_eq!(base_of("log"), Some(0));
        assert_eq!(base_of("log.0.z"), Some(0));
        assert_eq!(base_of("log.1234"), Some(1234));
        assert_eq!(base_of("log.1234.z.new"), None);
        assert_eq!(base_of("index.1234"), None);
    }

    #[test]
    fn a_segment_goes_with_all_that_was_made_of_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["log.9", "log.9.z", "log.9.z.new", "index.9"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove(folder.path(), 9);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_mark_ends_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let mark = |offset| Mark {
            offset,
            lines: 3,
            latest: 9,
        };
        let mut bytes = mark(10).encode().to_vec();
        bytes.extend([0; MARK]);
        bytes.extend(mark(30).encode());
        fs::write(index(folder.path(), 0), &bytes).unwrap();
        assert_eq!(marks(folder.path(), 0, 100).unwrap(), [mark(10)]);
        assert_eq!(marks(folder.path(), 0, 5).unwrap(), []);
    }
}
