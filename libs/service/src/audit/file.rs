//! The file of the log: lines go into it behind the callers' backs, and it never grows beyond what is allowed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::rate::Rate;

/// Files of before that are kept beside the one that is written: `audit.log.1` is the youngest.
const OLDER: u64 = 3;

/// Bytes that wait for a disk that does not take them; what comes then is lost, and counted.
const WAITING: usize = 1 << 20;

/// Refused calls that are told of, in so much time: each is a line of some 300 bytes, and who may do nothing is
/// not to push out of the log what others did.
const REFUSED: (u64, Duration) = (60, Duration::from_secs(60));

/// See the module's page. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Most bytes of one file.
    most: u64,
    refused: Rate,
    queue: Mutex<Queue>,
    /// Locked by whoever writes, one at a time.
    file: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    lost: u64,
    /// Somebody writes, and looks again before he goes.
    writing: bool,
}

#[derive(Debug, Default)]
struct Open {
    file: Option<File>,
    /// It was said that it does not work.
    complained: bool,
}

impl AuditLog {
    /// Into this file, which may have `bytes` together with those of before. Fails when it cannot be written, unless
    /// that is for want of room: the service must run for room to be made. It is tried again with each line then.
    pub fn open(path: PathBuf, bytes: u64) -> io::Result<Self> {
        let opened = append(&path);
        Self::with(path, bytes, opened)
    }

    fn with(path: PathBuf, bytes: u64, opened: io::Result<File>) -> io::Result<Self> {
        let mut open = Open::default();
        match opened {
            Ok(file) => open.file = Some(file),
            Err(error) if is_full(&error) => open.complain(&path, &error),
            Err(error) => return Err(error),
        }
        Ok(Self(Arc::new(Inner {
            path,
            most: bytes / (OLDER + 1),
            refused: Rate::new(REFUSED.0, REFUSED.1),
            queue: Mutex::default(),
            file: Mutex::new(open),
        })))
    }

    /// Adds a line, soon. Never waits.
    pub fn write(&self, line: &str) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() + line.len() > WAITING {
            queue.lost += 1;
        } else {
            queue.lines.extend_from_slice(line.as_bytes());
            queue.lines.push(b'\n');
        }
        if !queue.writing {
            // Where no thread can be made the lines wait for the next one.
            queue.writing = self.spawn(Inner::drain).is_ok();
        }
    }

    /// Waits until all that was added so far is written, but not for longer than `limit`: the disk may be dead.
    pub fn finish(&self, limit: Duration) {
        let (done, ended) = mpsc::channel();
        let drain = move |inner: &Inner| {
            inner.drain();
            // Nobody waits any more.
            let _ = done.send(());
        };
        let in_time = self.spawn(drain).is_ok() && ended.recv_timeout(limit).is_ok();
        if !in_time {
            warn!(path = %self.0.path.display(), "the last lines of the audit log may be lost");
        }
    }

    /// Whether a call that was refused now is to be told of.
    pub(super) fn admits_refused(&self) -> bool {
        self.0.refused.admits(Instant::now())
    }

    /// How many of those were not since this was asked last.
    pub(super) fn left_out(&self) -> u64 {
        self.0.refused.left_out()
    }

    /// A thread of its own: the runtime's for blocking work may all hang, and it panics when it can have no more.
    fn spawn(&self, work: impl FnOnce(&Inner) + Send + 'static) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || work(&inner)).map(drop)
    }
}

impl Open {
    fn complain(&mut self, path: &Path, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            let path = path.display();
            warn!(%path, %error, "the audit log cannot be written: calls go on without it");
        }
    }
}

