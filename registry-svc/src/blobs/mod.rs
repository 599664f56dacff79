//! Content by digest: the blob store.
//!
//! A blob is bytes named by their digest. Everything that comes in, from a client or from upstream,
//! goes through three stations, and the types make sure that none is left out:
//!
//! 1. [`staging::Staged`]: a local file that grows. Bytes are hashed while they are written.
//! 2. [`staging::Verified`]: the same file once digest and size are known to be right. Only
//!    [`staging::Staged::finish`] makes one.
//! 3. [`BlobStore::adopt`]: takes a [`staging::Verified`] and makes the blob visible, durably and whole
//!    (for files: sync, rename, sync of the folder; for an object store: an upload).
//!
//! A blob of which the store has parts already comes as an [`assembly::Assembly`], with the same stations, and
//! becomes visible by [`BlobStore::compose`].
//!
//! A staged file is [`Exclusive`]: one at a time writes it.
//!
//! So nothing is ever visible that was not verified. A blob never changes; [`BlobStore::delete`] takes
//! it away, and readers that have it open read on to its end. Who may delete is decided elsewhere
//! ([`crate::gc`]); a store knows nothing of manifests.
//!
//! All implementations pass `conformance`.

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture, stream::BoxStream};
use slipway_image::Digest;
use url::Url;

use crate::error::Result;

pub mod assembly;
#[cfg(test)]
mod conformance;
mod exclusive;
pub mod fs;
pub mod parts;
pub mod quarantine;
pub mod reading;
pub mod s3;
pub mod staging;
mod write_behind;

use assembly::Assembled;
pub use exclusive::Exclusive;
pub use fs::FsStore;
use parts::Pin;
pub use staging::{Staged, Verified};

/// Bytes that a read delivers at once: little enough to be in the processor's own cache still when they are sent.
pub const READ_SIZE: usize = 128 * 1024;

/// Content of a blob, in pieces of at most [`READ_SIZE`].
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// Which part of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// How many, `None` = to the end. Never more than there are.
    pub length: Option<u64>,
}

/// A blob, or part of it, on its way out.
pub struct BlobReader {
    /// Size of the whole blob.
    pub total: u64,
    /// How many bytes `stream` delivers.
    pub length: u64,
    /// The bytes.
    pub stream: BlobStream,
}

/// A blob, its size, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Bytes that it takes where it is stored, without its parts.
    pub disk: u64,
    /// Its parts, and the bytes that each takes. Other blobs may have the same ones.
    pub parts: Vec<(Digest, u64)>,
}

/// Where blobs are kept. See the module's page.
pub trait BlobStore: Send + Sync + 'static {
    /// Size of a blob, `None` when it is not here.
    fn stat<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Opens a blob; [`crate::Error::BlobNotFound`] when it is not here. An offset at or beyond the
    /// end gives an empty stream.
    fn read<'a>(&'a self, digest: &'a Digest, range: Range) -> BoxFuture<'a, Result<BlobReader>>;

    /// Whole content of a small blob; [`crate::Error::TooLarge`] above `limit`.
    fn read_small<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Bytes>>;

    /// Makes verified content visible. Returns false when the blob was here already: then the staged
    /// file is simply dropped.
    fn adopt(&self, verified: Verified) -> BoxFuture<'_, Result<bool>>;

    /// Makes a part of verified content, and takes it in hand.
    fn add_part(&self, verified: Verified) -> BoxFuture<'_, Result<Pin>>;

    /// Takes a part in hand, if it is here.
    fn pin_part<'a>(&'a self, part: &'a Digest) -> BoxFuture<'a, Result<Option<Pin>>>;

    /// Makes a blob of parts visible, as `adopt` does.
    fn compose(&self, assembled: Assembled) -> BoxFuture<'_, Result<bool>>;

    /// Takes a blob away; returns the bytes that became free (0 when it was not here).
    fn delete<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<u64>>;

    /// Size of a blob and what it takes, `None` when it is not here.
    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<BlobInfo>>>;

    /// Moves a blob aside when its content is not what its digest says, or cannot be read: from then on it is not
    /// here, what there is of it is kept, durably ([`quarantine`]). False: it is whole, or not here.
    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool>>;

    /// Bytes of what was moved aside, where that is not a folder of the state.
    fn quarantined(&self) -> BoxFuture<'_, Result<u64>> {
        std::future::ready(Ok(0)).boxed()
    }

    /// Where a client may read a blob by itself for a while, if it is to.
    fn address<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<Option<Url>>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// Removes what processes left that ended in the middle of something, if it is time to look for that.
    fn tidy(&self) -> BoxFuture<'_, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Names of what such processes left, beside files of the state. Removes it, if asked to.
    fn left_overs(&self, _remove: bool) -> BoxFuture<'_, Result<Vec<String>>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    /// All blobs, in no order.
    fn list(&self) -> BoxFuture<'_, Result<Vec<BlobInfo>>>;
}
