//! The gRPC edge: translates and nothing else.

mod containers;
mod exec;
mod host;
mod run;
mod status;
mod streams;
mod view;

pub use containers::ContainersService;
pub use host::HostService;
