//! Archives of images, as `docker save` writes and `docker load` reads them.
//!
//! Two forms are one file since docker 25: an OCI layout (image-spec, image-layout.md: `oci-layout`, `index.json`,
//! `blobs/`) that also has docker's own lists (`manifest.json`, `repositories`). What others write is one of the
//! two, and the layers of older dockers are folders with a `layer.tar`.
//!
//! Reading goes through three stations, of which none trusts the archive:
//!
//! 1. [`read()`]: the tar stream, file by file, within limits. Content goes to a [`Shelf`], which checks it against
//!    the digest that is its name; what is left is a [`Listing`] of names.
//! 2. [`plan()`]: what the lists name, checked against the listing: whole images, and nothing else.
//! 3. Whoever called stores the manifests ([`super::load`]).
//!
//! [`mod@write`] says what stands in an archive that is saved. Nothing here knows where content is kept.

use std::io::Read;

use bytes::Bytes;
use slipway_image::Digest;

use crate::error::{Error, Result};

mod docker;
mod listing;
pub mod memory;
mod oci;
pub mod plan;
mod read;
#[cfg(test)]
mod tests;
pub mod write;

pub use listing::{File, Listing};
pub use plan::{Image, Planned, plan};
pub use read::read;

/// Where the content of an archive goes.
pub trait Shelf {
    /// Takes content of `size` bytes and says what its digest is. Of content that was promised to have a digest:
    /// that it does, by the algorithm of it.
    fn put(
        &mut self,
        promised: Option<&Digest>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Digest>;

    /// Content that was put, of at most the size of a manifest.
    fn small(&mut self, digest: &Digest) -> Result<Bytes>;

    /// The digest of a layer that was put when it is not compressed, by the algorithm of `like`.
    fn plain_digest(&mut self, layer: &Digest, like: &Digest) -> Result<Digest>;

    /// The first bytes of what was put, at least six where there are so many.
    fn start(&mut self, digest: &Digest) -> Result<Bytes>;
}

/// What makes an archive no good.
fn refused(why: impl std::fmt::Display) -> Error {
    Error::ArchiveInvalid(why.to_string())
}
