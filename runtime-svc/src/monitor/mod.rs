//! One small process a container that owns its streams, log, terminal, exit status and execs, and
//! outlives runtime-svc.
//!
//! * [`spawner`]: the process that monitors are forked from, and runtime-svc's side of it;
//! * [`supervise`]: a monitor's life: single-threaded, a poll loop, no async runtime;
//! * [`protocol`]: what is said on its socket; [`client`]: runtime-svc's side of that;
//! * [`log_format`], [`log_files`]: the log, which the monitor appends to and runtime-svc reads;
//!   `log_writer`: appending, rotation, and the bound on what is kept.
//!
//! The monitor never sends output to anybody: it appends to the log and tells attached clients that it
//! grew. So a slow client costs nothing and blocks nothing, and attach, `logs -f` and a client that
//! comes back are the same thing.

pub mod client;
pub mod log_files;
pub mod log_format;
pub mod protocol;
pub mod spawner;
pub mod supervise;

mod execs;
mod launch;
mod listener;
pub mod log_writer;
mod output;
mod stdin;

pub use output::now;
