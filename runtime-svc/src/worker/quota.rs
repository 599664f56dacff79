//! How much a lease takes, where that is limited: its snapshots, and what is on its way into them or to become
//! a layer.

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::Snapshot;
use crate::{
    disk,
    error::{Error, Tried as _},
};

/// Between two looks at what a step writes, at least, and in lengths of a look.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS_APART: u32 = 20;

/// The bytes of a lease.
#[derive(Debug)]
pub struct Quota {
    limit: Option<u64>,
    used: AtomicU64,
}

impl Quota {
    /// Nothing is used yet.
    pub const fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
        }
    }

    fn check(&self, more: u64) -> Result<(), Error> {
        match self.limit {
            Some(limit) if self.used.load(Ordering::Relaxed).saturating_add(more) > limit => {
                Err(too_much(limit))
            }
            _ => Ok(()),
        }
    }
}

fn too_much(limit: u64) -> Error {
    Error::LeaseLimit(format!(
        "this lease wants to have more than {limit} bytes here (lease_max_bytes)"
    ))
}

/// What is on its way, counted as it comes; given back when this is dropped.
#[derive(Debug)]
pub struct Reserved {
    quota: Arc<Quota>,
    bytes: AtomicU64,
}

impl Reserved {
    /// Nothing yet.
    pub const fn new(quota: Arc<Quota>) -> Self {
        Self {
            quota,
            bytes: AtomicU64::new(0),
        }
    }

    /// So many bytes more, unless that is more than the lease may have.
    pub fn add(&self, more: u64) -> Result<(), Error> {
        let limit = self.quota.limit.unwrap_or(u64::MAX);
        let add = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.quota.used.fetch_update(set, fetch, add).is_err() {
            return Err(too_much(limit));
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what was counted so far.
    pub fn give_back(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.quota.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Snapshot {
    /// Measures what it takes now, where that matters, and refuses it when it is too much. Blocks.
    pub fn check_quota(&self) -> Result<(), Error> {
        if self.quota.limit.is_none() {
            return Ok(());
        }
        let now = measure(&self.folder.0).tried(|| "cannot measure a snapshot".to_owned())?;
        let before = self.bytes.swap(now, Ordering::Relaxed);
        // In one step: who reserves beside us sees it once.
        self.quota
            .used
            .fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        self.quota.check(0)
    }

    /// A stream into it that ends with an error when more comes than its lease may have.
    pub fn limit<R: Read>(&self, stream: R) -> Limited<R> {
        Limited {
            inner: stream,
            reserved: Reserved::new(self.quota.clone()),
            refused: None,
        }
    }

    /// Gives back what it took.
    pub(super) fn leave_quota(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.quota.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Ends when a snapshot that is being written to has become too large; never where that is not limited.
    pub async fn too_large(&self) -> Error {
        if self.quota.limit.is_none() {
            return std::future::pending().await;
        }
        loop {
            let begun = Instant::now();
            let folder = self.folder.0.clone();
            // What cannot be measured in the middle of a step is measured at its end.
            if let Ok(now) = disk::measure(move || measure(&folder)).await {
                let before = self.bytes.load(Ordering::Relaxed);
                if let Err(error) = self.quota.check(now.saturating_sub(before)) {
                    return error;
                }
            }
            tokio::time::sleep(LOOK.max(begun.elapsed() * LOOKS_APART)).await;
        }
    }
}

fn measure(folder: &Path) -> io::Result<u64> {
    disk::usage(&folder.join("upper"))
}

/// A stream that ends with an error when more comes than the lease may have.
pub struct Limited<R> {
    inner: R,
    reserved: Reserved,
    refused: Option<Error>,
}

impl<R> Limited<R> {
    /// Whether that was so: who read it told it in other words. What was counted is given back: it is in the
    /// snapshot now, and measured there.
    pub fn finish(self) -> Result<(), Error> {
        self.refused.map_or(Ok(()), Err)
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if let Err(refused) = self.reserved.add(n as u64) {
            let error = io::Error::new(io::ErrorKind::QuotaExceeded, refused.to_string());
            self.refused = Some(refused);
            return Err(error);
        }
        Ok(n)
    }
}
