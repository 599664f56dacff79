//! What is made of files, and made again when one of them is another than it was.

use std::{
    fmt::Display,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

/// By what a file is known: where it is, how long, and when it was changed last.
type Stamp = Vec<Option<(u64, u64, u64, i64, i64)>>;

/// See the module's page. As long as the files cannot be used, what was made of them before is.
pub struct Watched<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Option<T> + Send + Sync>,
    current: Mutex<Current<T>>,
    retry: Duration,
}

struct Current<T> {
    stamp: Stamp,
    made: Arc<T>,
    /// Files of which nothing could be made, and when that was tried.
    failed: Option<(Stamp, Instant)>,
}

/// How long files that could not be used are left alone: what failed may have been the moment (no file descriptors),
/// and not what is in them.
const RETRY: Duration = Duration::from_secs(5);

impl<T> Watched<T> {
    /// Makes it; the files are looked at whenever it is used.
    pub fn new<E: Display>(
        what: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let stamp = stamp(&files);
        let first = Arc::new(make()?);
        let make = move || {
            make()
                .inspect(|_| info!("{what} was read again"))
                .inspect_err(|error| warn!("{what} stays as it was: {error}"))
                .ok()
        };
        let current = Current {
            stamp,
            made: first,
            failed: None,
        };
        Ok(Self {
            what,
            files,
            make: Box::new(make),
            current: Mutex::new(current),
            retry: RETRY,
        })
    }

    /// As the files are now.
    pub fn get(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before the files are read: what changes meanwhile is seen the next time.
        let stamp = stamp(&self.files);
        let left_alone = current
            .failed
            .as_ref()
            .is_some_and(|(failed, at)| *failed == stamp && at.elapsed() < self.retry);
        if stamp != current.stamp && !left_alone {
            match (self.make)() {
                Some(made) => {
                    (current.made, current.stamp) = (Arc::new(made), stamp);
                    current.failed = None;
                }
                None => current.failed = Some((stamp, Instant::now())),
            }
        }
        Arc::clone(&current.made)
    }
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watched").field(&self.what).finish()
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let stamp = |file: &PathBuf| {
        let m = std::fs::metadata(file).ok()?;
        Some((m.dev(), m.ino(), m.len(), m.ctime(), m.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    };

    use super::*;

    #[test]
    fn a_change_is_not_lost_when_the_files_cannot_be_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "one").unwrap();
        let (fails, tries) = (
            Arc::new(AtomicBool::default()),
            Arc::new(AtomicUsize::default()),
        );
        let make = {
            let (file, fails, tries) = (file.clone(), Arc::clone(&fails), Arc::clone(&tries));
            move || {
                tries.fetch_add(1, SeqCst);
                match fails.load(SeqCst) {
                    true => Err(io::Error::other("no file descriptors")),
                    false => fs::read_to_string(&file),
                }
            }
        };
        let mut watched = Watched::new("the file", vec![file.clone()], make).unwrap();
        fs::write(&file, "another").unwrap();
        fails.store(true, SeqCst);
        for _ in 0..3 {
            assert_eq!(*watched.get(), "one");
        }
        assert_eq!(tries.load(SeqCst), 2, "left alone for a while");
        fails.store(false, SeqCst);
        assert_eq!(*watched.get(), "one");
        watched.retry = Duration::ZERO;
        assert_eq!(*watched.get(), "another");
        assert_eq!(*watched.get(), "another");
        assert_eq!(tries.load(SeqCst), 3);
        // What changes again is looked at at once.
        watched.retry = RETRY;
        fails.store(true, SeqCst);
        fs::write(&file, "a third").unwrap();
        assert_eq!(*watched.get(), "another");
        fails.store(false, SeqCst);
        fs::write(&file, "and a fourth").unwrap();
        assert_eq!(*watched.get(), "and a fourth");
    }
}
