//! How much the snapshots of a lease take, where that is limited.

use std::{
    io::{self, Read},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
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
            Some(limit) if self.used.load(Ordering::Relaxed) + more > limit => {
                Err(Error::LeaseLimit(format!(
                    "the snapshots of this lease take more than {limit} bytes (lease_max_bytes)"
                )))
            }
            _ => Ok(()),
        }
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
        self.quota.used.fetch_add(now, Ordering::Relaxed);
        self.quota.used.fetch_sub(before, Ordering::Relaxed);
        self.quota.check(0)
    }

    /// A stream into it that ends with an error when more comes than its lease may have.
    pub fn limit<R: Read>(&self, stream: R) -> Limited<'_, R> {
        Limited {
            inner: stream,
            quota: &self.quota,
            read: 0,
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
pub struct Limited<'a, R> {
    inner: R,
    quota: &'a Quota,
    read: u64,
}

impl<R> Limited<'_, R> {
    /// Whether that was so: who read it told it in other words.
    pub fn check(&self) -> Result<(), Error> {
        self.quota.check(self.read)
    }
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        let kind = io::ErrorKind::QuotaExceeded;
        self.check()
            .map_err(|e| io::Error::new(kind, e.to_string()))?;
        Ok(n)
    }
}
