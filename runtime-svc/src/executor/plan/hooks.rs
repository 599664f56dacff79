//! Programs of the caller's, and what they are told.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Programs of the caller's, by the moment at which they run (OCI Runtime Specification, config.md,
/// "POSIX-platform Hooks"). Those of the host's side are run by who makes the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// The container stops and asks when its mounts are made, before it pivots.
    pub ask: bool,
    /// In the container's namespaces, before it pivots.
    pub create_container: Vec<Hook>,
    /// In the container, just before its program.
    pub start_container: Vec<Hook>,
    /// What they are told.
    pub about: About,
}

/// What hooks are told of their container, besides what changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its id.
    pub id: String,
    /// The folder that it was made from.
    pub bundle: PathBuf,
    /// The caller's own words.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A program of the caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute.
    pub path: String,
    /// With the name of the program; empty = just that.
    pub args: Vec<String>,
    /// All of its environment.
    pub env: Vec<String>,
    /// Seconds after which it is killed, and has failed.
    pub timeout: Option<u32>,
}
