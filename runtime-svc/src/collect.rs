//! When unpacked layers are looked at for what can go: after an image was removed, after the last
//! container of such an image was, and now and then.

use std::{collections::HashSet, time::Duration};

use slipway_image::Digest;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::StreamExt as _;

use crate::{
    container::manager::Manager,
    error::{Error, Tried as _},
    layers::{Collected, Reach},
};

/// How often without any reason.
const NOW_AND_THEN: Duration = Duration::from_secs(20 * 60);
/// Between attempts to listen to a registry-svc that is away.
const RETRY: Duration = Duration::from_secs(10);

/// Takes away what is needless, or with `all` everything that is not in use.
pub async fn collect(manager: &Manager, all: bool) -> Result<Collected, Error> {
    // Nobody knows which layers they need.
    if !manager.unreadable().is_empty() {
        return Ok(Collected::default());
    }
    let reach = if all {
        Reach::All
    } else {
        Reach::Needless(manager.registry().layers_of_images().await?)
    };
    let manager = manager.clone();
    tokio::task::spawn_blocking(move || manager.layers().collect(&reach, || in_use(&manager)))
        .await
        .map_err(std::io::Error::other)
        .and_then(|r| r)
        .tried(|| "cannot take unpacked layers away".to_owned())
}

/// Layers of all containers.
pub fn in_use(manager: &Manager) -> HashSet<Digest> {
    manager
        .all()
        .iter()
        .flat_map(|c| {
            let record = c.record();
            let mounted = record.image_mounts.into_values().flatten();
            record.layers.into_iter().chain(mounted)
        })
        .filter_map(|layer| layer.parse().ok())
        .collect()
}

/// Collects until the service stops.
pub async fn run(manager: Manager) {
    let mut ticks = tokio::time::interval(NOW_AND_THEN);
    let mut happenings = manager.events().subscribe().1;
    loop {
        let mut removals = match manager.registry().removals().await {
            Ok(removals) => removals,
            Err(error) => {
                tracing::debug!(%error, "not listening to registry-svc");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        // What happened while nobody listened is seen by the first look.
        ticks.reset_immediately();
        // Layers of a removed image that wait for their last container.
        let mut waiting = false;
        loop {
            let look = tokio::select! {
                _ = ticks.tick() => true,
                removed = removals.next() => match removed {
                    Some(()) => true,
                    None => break,
                },
                happened = happenings.recv() => match happened {
                    Ok(happening) => waiting && happening.action == "destroy",
                    Err(RecvError::Lagged(_)) => waiting,
                    // The manager lives as long as we hold it.
                    Err(RecvError::Closed) => return,
                },
            };
            if !look {
                continue;
            }
            match collect(&manager, false).await {
                Ok(done) => {
                    waiting = done.in_use > 0;
                    if done.layers > 0 {
                        let (layers, bytes) = (done.layers, done.bytes);
                        tracing::info!(layers, bytes, "needless layers removed");
                    }
                }
                Err(error) => tracing::warn!(%error, "needless layers stay"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
