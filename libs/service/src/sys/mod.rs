//! What needs `unsafe`: nothing outside of this folder does.

pub mod inherit;
pub mod memory;
pub mod writeback;
