//! builder-svc: turns Dockerfiles and their contexts into images in registry-svc.
//!
//! Read it in the order of a build: [`slipway_dockerfile`] (text to instructions), [`plan`] (what they mean),
//! [`context`] (the caller's files), [`solve`] (each step from the [`cache`] or by a [`worker`]),
//! [`output`] (the image). [`grpc`] is the edge.
//!
//! Architecture invariant: this service touches no root filesystem; whatever runs or changes files is
//! done by a runtime-svc.

#![forbid(unsafe_code)]

pub mod attest;
pub mod build;
pub mod cache;
pub mod caller;
pub mod check;
pub mod context;
pub mod error;
pub mod events;
pub mod grpc;
pub mod history;
pub mod layer;
pub mod output;
pub mod plan;
pub mod registry;
pub mod settings;
pub mod solve;
pub mod worker;
