//! Several registry-svc, each a process of its own, on one bucket of a real S3 server.

mod between;
mod clock;
mod crash;
mod fsck;
mod mirror;
#[path = "../../src/bucket/server.rs"]
mod server;
mod service;
mod share;
mod start;
mod stop;
#[path = "../support/mod.rs"]
mod support;
mod trouble;

use registry_svc::bucket::settings;
