//! Runs containers on one host.
//!
//! [`container`] is the domain: what containers are asked to be and what is done with them. Below it,
//! [`registry`] and [`layers`] bring images here ([`collect`] takes away what is left of them), [`network`] speaks with netd, [`monitor`] and
//! [`executor`] make and keep processes, [`cgroup`] limits them, [`logs`] reads what they wrote.
//! [`grpc`] translates, and nothing else. [`oci`] is another program in the same file: it makes containers of
//! bundles by the executor, without all of the above.

pub mod cgroup;
pub mod collect;
pub mod container;
pub mod descriptors;
pub mod disk;
pub mod error;
pub mod events;
pub mod executor;
pub mod grpc;
pub mod ids;
pub mod layers;
pub mod logs;
pub mod monitor;
pub mod network;
pub mod oci;
pub mod quiet;
pub mod registry;
pub mod settings;
pub mod sys;
pub mod usage;
pub mod volumes;
pub mod worker;
