//! Taking trees away where nobody waits for it: one after the other, by a thread of low priority.
//!
//! What is handed over has lost its name before, in one step; a removal that is cut off is finished by the
//! next instance, which finds what nobody knows.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use tokio::sync::oneshot;

use super::{remove_tree, usage};
use crate::sys::schedule;

/// `IOPRIO_CLASS_BE` and its last level (linux/ioprio.h). Not the idle class: a removal must come to its end
/// on a busy disk, too.
const BEST_EFFORT: u32 = 2;
const LOWEST: u32 = 7;

/// The thread that removes. Cheap to clone; it ends with the last clone, when it has nothing left to do.
#[derive(Debug, Clone)]
pub struct Broom(Arc<Handle>);

/// Tells how many bytes a removal gave back, when it is done.
pub type Swept = oneshot::Receiver<io::Result<u64>>;

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Bounded by what there is on the disk: each is a folder there.
    heap: Mutex<Heap>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Heap {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    path: PathBuf,
    /// Bytes on disk, when they are known already.
    bytes: Option<u64>,
    done: oneshot::Sender<io::Result<u64>>,
}

impl Broom {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        std::thread::Builder::new()
            .name("broom".to_owned())
            .spawn(move || work(&own))?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Takes a tree away, sometime.
    pub fn sweep(&self, path: PathBuf, bytes: Option<u64>) -> Swept {
        let (done, swept) = oneshot::channel();
        lock(&self.0.0).jobs.push_back(Job { path, bytes, done });
        self.0.0.more.notify_one();
        swept
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.0).closed = true;
        self.0.more.notify_one();
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Heap> {
    shared.heap.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(shared: &Shared) {
    if let Err(error) = schedule::set_io_priority(BEST_EFFORT, LOWEST) {
        tracing::debug!(%error, "removals have the priority of everything else");
    }
    while let Some(job) = next(shared) {
        let removed = remove(&job.path, job.bytes);
        if let Err(error) = &removed {
            tracing::warn!(path = %job.path.display(), %error, "could not be removed");
        }
        // Most do not wait for it.
        let _ = job.done.send(removed);
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut heap = lock(shared);
    loop {
        if let Some(job) = heap.jobs.pop_front() {
            return Some(job);
        }
        if heap.closed {
            return None;
        }
        heap = shared
            .more
            .wait(heap)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

fn remove(path: &Path, bytes: Option<u64>) -> io::Result<u64> {
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => usage(path)?,
    };
    slipway_fault::point("runtime.sweep.begun");
    match remove_tree(path) {
        Ok(()) => {
            slipway_fault::point("runtime.sweep.gone");
            Ok(bytes)
        }
        // Somebody else was quicker.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_handed_over_goes_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let broom = Broom::start().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("a"), vec![1; 50_000]).unwrap();
            path
        };
        let swept = broom.sweep(make("measured"), None);
        assert!(swept.blocking_recv().unwrap().unwrap() >= 50_000);
        let known = broom.sweep(make("known"), Some(7));
        let gone = broom.sweep(folder.path().join("never there"), None);
        // What was handed over before it ends is still done.
        let last = make("last");
        let swept = broom.sweep(last.clone(), None);
        drop(broom);
        assert_eq!(known.blocking_recv().unwrap().unwrap(), 7);
        assert_eq!(gone.blocking_recv().unwrap().unwrap(), 0);
        swept.blocking_recv().unwrap().unwrap();
        assert!(!last.exists());
    }
}
