//! The file of the log: lines go into it behind the callers' backs, and it never grows beyond what is allowed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::runtime::Handle;
use tracing::warn;

/// Files of before that are kept beside the one that is written: `audit.log.1` is the youngest.
const OLDER: u64 = 3;

/// Bytes that wait for a disk that does not take them; what comes then is lost, and counted.
const WAITING: usize = 1 << 20;

/// See the module's page. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Most bytes of one file.
    most: u64,
    pool: Handle,
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
    /// Into this file, which may have `bytes` together with those of before. Fails when it cannot be written.
    ///
    /// Must be called within tokio's runtime, whose threads for blocking work do the writing.
    pub fn open(path: PathBuf, bytes: u64) -> io::Result<Self> {
        let file = append(&path)?;
        Ok(Self(Arc::new(Inner {
            path,
            most: bytes / (OLDER + 1),
            pool: Handle::current(),
            queue: Mutex::default(),
            file: Mutex::new(Open {
                file: Some(file),
                complained: false,
            }),
        })))
    }

    /// Adds a line, soon. Never waits.
    pub fn write(&self, line: &str) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() + line.len() > WAITING {
            queue.lost += 1;
            return;
        }
        queue.lines.extend_from_slice(line.as_bytes());
        queue.lines.push(b'\n');
        if !std::mem::replace(&mut queue.writing, true) {
            let inner = Arc::clone(&self.0);
            // Waited for when the service ends.
            drop(self.0.pool.spawn_blocking(move || inner.drain()));
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
            match self.append(&mut open, &lines) {
                Ok(()) => open.complained = false,
                Err(error) => {
                    let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.lost += lost + count;
                    if !std::mem::replace(&mut open.complained, true) {
                        let path = self.path.display();
                        warn!(%path, %error, "the audit log cannot be written: calls go on without it");
                    }
                }
            }
        }
    }

    fn append(&self, open: &mut Open, lines: &[u8]) -> io::Result<()> {
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
        file.write_all(lines)
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
    options.create(true).append(true).mode(0o600).open(path)
}

/// `None` when what is open is not what has the name.
fn current_length(file: &File, path: &Path) -> Option<u64> {
    let (ours, named) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
    ((ours.dev(), ours.ino()) == (named.dev(), named.ino())).then_some(ours.len())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;

    async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
        let all = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_secs(60);
        assert!(tokio::time::timeout(limit, all).await.is_ok(), "{what}");
    }

    #[tokio::test]
    async fn it_never_takes_more_than_it_may_and_the_youngest_lines_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 4000).unwrap();
        let line = |n: u64| format!("{{\"n\":\"{n:0>90}\"}}");
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        for n in 0..200 {
            log.write(&line(n));
            eventually("it is written", || read("audit.log").contains(&line(n))).await;
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

    #[tokio::test]
    async fn a_file_that_was_taken_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 1 << 20).unwrap();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        log.write("{}");
        eventually("it is there", || {
            fs::read(&path).is_ok_and(|text| text == b"{}\n")
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_lost_is_counted() {
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
        eventually("it is told", || {
            fs::read_to_string(&path).is_ok_and(|text| text.ends_with("{\"lost\":5}\n"))
        })
        .await;
    }
}
