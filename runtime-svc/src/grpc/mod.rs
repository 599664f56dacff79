//! The gRPC edge: translates and nothing else.

mod containers;
mod copy;
mod exec;
mod follow;
mod host;
mod list;
mod logs;
mod run;
mod stats;
mod status;
mod step;
mod streams;
mod until;
mod view;
mod volumes;
mod worker;

pub use containers::ContainersService;
pub use host::HostService;
pub use volumes::VolumesService;
pub use worker::WorkerService;
