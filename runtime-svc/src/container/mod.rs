//! Containers: what they are asked to be ([`merge`], [`plan`]), what they are ([`state`]), and what is
//! done with them ([`manager`], [`lifecycle`]).

pub mod etc;
pub mod files;
pub mod lifecycle;
pub mod manager;
pub mod merge;
pub mod mounts;
pub mod plan;
pub mod ports;
pub mod record;
mod recover;
pub mod state;
pub mod top;
pub mod unsupported;
