//! What a container is doing.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use slipway_proto::netd::v1::Endpoint;
use tokio::sync::watch;

use super::{early::Early, health::Health, life::Life, record::Record};
use crate::{
    error::Error,
    logs::{
        config::{self, Logging},
        hold::Holds,
        sink::{self, Sink},
    },
    monitor::protocol::{ExitRecord, Running},
    network,
};

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
    /// It ended; its monitor waits for room on the disk, with the last of its output.
    Ending {
        /// How.
        record: ExitRecord,
    },
    /// It ended.
    Exited {
        /// How.
        record: ExitRecord,
    },
    /// It ended, and its restart policy brings it back.
    Restarting {
        /// How it ended, or why it could not be started last.
        record: ExitRecord,
        /// When, in nanoseconds since the epoch.
        next: u64,
    },
    /// It is gone.
    Removed,
}

impl Status {
    /// It runs or is about to run again: what docker calls running.
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Restarting { .. })
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Nanoseconds since the epoch.
    pub created: u64,
    /// Its folder in the state directory.
    pub folder: PathBuf,
    /// Its folder in the run directory.
    pub run_folder: PathBuf,
    record: Mutex<Record>,
    /// None until its first start.
    pub(super) life: Mutex<Option<Life>>,
    status: watch::Sender<Status>,
    endpoints: Mutex<Vec<Endpoint>>,
    /// For its first start.
    early: Mutex<Option<Early>>,
    /// Outlives the record of a container that removes itself, for those who wait.
    last_exit: Mutex<Option<ExitRecord>>,
    /// Counts its ends, for those who wait for the next one.
    exits: watch::Sender<u64>,
    /// The wait before its last restart.
    delay: Mutex<Option<Duration>>,
    /// How many `restart`s are at work: `--rm` does not count for an end meanwhile.
    restarted_by_hand: AtomicUsize,
    health: Mutex<Option<Health>>,
    /// Length of the log, bytes.
    /// What attached clients have still to read of the log.
    pub holds: Holds,
    /// Where its lines go besides, by its log driver.
    pub sink: Sink,
    /// Ids of further processes that run in it.
    execs: Mutex<Vec<String>>,
    /// Where the log ends.
    pub log_length: watch::Sender<u64>,
    /// Shared by those who are about to open the log of what they start; taken alone to remove it, so
    /// that a container of `--rm` that ends at once does not take its output along. Before `operation`.
    pub opening: Arc<tokio::sync::RwLock<()>>,
    /// Held while it is started, stopped or removed.
    pub operation: Arc<tokio::sync::Mutex<()>>,
}

impl Container {
    /// What its folder says of it; nothing is known of a monitor.
    pub fn new(record: Record, folder: PathBuf, run_folder: PathBuf) -> Self {
        Self {
            id: record.id.clone(),
            created: record.created,
            life: Mutex::new(Life::read(&folder)),
            folder,
            run_folder,
            record: Mutex::new(record),
            status: watch::Sender::new(Status::Created),
            endpoints: Mutex::default(),
            early: Mutex::new(None),
            last_exit: Mutex::new(None),
            exits: watch::Sender::new(0),
            delay: Mutex::new(None),
            restarted_by_hand: AtomicUsize::new(0),
            health: Mutex::new(None),
            holds: Holds::default(),
            sink: Sink::default(),
            execs: Mutex::default(),
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

    /// Changes its record, on disk first: when this is done it survives a power cut. Who calls holds
    /// `operation`, and goes on to the end of it, whoever waits.
    pub async fn update(&self, change: impl FnOnce(&mut Record)) -> std::io::Result<()> {
        let mut new = self.record();
        change(&mut new);
        let (folder, record) = (self.folder.clone(), new.clone());
        tokio::task::spawn_blocking(move || record.replace(&folder))
            .await
            .map_err(std::io::Error::other)??;
        *lock(&self.record) = new;
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
        if let Status::Ending { record }
        | Status::Exited { record }
        | Status::Restarting { record, .. } = &status
        {
            *lock(&self.last_exit) = Some(record.clone());
        }
        self.status.send_replace(status);
    }

    /// Waits until its monitor has no output of it left that waits for room.
    pub async fn until_written(&self) {
        let mut status = self.watch();
        // Its sender lives as long as the container.
        let _ = (status.wait_for(|s| !matches!(s, Status::Ending { .. }))).await;
    }

    /// Its end is known and told: wakes those who wait for the next one.
    pub fn announce_end(&self) {
        self.exits.send_modify(|n| *n += 1);
    }

    /// Sets whether it is frozen, unless it has ended meanwhile.
    pub fn set_paused(&self, now: bool) {
        self.status.send_if_modified(|status| match status {
            Status::Running { paused, .. } => std::mem::replace(paused, now) != now,
            _ => false,
        });
    }

    /// Whether it runs or is about to run again.
    pub fn is_up(&self) -> bool {
        self.status.borrow().is_up()
    }

    /// Changes with every end.
    pub fn exits(&self) -> watch::Receiver<u64> {
        self.exits.subscribe()
    }

    /// The wait before its last restart.
    pub fn delay(&self) -> Option<Duration> {
        *lock(&self.delay)
    }

    /// Remembers the wait before a restart; none = it was started by hand.
    pub fn set_delay(&self, delay: Option<Duration>) {
        *lock(&self.delay) = delay;
    }

    /// Until the returned guard goes, an end does not remove it.
    pub fn keep_over_restart(&self) -> KeptOverRestart<'_> {
        self.restarted_by_hand.fetch_add(1, Ordering::SeqCst);
        KeptOverRestart(self)
    }

    /// Whether its end removes it.
    pub fn goes_with_its_end(&self) -> bool {
        lock(&self.record).spec.auto_remove && self.restarted_by_hand.load(Ordering::SeqCst) == 0
    }

    /// Its health, when that is looked after.
    pub fn health(&self) -> Option<Health> {
        lock(&self.health).clone()
    }

    /// Changes its health.
    pub fn with_health<T>(&self, change: impl FnOnce(&mut Option<Health>) -> T) -> T {
        change(&mut lock(&self.health))
    }

    /// How it ended last.
    pub fn last_exit(&self) -> Option<ExitRecord> {
        lock(&self.last_exit).clone()
    }

    /// Its first process, when it runs.
    pub fn running(&self) -> Option<Running> {
        match &*self.status.borrow() {
            Status::Running { running, .. } => Some(running.clone()),
            _ => None,
        }
    }

    /// What it has on its networks while it runs.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        lock(&self.endpoints).clone()
    }

