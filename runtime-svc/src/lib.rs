//! Runs containers on one host.

pub mod cgroup;
pub mod executor;
pub mod monitor;
pub mod sys;
