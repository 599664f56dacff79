//! What busy moments leave on the heap goes back to the kernel afterwards: the service idles most of its life.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use crate::{container::manager::Manager, sys::heap};

/// How long after something happened.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// Gives memory back after whatever happens. Never ends by itself; asleep while nothing happens.
pub async fn give_back(manager: Manager) {
    let (_, mut happenings) = manager.events().subscribe();
    while !matches!(happenings.recv().await, Err(RecvError::Closed)) {
        tokio::time::sleep(AFTERWARDS).await;
        // What happened meanwhile is seen to with it.
        happenings = happenings.resubscribe();
        // It fails only when the service ends.
        let _ = tokio::task::spawn_blocking(heap::give_back).await;
    }
}
