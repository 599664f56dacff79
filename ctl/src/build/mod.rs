//! The caller's side of a build: its context, the protocol, what is shown.

pub mod attest;
pub mod cache;
pub mod call;
pub mod context;
pub mod hashes;
pub mod keys;
pub mod layout;
pub mod loaded;
pub mod offer;
pub mod output;
pub mod progress;
pub mod rawjson;
pub mod receive;
pub mod screen;
pub mod sending;
pub mod session;
pub mod source;
pub mod walk;
