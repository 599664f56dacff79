//! Containers: what they are asked to be ([`merge`], [`plan`]), what they are ([`state`]), and what is
//! done with them ([`manager`], [`create`], [`lifecycle`], [`restart`], [`health`], [`exec`], [`stop`], [`remove`]).

pub mod commit;
pub mod confinement;
pub mod create;
pub mod devices;
pub mod etc;
pub mod exec;
pub mod files;
pub mod filter;
pub mod health;
mod layers;
pub mod lifecycle;
mod logging;
pub mod manager;
pub mod merge;
pub mod mounts;
pub mod peers;
pub mod plan;
pub mod ports;
mod probe;
pub mod record;
mod recover;
pub mod remove;
mod rename;
pub mod resources;
pub mod restart;
mod sources;
pub mod state;
pub mod stats;
pub mod stop;
pub mod sysctls;
mod tell;
mod tmpfs;
pub mod top;
pub mod unsupported;
pub mod update;
pub mod userns;
