//! What is on disk: measuring trees without being in anybody's way, and taking them away.

mod broom;

pub use broom::{Broom, Swept};

use std::io;

pub use slipway_image::layer::remove::remove_tree;
pub use slipway_service::disk::{Room, of_folder, room, usage};
use tokio::sync::Semaphore;

/// Trees that are measured at once: counting files for somebody who is curious must not keep the disk from
/// those who work.
const AT_ONCE: usize = 2;
static SLOTS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Does what walks trees on the pool for that, with a bound on how many do.
pub async fn measure<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // The semaphore is never closed.
    let _slot = SLOTS.acquire().await.ok();
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
