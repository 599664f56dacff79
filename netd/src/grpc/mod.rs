//! The gRPC edge: translates requests into the domain's words and back, and nothing else.

mod convert;
mod filter;
mod modes;
mod service;
mod status;

pub use service::NetworkService;
