//! The OCI runtime command line: verbs, hooks, and what config.json can say. What the specification's own
//! validation programs check (opencontainers/runtime-tools, `runtimetest`) is checked from inside here.

mod agent;
mod config;
mod confined;
mod hooks;
mod life;
mod ready;
mod refused;
mod streams;

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio, time::Instant};

use serde_json::{Value, json};
use slipway_tests::{Oci, eventually};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn remove_namespace(config: &mut Value, typ: &str) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != typ);
}
