//! What is written down about a cache mount.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// What is written down about a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What Dockerfiles call it.
    pub id: String,
    /// What it began with: caches of one id that began differently are different ones.
    pub base: String,
    /// Since when, milliseconds since the epoch.
    pub created: u64,
    /// When a step ended that had it, or began to.
    pub last_used: u64,
    /// How many steps had it.
    pub uses: u64,
    /// Bytes on disk when they were counted last.
    pub bytes: u64,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            id: String::new(),
            base: String::new(),
            created: now(),
            last_used: now(),
            uses: 0,
            bytes: 0,
        }
    }
}

/// A cache as an operator is told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its own name.
    pub name: String,
    /// The rest.
    pub record: Record,
    /// A step has it now.
    pub in_use: bool,
}

impl Record {
    /// Writes it into a cache's folder: the old one or this one is there, never half of one.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let half = folder.join("cache.json.new");
        fs::write(&half, serde_json::to_vec(self)?)?;
        slipway_fault::point("runtime.count.written");
        fs::rename(half, folder.join("cache.json"))
    }
}

/// Milliseconds since the epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// When a cache was made or used, as a time.
pub fn time(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}
