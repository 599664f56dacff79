//! What is attested about a build's result: how it came about (SLSA provenance), and what is in it (SBOM).
//!
//! [`request`] reads what the caller asks for; [`sources`] is what a build notes while it goes on;
//! [`provenance`] makes a predicate of that; [`sbom`] lists the packages of an image; [`purl`] writes package URLs; [`statement`] makes in-toto
//! statements of predicates, and the manifest that holds them beside an image's.
//!
//! The form is BuildKit's (docs/attestations in moby/buildkit), so that `docker buildx imagetools`, scanners
//! and policies that know it find what they look for. Nothing is made unless it is asked for: a plain build
//! stays what it is, byte by byte.

mod asked;
pub mod provenance;
pub mod purl;
pub mod request;
pub mod sbom;
pub mod sources;
pub mod statement;

pub use request::Wanted;
pub use sources::Sources;

use serde_json::Value;

/// Something that is said about a result, without the result's name.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    /// What kind of statement it is: a URI.
    pub kind: &'static str,
    /// The file that it becomes where the result is files; none = it goes with images only.
    pub file: Option<String>,
    /// What is said.
    pub content: Value,
}
