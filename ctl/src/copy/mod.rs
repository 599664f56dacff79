//! `cp`: docker's rules for where things go, and tar streams from and to the caller's files.

pub mod place;
pub mod unpack;
