//! What is made of files, and made again when one of them is another than it was.

use std::{
    fmt::Display,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{info, warn};

/// By what a file is known: where it is, how long, and when it was changed last.
type Stamp = Vec<Option<(u64, u64, u64, i64, i64)>>;

/// See the module's page. As long as the files cannot be used, what was made of them before is.
pub struct Watched<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Option<T> + Send + Sync>,
    current: Mutex<(Stamp, Arc<T>)>,
}

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
        Ok(Self {
            what,
            files,
            make: Box::new(make),
            current: Mutex::new((stamp, first)),
        })
    }

    /// As the files are now.
    pub fn get(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before the files are read: what changes meanwhile is seen the next time.
        let stamp = stamp(&self.files);
        if stamp != current.0 {
            current.0 = stamp;
            if let Some(made) = (self.make)() {
                current.1 = Arc::new(made);
            }
        }
        Arc::clone(&current.1)
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
