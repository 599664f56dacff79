//! The image vocabulary of Slipway: the nouns that all services share, and what is done with them.
//!
//! The nouns: a [`Reference`] is what a person writes; a [`Digest`] names content; a
//! [`Manifest`] lists the layers of an image or, as an index, its platforms; an [`ImageConfig`]
//! says how to run it; a [`Platform`] chooses. The verbs live in modules named for them:
//! [`layer`] packs and unpacks, [`archive`] reads users' archives, [`id_prefix`] finds by prefix.
//!
//! Architecture invariant: nothing here knows a service, gRPC or where things are stored.

#![forbid(unsafe_code)]

pub mod archive;
pub mod config;
pub mod digest;
pub mod id_prefix;
pub mod layer;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;

pub use config::ImageConfig;
pub use digest::{Algorithm, Digest, Digester};
pub use manifest::{Descriptor, Manifest};
pub use platform::Platform;
pub use reference::Reference;
