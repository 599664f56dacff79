//! What needs `unsafe`: nothing outside of this folder does.

pub mod memory;
pub mod writeback;
