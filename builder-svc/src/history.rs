//! Builds that are and that were, on this service's own disk: what each was, how it ended, and what it
//! told its caller. Bounded in number and bytes; what a caller was told has ended survives `kill -9` and a power
//! cut ([`History::settle`]).
//!
//! A folder with two files a build: `<id>.json`, and `<id>.log`, the messages to the caller one after the
//! other, each with its length (four bytes, little endian) in front. Neither has a build argument's
//! value, a secret or a credential.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead as _, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Most bytes of one build's log.
const LOG: u64 = 8 << 20;
/// Bytes that are gathered before they are written.
const BATCH: usize = 64 * 1024;
/// Largest message that is read back.
const MESSAGE: u32 = 4 << 20;

/// How a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It goes on.
    Running,
    /// It ended well.
    Completed,
    /// It failed.
    Error,
    /// Its caller went away.
    Canceled,
}

impl Status {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Canceled => "canceled",
        }
    }
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 64 hex digits.
    pub id: String,
    /// First tag, or the Dockerfile's name.
    pub name: String,
    /// All tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// `--target`
    #[serde(default)]
    pub target: String,
    /// `--platform`
    #[serde(default)]
    pub platforms: Vec<String>,
    /// The Dockerfile's name.
    #[serde(default)]
    pub dockerfile: String,
    /// When it began.
    pub started: SystemTime,
    /// None = it still runs.
    #[serde(default)]
    pub took: Option<Duration>,
    /// How it stands.
    pub status: Status,
    /// Why it failed.
    #[serde(default)]
    pub error: String,
    /// Digest of what the first output gave.
    #[serde(default)]
    pub image: String,
    /// Steps that change files.
    #[serde(default)]
    pub steps: u32,
    /// How many of them were cached.
    #[serde(default)]
    pub cached: u32,
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Builds.
    pub builds: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// All builds. One per service.
pub struct History {
    folder: PathBuf,
    limits: Limits,
    /// Oldest first.
    entries: Mutex<Vec<Entry>>,
}

