//! From the log to the driver: lines of a container for `json-file` and `journald`.
//!
//! A sink reads the container's log and remembers how far it came (`sink.json`), so that every line
//! arrives once, also when runtime-svc is killed between two of them: for `json-file` exactly once,
//! since its file is cut back to where the record says; for `journald` the lines of the last moment may
//! come twice. While it is behind, the monitor keeps what it has not read.

pub mod journal;
pub mod json;
pub mod json_read;
mod lines;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

pub use lines::{Line, Lines};

use super::{
    Piece,
    config::{Driver, Logging},
    hold::{Hold, Holds},
    reader::LogReader,
};
use crate::container::record::Record;

/// How far a sink came, in its file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// The record that comes next.
    position: u64,
    /// How many of its lines were handed on already.
    emitted: u64,
    /// What has no end of line yet, as it was before that record.
    lines: Lines,
    /// Length of the file then (`json-file`).
    length: u64,
}

/// Where lines go.
trait Target: Send {
    /// Takes one. An error = it did not; it is offered again.
    fn take(&mut self, line: &Line) -> io::Result<Taken>;
    /// Everything taken is to be where it belongs; the length of the file.
    fn settle(&mut self) -> io::Result<u64>;
    /// Called when the progress up to now is recorded.
    fn recorded(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a target did with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Took it.
    Done,
    /// Wants the progress to be recorded first, then to be asked again.
    RecordFirst,
}

/// A container's sink, if its driver has one.
#[derive(Default)]
pub struct Sink(Mutex<State>);

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// What was not handed on is kept, also while that fails.
    hold: Option<Hold>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

struct Open {
    file: PathBuf,
    progress: Progress,
    target: Box<dyn Target>,
    reader: LogReader,
}

/// Where the lines that were handed on end.
pub struct Drained {
    /// In the log.
    pub position: u64,
    /// Beginnings of lines before that which were not handed on yet.
    pub begun: Vec<Piece>,
}

/// Whether a driver has a sink.
pub const fn has(driver: Driver) -> bool {
    matches!(driver, Driver::JsonFile | Driver::Journald)
}

impl Sink {
    /// From now on the monitor keeps what is not handed on.
    pub fn begin(&self, holds: &Holds) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // How far it came is known when it is opened.
        state.hold.get_or_insert_with(|| holds.take(0));
    }

    /// Hands on all that is in the log. With `last` also a line that has no end: none will come. Blocks.
    pub fn drain(
        &self,
        record: &Record,
        folder: &Path,
        logging: &Logging,
        last: bool,
    ) -> io::Result<Drained> {
        self.drain_and(record, folder, logging, last, Ok)
    }

    /// The same, and something before any further line is handed on.
    pub fn drain_and<T>(
        &self,
        record: &Record,
        folder: &Path,
        logging: &Logging,
        last: bool,
        then: impl FnOnce(Drained) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { open, hold } = &mut *state;
        let sink = match open {
            Some(sink) => sink,
            none => none.insert(Open::new(record, folder, logging)?),
        };
        let drained = sink.drain(last, hold.as_ref()).map(|()| Drained {
            position: sink.reader.position(),
            begun: sink.progress.lines.begun(),
        });
        if drained.is_err() {
            // What it remembers may be ahead of what is recorded: begun again from there.
            state.open = None;
        }
        then(drained?)
    }

    /// Ends it: its files are closed.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

impl Open {
    fn new(record: &Record, folder: &Path, logging: &Logging) -> io::Result<Self> {
        let file = folder.join("sink.json");
        let progress = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Progress::default(),
            Err(e) => return Err(e),
        };
        let progress: Progress = progress;
        let target: Box<dyn Target> = match logging.driver {
            Driver::Journald => Box::new(journal::Journal::open(record)?),
            _ => Box::new(json::JsonFile::open(
                record,
                folder,
                logging,
                progress.length,
            )?),
        };
        Ok(Self {
            file,
            target,
            reader: LogReader::open(folder.to_owned(), progress.position),
            progress,
        })
    }

    fn drain(&mut self, last: bool, hold: Option<&Hold>) -> io::Result<()> {
        let (mut bytes, mut behind) = (0, false);
        loop {
            let before = self.progress.lines.clone();
            let Some(piece) = self.reader.next_piece()? else {
                break;
            };
            let lost = self.reader.take_lost();
            if lost > 0 {
                tracing::warn!(
                    file = %self.file.display(),
                    lost, "output was rotated away before the log driver took it"
                );
            }
            let length = (piece.data.len() + crate::monitor::log_format::HEADER) as u64;
            bytes += piece.data.len();
            let lines = self.progress.lines.push(&piece);
            let start = self.reader.position() - length;
            let (after, skip) = (self.progress.lines.clone(), self.progress.emitted as usize);
            for (number, line) in lines.iter().enumerate().skip(skip) {
                while self.target.take(line)? == Taken::RecordFirst {
                    self.progress = Progress {
                        position: start,
                        emitted: number as u64,
                        lines: before.clone(),
                        length: self.target.settle()?,
                    };
                    self.begin_anew()?;
                }
            }
            self.progress.position = self.reader.position();
            self.progress.emitted = 0;
            self.progress.lines = after;
            behind = true;
            if bytes > 1 << 20 {
                bytes = 0;
                self.checkpoint(hold)?;
            }
        }
        if last {
            let mut lines = self.progress.lines.clone();
            for line in lines.finish() {
                while self.target.take(&line)? == Taken::RecordFirst {
                    self.progress.length = self.target.settle()?;
                    self.begin_anew()?;
                }
                behind = true;
            }
            self.progress.lines = lines;
        }
        if behind {
            self.checkpoint(hold)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, hold: Option<&Hold>) -> io::Result<()> {
        self.progress.length = self.target.settle()?;
        self.record()?;
        if let Some(hold) = hold {
            hold.advance(self.progress.position);
        }
        Ok(())
    }

    /// Records how far it came, lets the target begin another file, and records that: a length of the old
    /// file must never be taken for one of the new.
    fn begin_anew(&mut self) -> io::Result<()> {
        self.record()?;
        self.target.recorded()?;
        self.progress.length = 0;
        self.record()
    }

    fn record(&self) -> io::Result<()> {
        let temporary = self.file.with_extension("json.new");
        fs::write(&temporary, serde_json::to_vec(&self.progress)?)?;
        fs::rename(&temporary, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::reader::tests::{append, writer},
        *,
    };
    use crate::monitor::log_format::Stream;

    /// Rotates before its first line, then fails.
    struct Failing {
        rotated: bool,
    }

    impl Target for Failing {
        fn take(&mut self, _: &Line) -> io::Result<Taken> {
            match self.rotated {
                false => Ok(Taken::RecordFirst),
                true => Err(io::Error::other("killed")),
            }
        }
        fn settle(&mut self) -> io::Result<u64> {
            Ok(700)
        }
        fn recorded(&mut self) -> io::Result<()> {
            self.rotated = true;
            Ok(())
        }
    }

    #[test]
    fn the_length_of_a_rotated_file_is_never_the_next_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 1 << 20, 2);
        append(&mut log, 1, Stream::Stdout, b"line\n");
        let mut open = Open {
            file: folder.path().join("sink.json"),
            progress: Progress::default(),
            target: Box::new(Failing { rotated: false }),
            reader: LogReader::open(folder.path().to_owned(), 0),
        };
        open.drain(false, None).unwrap_err();
        let bytes = fs::read(folder.path().join("sink.json")).unwrap();
        let kept: Progress = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((kept.position, kept.length), (0, 0));
    }
}
