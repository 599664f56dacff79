//! A terminal's or pipe's end of a container's streams.

pub mod detach;
pub mod session;
pub mod terminal;