    /// Sets what it has on its networks.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        *lock(&self.endpoints) = endpoints;
    }

    /// The names of its networks, or of the mode that is none.
    pub fn networks(&self) -> Vec<String> {
        let endpoints = lock(&self.endpoints);
        if !endpoints.is_empty() {
            return endpoints.iter().map(|e| e.network_name.clone()).collect();
        }
        drop(endpoints);
        let config = lock(&self.record).spec.network.clone().unwrap_or_default();
        let on = network::networks(&config);
        match on.is_empty() && config.connected.is_none() {
            true => vec![config.mode],
            false => on.into_iter().map(|n| n.network).collect(),
        }
    }

    /// Remembers an endpoint that was asked for, until its start.
    pub(super) fn set_early(&self, early: Option<Early>) {
        *lock(&self.early) = early;
    }

    /// What was asked for, once.
    pub(super) fn take_early(&self) -> Option<Early> {
        lock(&self.early).take()
    }

    /// How its output is kept.
    pub fn logging(&self) -> Result<Logging, Error> {
        config::logging(&lock(&self.record).spec)
    }

    /// Hands what it has written on to its log driver, where that is not the log itself; with `last`
    /// also a line that has no end. Blocks.
    pub fn drain_log(&self, last: bool) -> std::io::Result<()> {
        let Ok(logging) = self.logging() else {
            return Ok(());
        };
        if sink::has(logging.driver) {
            let record = self.record();
            self.sink.drain(&record, &self.folder, &logging, last)?;
        }
        Ok(())
    }

    /// Ids of further processes that run in it.
    pub fn execs(&self) -> Vec<String> {
        lock(&self.execs).clone()
    }

    /// Another one runs, until what is returned is dropped.
    pub fn add_exec(self: &Arc<Self>) -> RunningExec {
        let id = crate::ids::new_id();
        lock(&self.execs).push(id.clone());
        RunningExec {
            container: self.clone(),
            id,
        }
    }

    /// Its monitor's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_folder.join("monitor.sock")
    }

    /// There while it is frozen for a commit.
    pub fn commit_mark(&self) -> PathBuf {
        self.run_folder.join("committing")
    }

    /// Where the results of its probes are kept.
    pub fn health_file(&self) -> PathBuf {
        self.folder.join("health.json")
    }
}

/// While it is there, a container of `--rm` stays when it ends.
#[derive(Debug)]
pub struct KeptOverRestart<'a>(&'a Container);

impl Drop for KeptOverRestart<'_> {
    fn drop(&mut self) {
        self.0.restarted_by_hand.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A further process in a container, as long as it runs.
#[derive(Debug)]
pub struct RunningExec {
    container: Arc<Container>,
    /// 64 hex digits.
    pub id: String,
}

impl Drop for RunningExec {
    fn drop(&mut self) {
        lock(&self.container.execs).retain(|id| *id != self.id);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
