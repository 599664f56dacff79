//! Layers and stacks of them.

use sha2::{Digest as _, Sha256};
use slipway_image::{Descriptor, Digest};

/// A layer of an image: where its blob is, and what it unpacks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of the plain archive.
    pub diff_id: Digest,
    /// Repository of registry-svc that holds it.
    pub repository: String,
}

/// What a stack of layers holds, as one digest: equal stacks have equal files.
pub fn chain(layers: &[Layer]) -> String {
    let mut hasher = Sha256::new();
    for layer in layers {
        hasher.update(layer.diff_id.to_string());
        hasher.update(b"\n");
    }
    hex::encode(hasher.finalize())
}
