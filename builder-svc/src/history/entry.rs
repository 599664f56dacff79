//! What is kept of a build besides its messages.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// How a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It goes on.
    Running,
    /// It ended well.
    Completed,
    /// It failed.
    Error,
    /// Its caller went away.
    Canceled,
}

impl Status {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Canceled => "canceled",
        }
    }
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 64 hex digits.
    pub id: String,
    /// First tag, or the Dockerfile's name.
    pub name: String,
    /// All tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// `--target`
    #[serde(default)]
    pub target: String,
    /// `--platform`
    #[serde(default)]
    pub platforms: Vec<String>,
    /// The Dockerfile's name.
    #[serde(default)]
    pub dockerfile: String,
    /// When it began.
    pub started: SystemTime,
    /// None = it still runs.
    #[serde(default)]
    pub took: Option<Duration>,
    /// How it stands.
    pub status: Status,
    /// Why it failed.
    #[serde(default)]
    pub error: String,
    /// Digest of what the first output gave.
    #[serde(default)]
    pub image: String,
    /// Steps that change files.
    #[serde(default)]
    pub steps: u32,
    /// How many of them were cached.
    #[serde(default)]
    pub cached: u32,
}
