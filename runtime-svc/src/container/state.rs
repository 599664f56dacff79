//! What a container is doing.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slipway_proto::netd::v1::Endpoint;
use tokio::sync::watch;

use super::record::Record;
use crate::monitor::protocol::{ExitRecord, Running};

/// Its state, with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Never started.
    Created,
    /// Its first process lives.
    Running {
        /// Who.
        running: Running,
        /// Frozen.
        paused: bool,
    },
    /// It ended.
    Exited {
        /// How.
        record: ExitRecord,
        /// Why it ended without an exit code of its own, else "".
        error: String,
    },
    /// It is gone.
    Removed,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Its folder in the state directory.
    pub folder: PathBuf,
    /// Its folder in the run directory.
    pub run_folder: PathBuf,
    record: Mutex<Record>,
    status: watch::Sender<Status>,
    endpoint: Mutex<Option<Endpoint>>,
    /// Outlives the record of a container that removes itself, for those who wait.
    last_exit: Mutex<Option<i32>>,
    /// Length of the log, bytes.
    pub log_length: watch::Sender<u64>,
    /// Shared by those who are about to open the log of what they start; taken alone to remove it, so
    /// that a container of `--rm` that ends at once does not take its output along. Before `operation`.
    pub opening: Arc<tokio::sync::RwLock<()>>,
    /// Held while it is started, stopped or removed.
    pub operation: Arc<tokio::sync::Mutex<()>>,
}

impl Container {
    /// With a state.
    pub fn new(record: Record, status: Status, folder: PathBuf, run_folder: PathBuf) -> Self {
        Self {
            id: record.id.clone(),
            folder,
            run_folder,
            record: Mutex::new(record),
            status: watch::Sender::new(status),
            endpoint: Mutex::new(None),
            last_exit: Mutex::new(None),
            log_length: watch::Sender::new(0),
            opening: Arc::default(),
            operation: Arc::default(),
        }
    }

    /// Its record.
    pub fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Its name.
    pub fn name(&self) -> String {
        lock(&self.record).name.clone()
    }

    /// Changes its record, on disk first.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> std::io::Result<()> {
        let mut record = lock(&self.record);
        let mut new = record.clone();
        change(&mut new);
        new.write(&self.folder)?;
        *record = new;
        Ok(())
    }

    /// Its state now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Changes of its state.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Sets its state.
    pub fn set_status(&self, status: Status) {
        if let Status::Exited { record, .. } = &status {
            *lock(&self.last_exit) = Some(record.code);
        }
        self.status.send_replace(status);
    }

    /// How it ended last; 0 when it never did.
    pub fn last_exit_code(&self) -> i32 {
        lock(&self.last_exit).unwrap_or_default()
    }

    /// Its first process, when it runs.
    pub fn running(&self) -> Option<Running> {
        match &*self.status.borrow() {
            Status::Running { running, .. } => Some(running.clone()),
            _ => None,
        }
    }

    /// Its network.
    pub fn endpoint(&self) -> Option<Endpoint> {
        lock(&self.endpoint).clone()
    }

    /// Sets its network.
    pub fn set_endpoint(&self, endpoint: Option<Endpoint>) {
        *lock(&self.endpoint) = endpoint;
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Its monitor's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_folder.join("monitor.sock")
    }

    /// Where the monitor records its end.
    pub fn exit_file(&self) -> PathBuf {
        self.folder.join("exit.json")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
