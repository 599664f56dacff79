//! Writing a log: appending, marking, rotating, and the bound on what is kept.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::log_files::{self, INTERVAL, Mark};
use crate::executor::plan::LogLimits;

/// A log that is appended to.
pub struct LogWriter {
    folder: PathBuf,
    limits: LogLimits,
    /// Where the segments begin, oldest first; the last one is open.
    bases: Vec<u64>,
    file: File,
    index: Option<File>,
    /// Of the open segment: its length, lines, the latest time.
    now: Mark,
    /// Where its last mark stands.
    marked: u64,
}

impl LogWriter {
    /// Opens the log in a folder at its end. Half a record, left by a death in the middle of a write, is
    /// cut away.
    pub fn open(folder: &Path, limits: LogLimits) -> io::Result<Self> {
        let mut bases = log_files::list(folder)?;
        if bases.is_empty() {
            bases.push(0);
        }
        let base = bases.last().copied().unwrap_or_default();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(log_files::plain(folder, base))?;
        let (now, marks) = log_files::measure(folder, base, &mut file)?;
        if file.metadata()?.len() != now.offset {
            file.set_len(now.offset)?;
        }
        let index = match marks.is_empty() {
            true => None,
            false => {
                let index = open_index(folder, base)?;
                index.set_len((marks.len() * log_files::MARK) as u64)?;
                Some(index)
            }
        };
        Ok(Self {
            folder: folder.to_owned(),
            limits,
            bases,
            file,
            index,
            now,
            marked: marks.last().map_or(0, |m| m.offset),
        })
    }

    fn base(&self) -> u64 {
        self.bases.last().copied().unwrap_or_default()
    }

    /// Where the next record begins.
    pub fn position(&self) -> u64 {
        self.base() + self.now.offset
    }

    /// How many segments were begun before the open one, ever increasing: its base.
    pub fn segment(&self) -> u64 {
        self.base()
    }

    /// Makes room for a record of this length: begins another segment when it does not fit. `needed` is
    /// the first position that an attached client has not read.
    pub fn make_room(&mut self, length: usize, needed: Option<u64>) -> io::Result<()> {
        if self.now.offset == 0 || self.now.offset + length as u64 <= self.limits.max_size {
            return Ok(());
        }
        let next = self.position();
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(log_files::plain(&self.folder, next))?;
        // What a rotation that failed has left.
        file.set_len(0)?;
        // So that nobody has to count the lines of a complete segment again.
        self.mark()?;
        self.file = file;
        self.index = None;
        self.marked = 0;
        self.bases.push(next);
        self.now = Mark {
            offset: 0,
            lines: 0,
            latest: self.now.latest,
        };
        self.prune(needed);
        Ok(())
    }

    /// Appends bytes of a record as far as they go.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    /// A record was written whole.
    pub fn wrote(&mut self, length: usize, lines: u64, time: u64) {
        self.now = Mark {
            offset: self.now.offset + length as u64,
            lines: self.now.lines + lines,
            latest: self.now.latest.max(time),
        };
        if self.now.offset - self.marked >= INTERVAL {
            // Without a mark it only takes longer to find something; the next one may succeed.
            let _ = self.mark();
        }
    }

    fn mark(&mut self) -> io::Result<()> {
        if self.marked == self.now.offset {
            return Ok(());
        }
        let base = self.base();
        let index = match &mut self.index {
            Some(index) => index,
            none => none.insert(open_index(&self.folder, base)?),
        };
        let length = index.metadata()?.len();
        if let Err(e) = index.write_all(&self.now.encode()) {
            // Half a mark would hide those behind it.
            index.set_len(length)?;
            return Err(e);
        }
        self.marked = self.now.offset;
        Ok(())
    }

    /// Removes the oldest segments above the cap, but none that an attached client has yet to read,
    /// unless it is too far behind.
    pub fn prune(&mut self, needed: Option<u64>) {
        let files = self.limits.max_files.max(1) as usize;
        while self.bases.len() > files {
            let end = self.bases[1];
            let kept_from = self.bases[self.bases.len() - files];
            let held = needed.is_some_and(|position| position < end)
                && kept_from - self.bases[0] <= self.limits.hold;
            if held {
                return;
            }
            log_files::remove(&self.folder, self.bases[0]);
            self.bases.remove(0);
        }
    }
}

fn open_index(folder: &Path, base: u64) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log_files::index(folder, base))
}

#[cfg(test)]
mod tests {
    use super::{
        super::log_format::{HEADER, Header, Stream},
        *,
    };

    const LIMITS: LogLimits = LogLimits {
        max_size: 1000,
        max_files: 2,
        hold: 4000,
    };

    fn append(log: &mut LogWriter, text: &[u8], needed: Option<u64>) {
        let header = Header {
            time: 1,
            length: text.len() as u32,
            stream: Stream::Stdout,
        };
        let record = [&header.encode()[..], text].concat();
        log.make_room(record.len(), needed).unwrap();
        assert_eq!(log.write(&record).unwrap(), record.len());
        log.wrote(record.len(), log_files::newlines(text), 1);
    }

    #[test]
    fn segments_are_bounded_and_positions_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(folder.path(), LIMITS).unwrap();
        for _ in 0..10 {
            append(&mut log, &[b'x'; 384], None);
        }
        // Two records of 400 bytes a segment, two segments.
        assert_eq!(log_files::list(folder.path()).unwrap(), [2400, 3200]);
        assert_eq!(log.position(), 4000);
        drop(log);
        let log = LogWriter::open(folder.path(), LIMITS).unwrap();
        assert_eq!(log.position(), 4000);
    }

    #[test]
    fn what_an_attached_client_needs_stays_within_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(folder.path(), LIMITS).unwrap();
        for _ in 0..10 {
            append(&mut log, &[b'x'; 384], Some(0));
        }
        assert_eq!(log_files::list(folder.path()).unwrap()[0], 0);
        for _ in 0..10 {
            append(&mut log, &[b'x'; 384], Some(0));
        }
        let bases = log_files::list(folder.path()).unwrap();
        // The bound, a segment more for the granularity, and the two that the cap allows.
        assert!(bases[0] > 0 && bases.len() <= 8, "{bases:?}");
        log.prune(None);
        assert_eq!(log_files::list(folder.path()).unwrap().len(), 2);
    }

    #[test]
    fn half_a_record_is_cut_away_and_marks_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let limits = LogLimits {
            max_size: 10 << 20,
            ..LIMITS
        };
        let mut log = LogWriter::open(folder.path(), limits).unwrap();
        let line = [&[b'x'; 4079][..], b"\n"].concat();
        for _ in 0..100 {
            append(&mut log, &line, None);
        }
        let whole = log.position();
        let torn = Header {
            time: 1,
            length: 100,
            stream: Stream::Stdout,
        };
        log.write(&torn.encode()).unwrap();
        log.write(b"torn").unwrap();
        let marks = log_files::marks(folder.path(), 0, whole).unwrap();
        assert_eq!(
            marks.len() as u64,
            100 * (4080 + HEADER as u64) / (16 * 4096)
        );
        drop(log);
        let log = LogWriter::open(folder.path(), limits).unwrap();
        assert_eq!((log.position(), log.now.lines), (whole, 100));
    }
}