impl History {
    /// Opens a folder. Builds that ran when the service ended did not end well. What nobody was told of may be
    /// half there after a power cut: it goes.
    pub fn open(folder: PathBuf, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let (mut entries, mut logs) = (Vec::new(), Vec::new());
        for file in fs::read_dir(&folder)? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "new") {
                // A record that was not written to its end: the one before it counts.
                fs::remove_file(&path)?;
            }
            if path.extension().is_some_and(|e| e == "log") {
                logs.push(path);
                continue;
            }
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match serde_json::from_slice::<Entry>(&fs::read(&path)?) {
                Ok(entry) => entries.push(entry),
                // A file that was being written when the host went down.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a build's record is broken");
                    fs::remove_file(&path)?;
                }
            }
        }
        let ids: HashSet<&str> = entries.iter().map(|e| e.id.as_str()).collect();
        for log in logs {
            let id = log.file_stem().and_then(|id| id.to_str());
            if !id.is_some_and(|id| ids.contains(id)) {
                fs::remove_file(&log)?;
            }
        }
        entries.sort_by_key(|e| e.started);
        let history = Self {
            folder,
            limits,
            entries: Mutex::default(),
        };
        for entry in &mut entries {
            if entry.status == Status::Running {
                entry.status = Status::Error;
                "builder-svc was stopped in the middle of the build".clone_into(&mut entry.error);
                // On a full disk it is found like this again the next time.
                if let Err(error) = history.write(entry) {
                    tracing::warn!(%error, "a build's record cannot be written");
                }
            }
        }
        *history.lock() = entries;
        Ok(history)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        let (new, path) = (self.path(&entry.id, "new"), self.path(&entry.id, "json"));
        fs::write(&new, serde_json::to_vec(entry)?)?;
        fs::rename(new, path)
    }

    /// All builds, newest first.
    pub fn list(&self) -> Vec<Entry> {
        self.lock().iter().rev().cloned().collect()
    }

    /// Begins a build's record.
    pub fn begin(self: &Arc<Self>, entry: Entry) -> Recording {
        // A history that cannot be written ends no build.
        if let Err(error) = self.write(&entry) {
            tracing::warn!(%error, "a build's record cannot be written");
        }
        self.lock().push(entry.clone());
        Recording {
            history: self.clone(),
            entry,
            begun: Instant::now(),
            ended: false,
        }
    }

    /// Where a build's messages go.
    pub fn log(&self, id: &str) -> Log {
        Log {
            id: id.to_owned(),
            path: self.path(id, "log"),
            file: None,
            batch: Vec::new(),
            bytes: 0,
        }
    }

    /// Gives a build's messages to `take`, until it returns false.
    pub fn read(&self, id: &str, mut take: impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
        let file = match File::open(self.path(id, "log")) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut file = io::BufReader::new(file);
        // What was cut off in the middle of a message ends there.
        while !file.fill_buf()?.is_empty() {
            let mut length = [0; 4];
            if file.read_exact(&mut length).is_err() {
                break;
            }
            let length = u32::from_le_bytes(length);
            let mut message = vec![0; length.min(MESSAGE) as usize];
            if length > MESSAGE || file.read_exact(&mut message).is_err() || !take(message) {
                break;
            }
        }
        Ok(())
    }

    /// Forgets builds that have ended: these, or all; returns their ids.
    pub fn remove(&self, ids: Option<&[String]>) -> io::Result<Vec<String>> {
        let gone: Vec<String> = self
            .lock()
            .iter()
            .filter(|e| e.status != Status::Running)
            .filter(|e| ids.is_none_or(|ids| ids.contains(&e.id)))
            .map(|e| e.id.clone())
            .collect();
        for id in &gone {
            for extension in ["log", "json"] {
                match fs::remove_file(self.path(id, extension)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        self.lock().retain(|e| !gone.contains(&e.id));
        if !gone.is_empty() {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(gone)
    }

    /// Ends a build's log. When this returns the disk has it, and its record as it is now: the build's caller
    /// may be told that it has ended.
    pub async fn settle(self: &Arc<Self>, log: Log) {
        let history = self.clone();
        let settling = tokio::task::spawn_blocking(move || history.sync(log));
        let settled = settling.await.map_err(io::Error::other).and_then(|r| r);
        // A history that cannot be written ends no build.
        if let Err(error) = settled {
            tracing::warn!(%error, "a build's record cannot be written");
        }
    }

    fn sync(&self, mut log: Log) -> io::Result<()> {
        log.flush();
        // Files first, then the folder, which has the record's new name.
        if let Some(file) = &log.file {
            file.sync_data()?;
        }
        File::open(self.path(&log.id, "json"))?.sync_data()?;
        File::open(&self.folder)?.sync_all()?;
        self.trim()
    }

    /// Forgets the oldest builds beyond the limits.
    fn trim(&self) -> io::Result<()> {
        let size = |e: &Entry| {
            let of = |extension| fs::metadata(self.path(&e.id, extension)).map_or(0, |m| m.len());
            of("json") + of("log")
        };
        let all = self.list();
        let (mut count, mut bytes) = (0, 0);
        let mut gone = Vec::new();
        for entry in &all {
            count += 1;
            bytes += size(entry);
            if count > self.limits.builds || bytes > self.limits.bytes {
                gone.push(entry.id.clone());
            }
        }
        match gone.is_empty() {
            true => Ok(()),
            false => self.remove(Some(&gone)).map(drop),
        }
    }
}

/// A build's record while it goes on; one that is dropped in the middle was cancelled.
pub struct Recording {
    history: Arc<History>,
    entry: Entry,
    begun: Instant,
    ended: bool,
}

impl Recording {
    /// The build has ended. `Ok`: image, steps and cached steps. On the disk once its log [is](History::settle).
    pub fn end(&mut self, how: Result<(String, u32, u32), String>) {
        match how {
            Ok((image, steps, cached)) => {
                self.entry.image = image;
                (self.entry.steps, self.entry.cached) = (steps, cached);
                self.finish(Status::Completed);
            }
            Err(error) => {
                self.entry.error = error;
                self.finish(Status::Error);
            }
        }
    }

    fn finish(&mut self, status: Status) {
        self.ended = true;
        self.entry.status = status;
        self.entry.took = Some(self.begun.elapsed());
        let history = &self.history;
        // Forgotten meanwhile: it was not, who runs is not removed.
        if let Some(entry) = history.lock().iter_mut().find(|e| e.id == self.entry.id) {
            entry.clone_from(&self.entry);
        }
        if let Err(error) = history.write(&self.entry) {
            tracing::warn!(%error, "a build's record cannot be written");
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(Status::Canceled);
            // Its log may still be written; there is nobody to be told.
            if let Err(error) = self.history.trim() {
                tracing::warn!(%error, "builds of the history cannot be removed");
            }
        }
    }
}

/// A build's messages on their way to the disk.
pub struct Log {
    id: String,
    path: PathBuf,
    file: Option<File>,
    batch: Vec<u8>,
    bytes: u64,
}

impl Log {
    /// Adds a message; beyond the limit nothing is kept any more.
    pub fn add(&mut self, message: &[u8]) {
        let Ok(length) = u32::try_from(message.len()) else {
            return;
        };
        self.bytes += u64::from(length) + 4;
        if self.bytes > LOG {
            return;
        }
        self.batch.extend(length.to_le_bytes());
        self.batch.extend(message);
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Err(error) = self.write() {
            tracing::warn!(%error, "a build's log cannot be written");
        }
        self.batch.clear();
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        file.write_all(&self.batch)
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, second: u64) -> Entry {
        Entry {
            id: id.to_owned(),
            name: "n".to_owned(),
            tags: Vec::new(),
            target: String::new(),
            platforms: Vec::new(),
            dockerfile: String::new(),
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            took: None,
            status: Status::Running,
            error: String::new(),
            image: String::new(),
            steps: 0,
            cached: 0,
        }
    }

    #[tokio::test]
    async fn builds_are_remembered_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            builds: 2,
            bytes: 1 << 20,
        };
        let open = || Arc::new(History::open(folder.path().to_owned(), limits).unwrap());
        let history = open();
        for (id, second) in [("a", 1), ("b", 2), ("c", 3)] {
            let mut recording = history.begin(entry(id, second));
            let mut log = history.log(id);
            log.add(b"one");
            log.add(b"two");
            recording.end(Ok((String::new(), 3, 1)));
            history.settle(log).await;
        }
        drop(history.begin(entry("d", 4)));
        fs::write(folder.path().join("d.new"), "{").unwrap();
        let _running = std::mem::ManuallyDrop::new(history.begin(entry("e", 5)));
        // What a power cut leaves.
        fs::write(folder.path().join("f.json"), "").unwrap();
        fs::write(folder.path().join("f.log"), "x").unwrap();
        let again = open();
        let seen: Vec<_> = again.list().into_iter().map(|e| (e.id, e.status)).collect();
        let expected = [
            ("e".to_owned(), Status::Error),
            ("d".to_owned(), Status::Canceled),
            ("c".to_owned(), Status::Completed),
        ];
        assert_eq!(seen, expected);
        let mut log = Vec::new();
        again
            .read("c", |message| {
                log.push(message);
                true
            })
            .unwrap();
        assert_eq!(log, [b"one", b"two"]);
        again.remove(None).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_log_that_was_cut_off_is_read_as_far_as_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            builds: 2,
            bytes: 1 << 20,
        };
        let history = History::open(folder.path().to_owned(), limits).unwrap();
        fs::write(folder.path().join("x.log"), b"\x01\0\0\0a\x09\0\0\0b").unwrap();
        let mut count = 0;
        history
            .read("x", |_| {
                count += 1;
                true
            })
            .unwrap();
        assert_eq!(count, 1);
    }
}
