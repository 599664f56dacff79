//! registry-svc: the image store of record of a site, and the mirror of upstream registries.
//!
//! Domain: [`registry`] opens it; [`blobs`], [`manifests`], [`uploads`] hold the content,
//! [`ledger`] what is known of it,
//! [`mirror`] fetches it, [`images`] shows it as docker's users know it, [`gc`], [`retention`] and
//! [`fsck`] keep it in order, [`usage`] measures it; [`access`] says who may do what. Edges: [`http`] (OCI Distribution, for foreign clients) and [`grpc`] (for ctl,
//! runtime-svc and builder-svc).
//!
//! Architecture invariants: the domain knows neither tonic nor axum nor hyper; [`store`] is the only
//! module that knows sled; nothing becomes visible that was not verified ([`blobs`]).

#![forbid(unsafe_code)]

pub mod access;
pub mod arrivals;
pub mod blobs;
pub mod bucket;
pub mod cache;
pub mod config;
pub mod error;
pub mod events;
pub mod files;
pub mod fsck;
pub mod gc;
pub mod grpc;
pub mod http;
pub mod images;
mod in_hand;
pub mod large;
pub mod leases;
pub mod ledger;
pub mod links;
pub mod manifests;
pub mod mirror;
pub mod names;
mod opening;
pub mod registry;
pub mod retention;
pub mod store;
pub mod tags;
pub mod unfinished;
pub mod uploads;
pub mod usage;
pub mod work;

pub use error::{Error, Result};
pub use registry::Registry;
