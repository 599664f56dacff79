//! Builds that are and that were, on this service's own disk: what each was, how it ended, and what it
//! told its caller. Bounded in number and bytes; what a caller was told has ended survives `kill -9` and a power
//! cut ([`History::settle`]).
//!
//! A folder with two files a build: `<id>.json`, and `<id>.log`, the messages to the caller one after the
//! other, each with its length (four bytes, little endian) in front. Neither has a build argument's
//! value, a secret or a credential.

mod entry;
mod log;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead as _, Read as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

pub use entry::{Entry, Status};
pub use log::Log;

/// Largest message that is read back.
const MESSAGE: u32 = 4 << 20;

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
        Log::new(id.to_owned(), self.path(id, "log"))
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
