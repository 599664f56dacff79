//! The hard limit in time of a site: what hangs is shown, ended, and fails its test.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a test may have its site.
pub const LIMIT: Duration = Duration::from_secs(180);

/// How long it has after that to fail by itself, with everything that it waited for gone.
const GRACE: Duration = Duration::from_secs(60);

/// Watches a site from beside the test; also remembers which containers there have been.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    folder: PathBuf,
    namespace: String,
    limit: Mutex<Duration>,
    over: AtomicBool,
    expired: AtomicBool,
    containers: Mutex<BTreeSet<String>>,
}

impl Watchdog {
    /// Begins to watch.
    pub fn start(folder: &Path, namespace: &str) -> Self {
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            namespace: namespace.to_owned(),
            limit: Mutex::new(LIMIT),
            over: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            containers: Mutex::default(),
        });
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let watched = Arc::clone(&shared);
        let thread = thread::spawn(move || watched.watch(&test));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Allows another time than [`LIMIT`].
    pub fn allow(&self, limit: Duration) {
        *self.shared.limit.lock().unwrap() = limit;
    }

    /// Ids of the containers that there have been.
    pub fn containers(&self) -> BTreeSet<String> {
        self.shared.look();
        self.shared.containers.lock().unwrap().clone()
    }

    /// Whether the time was over.
    pub fn expired(&self) -> bool {
        self.shared.expired.load(Ordering::SeqCst)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It says itself when it panics.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn watch(&self, test: &str) {
        let begun = Instant::now();
        while !self.over.load(Ordering::SeqCst) {
            self.look();
            thread::park_timeout(Duration::from_millis(20));
            let elapsed = begun.elapsed();
            let limit = *self.limit.lock().unwrap();
            if elapsed > limit && !self.expired.swap(true, Ordering::SeqCst) {
                // Past libtest's capture: a hanging test's output is never shown.
                let _ = write!(
                    std::io::stderr(),
                    "\n=== {test}: not done after {limit:?}; its services' logs:\n{}\n",
                    logs(&self.folder, 60)
                );
                for pid in processes(&self.namespace) {
                    kill(&pid);
                }
            }
            if elapsed > limit + GRACE {
                let _ = writeln!(std::io::stderr(), "=== {test}: hangs; giving up on all");
                std::process::exit(101);
            }
        }
    }

    fn look(&self) {
        let folder = self.folder.join("state/runtime/containers");
        let mut known = self.containers.lock().unwrap();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string() {
                known.insert(name);
            }
        }
    }
}

/// The ends of the services' logs.
pub fn logs(folder: &Path, lines: usize) -> String {
    let mut all = String::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "log"))
        .collect();
    files.sort();
    for file in files {
        let text = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let tail: Vec<&str> = text.lines().rev().take(lines).collect();
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        all.push_str(&format!("--- {name}\n"));
        for line in tail.into_iter().rev() {
            all.push_str(line);
            all.push('\n');
        }
    }
    all
}

/// Processes in a network namespace.
pub fn processes(namespace: &str) -> Vec<String> {
    let output = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Ends a process at once.
pub fn kill(pid: &str) {
    // Gone meanwhile is fine.
    let _ = Command::new("kill").args(["-9", pid]).output();
}
