//! Tags: names of manifests that move.

pub use crate::store::Origin;

/// Name of the folder of a repository's tags. No component of a name begins with `_`.
pub const FOLDER: &str = "_tags";
