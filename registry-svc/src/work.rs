//! Work that must come to its end although whoever asked for it is gone.

use std::future::Future;

use crate::error::{Error, Result};

/// Runs something that takes several steps, each of which must be followed by the next: a request that is cut off
/// leaves it to itself, it does not leave it half done.
pub async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(Error::Stopping),
    }
}