impl Inner {
    fn drain(&self) {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let mut lines = std::mem::take(&mut queue.lines);
            if lines.is_empty() {
                queue.writing = false;
                return;
            }
            let lost = std::mem::take(&mut queue.lost);
            drop(queue);
            let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            if lost > 0 {
                lines.extend_from_slice(format!("{{\"lost\":{lost}}}\n").as_bytes());
            }
            match self.append(&mut open, lines) {
                Ok(()) => open.complained = false,
                Err(error) => {
                    let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.lost += lost + count;
                    drop(queue);
                    open.complain(&self.path, &error);
                }
            }
        }
    }

    fn append(&self, open: &mut Open, mut lines: Vec<u8>) -> io::Result<()> {
        let length = match &open.file {
            Some(file) => current_length(file, &self.path),
            None => None,
        };
        if length.is_some_and(|length| length > 0 && length + lines.len() as u64 > self.most) {
            self.rotate()?;
            open.file = None;
        } else if length.is_none() {
            // Somebody has taken it away, as logrotate does.
            open.file = None;
        }
        let file = match &mut open.file {
            Some(file) => file,
            none => none.insert(append(&self.path)?),
        };
        if ends_within_a_line(file)? {
            lines.insert(0, b'\n');
        }
        file.write_all(&lines)
    }

    fn rotate(&self) -> io::Result<()> {
        let name = |number: u64| match number {
            0 => self.path.clone(),
            number => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            }
        };
        for number in (0..OLDER).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Its owner's alone.
fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).append(true).mode(0o600);
    options.open(path)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// As a full disk leaves it, or who was killed meanwhile.
fn ends_within_a_line(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [b'\n'];
    file.read_at(&mut byte, last)?;
    Ok(byte != [b'\n'])
}

/// `None` when what is open is not what has the name.
fn current_length(file: &File, path: &Path) -> Option<u64> {
    let (ours, named) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
    ((ours.dev(), ours.ino()) == (named.dev(), named.ino())).then_some(ours.len())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn it_never_takes_more_than_it_may_and_the_youngest_lines_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 4000).unwrap();
        let line = |n: u64| format!("{{\"n\":\"{n:0>90}\"}}");
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        for n in 0..200 {
            log.write(&line(n));
            log.finish(PATIENCE);
            assert!(read("audit.log").contains(&line(n)), "{n}");
        }
        let mut all = fs::read_dir(folder.path()).unwrap();
        assert!(all.all(|file| file.unwrap().metadata().unwrap().len() <= 1000));
        assert!(read("audit.log.3").contains("\"n\""));
        assert!(!folder.path().join("audit.log.4").exists());
        let kept = ["audit.log.3", "audit.log.2", "audit.log.1", "audit.log"].map(read);
        let kept: Vec<_> = kept.iter().flat_map(|text| text.lines()).collect();
        let first = 200 - kept.len() as u64;
        let expected: Vec<_> = (first..200).map(line).collect();
        assert_eq!(kept, expected);
        assert!(kept.len() > 20, "{}", kept.len());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_taken_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 1 << 20).unwrap();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        log.write("{}");
        log.finish(PATIENCE);
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
    }

    #[test]
    fn a_line_is_not_glued_to_half_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 1 << 20).unwrap();
        for half in ["{\"who\":", "{\"w"] {
            // As a disk without room for the other half leaves it.
            let mut file = append(&path).unwrap();
            file.write_all(half.as_bytes()).unwrap();
            log.write("{}");
            log.write("{}");
            log.finish(PATIENCE);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"who\":\n{}\n{}\n{\"w\n{}\n{}\n");
    }

    #[test]
    fn a_full_disk_is_waited_for_and_another_mistake_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("folder/audit.log");
        let open = |error: io::ErrorKind| AuditLog::with(path.clone(), 1 << 20, Err(error.into()));
        assert!(open(io::ErrorKind::PermissionDenied).is_err());
        assert!(AuditLog::open(path.clone(), 1 << 20).is_err());
        let log = open(io::ErrorKind::StorageFull).unwrap();
        // It cannot be made yet.
        log.write("{}");
        log.finish(PATIENCE);
        fs::create_dir(path.parent().unwrap()).unwrap();
        log.write("{}");
        log.finish(PATIENCE);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{}\n{\"lost\":1}\n");
    }

    #[test]
    fn a_dead_disk_keeps_nobody_from_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 1 << 20).unwrap();
        let busy = log.0.file.lock().unwrap();
        log.write("{}");
        log.finish(Duration::from_millis(1));
        drop(busy);
        log.finish(PATIENCE);
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
    }

    #[test]
    fn what_is_lost_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 16 << 20).unwrap();
        let long = "x".repeat(WAITING / 4);
        {
            // As a disk that does not answer.
            let _busy = log.0.file.lock().unwrap();
            for _ in 0..8 {
                log.write(&long);
            }
        }
        log.finish(PATIENCE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("{\"lost\":5}\n"));
    }
}
