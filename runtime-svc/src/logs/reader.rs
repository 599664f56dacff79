//! Reading a log from a position on, across rotations, while it grows.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Piece, pack::Packed};
use crate::monitor::{
    log_files,
    log_format::{self, HEADER},
};

/// A log and how far it was read.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    position: u64,
    segment: Option<Segment>,
    kept: Kept,
    lost: u64,
    read: u64,
}

/// Segments that were opened ahead of reading: a container that is removed does not take along what is
/// still to be read of its log.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<BTreeMap<u64, Segment>>>);

impl Kept {
    /// Opens all that there are.
    pub fn open_all(&self, folder: &Path) -> io::Result<()> {
        for base in log_files::list(folder)? {
            if let Some(segment) = Segment::open(folder, base)? {
                self.lock().insert(base, segment);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Segment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open segment. It stays readable when it is packed or removed meanwhile.
#[derive(Debug)]
enum Segment {
    Plain { base: u64, file: BufReader<File> },
    Packed { base: u64, packed: Packed },
}

/// What comes after a segment.
enum After {
    /// Nothing yet.
    Wait,
    /// Another segment, or this one in another form.
    Reopen,
    /// The rest of this one cannot be read: another segment.
    Skip(u64),
}

/// What a reader does then.
enum Next {
    /// Waits.
    Nothing,
    /// Looks for a segment.
    Look,
    /// Takes this.
    Piece(Piece),
}

impl LogReader {
    /// Begins at a position, which must be that of a record.
    pub fn open(folder: PathBuf, position: u64) -> Self {
        Self {
            folder,
            position,
            segment: None,
            kept: Kept::default(),
            lost: 0,
            read: 0,
        }
    }

    /// Reads these where the files are gone.
    pub fn with(self, kept: Kept) -> Self {
        Self { kept, ..self }
    }

    /// Where the next piece begins.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the log that were gone before they were read, since this was last asked.
    pub const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }

    /// How many bytes of records were read in all.
    pub const fn bytes_read(&self) -> u64 {
        self.read
    }

    /// The next piece; `None` when there is none yet.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        loop {
            if self.segment.is_none() {
                if !self.find()? {
                    return Ok(None);
                }
                continue;
            }
            if let Some(piece) = self.read_piece()? {
                return Ok(Some(piece));
            }
            match self.go_on()? {
                Next::Nothing => return Ok(None),
                Next::Piece(piece) => return Ok(Some(piece)),
                Next::Look => {}
            }
        }
    }

    /// Leaves a segment of which nothing more could be read, if another one is to be read now.
    fn go_on(&mut self) -> io::Result<Next> {
        match self.after()? {
            After::Wait => return Ok(Next::Nothing),
            After::Reopen => self.segment = None,
            After::Skip(base) => {
                // What looks damaged was perhaps written after it was read, and another segment begun. Now
                // nothing more comes.
                if let Some(piece) = self.read_piece()? {
                    return Ok(Next::Piece(piece));
                }
                self.lost += base - self.position;
                self.position = base;
                self.segment = None;
            }
        }
        Ok(Next::Look)
    }

    /// The next piece of the open segment.
    fn read_piece(&mut self) -> io::Result<Option<Piece>> {
        let Some(segment) = &mut self.segment else {
            return Ok(None);
        };
        let Some((piece, length)) = segment.next(self.position)? else {
            return Ok(None);
        };
        self.position += length;
        self.read += length;
        Ok(Some(piece))
    }

    /// What follows the open segment, of which nothing more can be read now.
    fn after(&self) -> io::Result<After> {
        let (base, damaged) = match &self.segment {
            None => return Ok(After::Reopen),
            Some(Segment::Packed { base, .. }) => (*base, true),
            Some(Segment::Plain { base, file }) => {
                let metadata = file.get_ref().metadata()?;
                if metadata.nlink() == 0 {
                    // Packed or removed; what was in it is read.
                    return Ok(After::Reopen);
                }
                (*base, metadata.len() > self.position - *base)
            }
        };
        let begins_here = self.kept.lock().contains_key(&self.position)
            || log_files::plain(&self.folder, self.position).exists()
            || log_files::packed(&self.folder, self.position).exists();
        if base != self.position && begins_here {
            return Ok(After::Reopen);
        }
        // A record that is not whole: of the newest segment it may become so, of another it was damaged.
        let next = match damaged {
            false => None,
            true => log_files::list(&self.folder)
                .unwrap_or_default()
                .into_iter()
                .find(|b| *b > self.position),
        };
        Ok(next.map_or(After::Wait, After::Skip))
    }

    /// Opens the segment that the position is in, or the oldest one after it. False = there is none yet.
    fn find(&mut self) -> io::Result<bool> {
        let mut bases = match log_files::list(&self.folder) {
            Ok(bases) => bases,
            // The container was removed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        bases.extend(self.kept.lock().keys());
        bases.sort_unstable();
        bases.dedup();
        // From the one that holds the position, if any, to the newest: each may go while we look.
        let first = bases.partition_point(|b| *b <= self.position);
        for base in bases.into_iter().skip(first.saturating_sub(1)) {
            let there = Segment::open(&self.folder, base)?;
            let Some(mut segment) = there.or_else(|| self.kept.lock().remove(&base)) else {
                continue;
            };
            if base <= self.position {
                segment.seek(self.position - base)?;
            } else {
                self.lost += base - self.position;
                self.position = base;
            }
            self.segment = Some(segment);
            return Ok(true);
        }
        Ok(false)
    }
}

impl Segment {
    fn open(folder: &Path, base: u64) -> io::Result<Option<Self>> {
        // Packing puts the packed one there before it takes the plain one away.
        for _ in 0..2 {
            match File::open(log_files::plain(folder, base)) {
                Ok(file) => {
                    let file = BufReader::with_capacity(128 * 1024, file);
                    return Ok(Some(Self::Plain { base, file }));
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Err(_) => {}
            }
            match Packed::open(&log_files::packed(folder, base)) {
                Ok(packed) => return Ok(Some(Self::Packed { base, packed })),
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn seek(&mut self, offset: u64) -> io::Result<()> {
        match self {
            Self::Plain { file, .. } => file.seek(SeekFrom::Start(offset)).map(drop),
            Self::Packed { packed, .. } => packed.seek(offset),
        }
    }

    /// The piece at this position of the log, and its length with its header.
    fn next(&mut self, position: u64) -> io::Result<Option<(Piece, u64)>> {
        let mut data = Vec::new();
        let header = match self {
            Self::Plain { file, .. } => log_format::read_record(file, &mut data)?,
            Self::Packed { packed, .. } => packed.read_record(&mut data)?,
        };
        let Some(header) = header else {
            // Back to where the next record will be whole.
            if let Self::Plain { base, file } = self {
                file.seek(SeekFrom::Start(position - *base))?;
            }
            return Ok(None);
        };
        let piece = Piece {
            time: header.time,
            stream: header.stream,
            data,
        };
        Ok(Some((piece, HEADER as u64 + u64::from(header.length))))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        executor::plan::LogLimits,
        logs::pack::pack_all,
        monitor::{
            log_format::{Header, Stream},
            log_writer::LogWriter,
        },
    };

    pub fn append(log: &mut LogWriter, time: u64, stream: Stream, text: &[u8]) {
        let header = Header {
            time,
            length: text.len() as u32,
            stream,
        };
        let record = [&header.encode()[..], text].concat();
        log.make_room(record.len(), None).unwrap();
        assert_eq!(log.write(&record).unwrap(), record.len());
        log.wrote(record.len(), log_files::newlines(text), time);
    }

    pub fn writer(folder: &Path, max_size: u64, max_files: u32) -> LogWriter {
        let limits = LogLimits {
            max_size,
            max_files,
            hold: 0,
        };
        LogWriter::open(folder, limits).unwrap()
    }

    pub fn rest(reader: &mut LogReader) -> String {
        let mut text = Vec::new();
        while let Some(piece) = reader.next_piece().unwrap() {
            text.extend(piece.data);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_follower_sees_every_line_once_across_rotation_and_packing() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 200, 1000);
        let mut reader = LogReader::open(folder.path().to_owned(), 0);
        let mut late = LogReader::open(folder.path().to_owned(), 0);
        let (mut seen, mut expected) = (String::new(), String::new());
        for i in 0..300 {
            let line = format!("line {i}\n");
            append(&mut log, i, Stream::Stdout, line.as_bytes());
            expected.push_str(&line);
            if i % 7 == 0 {
                seen.push_str(&rest(&mut reader));
            }
            if i % 50 == 0 {
                pack_all(folder.path()).unwrap();
            }
        }
        seen.push_str(&rest(&mut reader));
        assert_eq!(seen, expected);
        assert_eq!(rest(&mut late), expected);
        assert_eq!((reader.take_lost(), late.take_lost()), (0, 0));
    }

    #[test]
    fn what_came_between_two_looks_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 200, 10);
        append(&mut log, 0, Stream::Stdout, b"first\n");
        let mut reader = LogReader::open(folder.path().to_owned(), 0);
        assert_eq!(rest(&mut reader), "first\n");
        // The reader has looked and found nothing; then this comes, and a rotation.
        assert!(reader.read_piece().unwrap().is_none());
        append(&mut log, 1, Stream::Stdout, &[b'x'; 150]);
        append(&mut log, 2, Stream::Stdout, b"last\n");
        let Next::Piece(piece) = reader.go_on().unwrap() else {
            panic!("it goes on behind what was not read");
        };
        assert_eq!(piece.data.len(), 150);
        assert_eq!(rest(&mut reader), "last\n");
        assert_eq!(reader.take_lost(), 0);
    }

    #[test]
    fn whoever_was_overtaken_is_told_how_much_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 200, 2);
        append(&mut log, 0, Stream::Stdout, b"first\n");
        let mut reader = LogReader::open(folder.path().to_owned(), 0);
        assert_eq!(rest(&mut reader), "first\n");
        for i in 0..100 {
            append(&mut log, i, Stream::Stdout, &[b'x'; 84]);
        }
        let from = reader.position();
        let text = rest(&mut reader);
        let lost = reader.take_lost();
        assert!(lost > 0 && !text.is_empty());
        assert_eq!(reader.position(), log.position());
        let records = (log.position() - from - lost) / 100;
        assert_eq!(text.len() as u64, records * 84);
    }
}
