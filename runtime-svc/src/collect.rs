//! When unpacked layers are looked at for what can go: after an image was removed, after the last
//! container of such an image was, when there is too little room, and now and then.
//!
//! Whoever wants to know what images need asks registry-svc. While that does not answer nothing goes, since
//! what was taken could not be fetched again.

use std::{collections::HashSet, io, time::Duration};

use slipway_image::Digest;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::StreamExt as _;

use crate::{
    container::{manager::Manager, state::Container},
    disk::{self, Room},
    error::{Error, Remote, Tried as _},
    layers::{Collected, Reach},
};

/// How often without any reason.
const NOW_AND_THEN: Duration = Duration::from_secs(20 * 60);
/// How often the room is looked at.
const ROOM: Duration = Duration::from_secs(60);
/// Between attempts to listen to a registry-svc that is away.
const RETRY: Duration = Duration::from_secs(10);
/// How long registry-svc has for telling what its images need.
const ANSWER: Duration = Duration::from_secs(10);

/// How much room unpacked layers may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all together.
    pub bytes: Option<u64>,
    /// What has to stay free on their file system.
    pub free: Option<Free>,
}

/// Room that has to stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Free {
    /// Bytes.
    Bytes(u64),
    /// Of the file system's size.
    Percent(u8),
}

impl Limits {
    /// Bytes that have to go.
    fn excess(self, layers: u64, room: Room) -> u64 {
        let wanted = match self.free {
            None => 0,
            Some(Free::Bytes(bytes)) => bytes,
            Some(Free::Percent(percent)) => room.total / 100 * u64::from(percent),
        };
        let too_many = self.bytes.map_or(0, |most| layers.saturating_sub(most));
        too_many.max(wanted.saturating_sub(room.free))
    }
}

/// Takes away what is needless, or with `all` everything that is not in use.
pub async fn collect(manager: &Manager, all: bool) -> Result<Collected, Error> {
    let reach = if all {
        Reach::All
    } else {
        Reach::Needless(images(manager).await?)
    };
    take(manager, reach).await
}

async fn images(manager: &Manager) -> Result<HashSet<Digest>, Error> {
    let asking = manager.registry().layers_of_images();
    let answer = tokio::time::timeout(ANSWER, asking).await;
    answer.unwrap_or_else(|_| {
        let seconds = ANSWER.as_secs();
        let sentence =
            format!("registry-svc did not answer within {seconds} seconds: nothing was removed");
        Err(Error::Registry(Box::new(Remote::away(sentence))))
    })
}

async fn take(manager: &Manager, reach: Reach) -> Result<Collected, Error> {
    // Nobody knows which layers they need.
    if !manager.unreadable().is_empty() {
        return Ok(Collected::default());
    }
    let manager = manager.clone();
    tokio::task::spawn_blocking(move || manager.layers().collect(&reach, || in_use(&manager)))
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| "cannot take unpacked layers away".to_owned())
}

/// Layers of all containers.
pub fn in_use(manager: &Manager) -> HashSet<Digest> {
    manager.all().iter().flat_map(|c| layers_of(c)).collect()
}

/// Layers of a container, each once.
pub fn layers_of(container: &Container) -> HashSet<Digest> {
    let record = container.record();
    let mounted = record.image_mounts.into_values().flatten();
    let all = record.layers.into_iter().chain(mounted);
    all.filter_map(|layer| layer.parse().ok()).collect()
}

/// Collects until the service stops.
pub async fn run(manager: Manager) {
    let mut ticks = tokio::time::interval(NOW_AND_THEN);
    let mut happenings = manager.events().subscribe().1;
    loop {
        let listening = tokio::time::timeout(ANSWER, manager.registry().removals()).await;
        let mut removals = match listening {
            Ok(Ok(removals)) => removals,
            Ok(Err(error)) => {
                tracing::debug!(%error, "not listening to registry-svc");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(_) => continue,
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
                    tell(&done, "needless layers removed");
                }
                Err(error) => tracing::warn!(%error, "needless layers stay"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn tell(done: &Collected, what: &str) {
    if !done.layers.is_empty() {
        let (layers, bytes) = (done.layers.len(), done.bytes);
        tracing::info!(layers, bytes, "{what}");
    }
}

/// Keeps room, and notes how large new layers are, until the service stops.
pub async fn keep_room(manager: Manager, limits: Limits) {
    let mut ticks = tokio::time::interval(ROOM);
    let arrived = manager.layers().arrived.clone();
    // Nothing is measured while everything starts.
    ticks.tick().await;
    loop {
        let new = tokio::select! {
            _ = ticks.tick() => false,
            () = arrived.notified() => true,
        };
        // Who has just fetched a layer is about to start something: that comes first.
        if new && limits == Limits::default() {
            continue;
        }
        if let Err(error) = make_room(&manager, limits).await {
            tracing::warn!(%error, "layers that take too much room stay");
        }
    }
}

async fn make_room(manager: &Manager, limits: Limits) -> Result<(), Error> {
    let what = || "cannot measure unpacked layers".to_owned();
    let layers = manager.layers().clone();
    let excess = disk::measure(move || {
        layers.measure_new()?;
        let mut sum = 0;
        for present in layers.list()?.layers {
            sum += layers.bytes_of(&present.layer)?;
        }
        Ok(limits.excess(sum, disk::room(layers.folder())?))
    });
    let bytes = excess.await.tried(what)?;
    if bytes == 0 {
        return Ok(());
    }
    let images = images(manager).await?;
    let done = take(manager, Reach::Room { images, bytes }).await?;
    tell(&done, "layers removed to make room");
    if done.bytes < bytes {
        let missing = bytes - done.bytes;
        tracing::warn!(
            missing,
            "everything else is in use: there is less room than wanted"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_has_to_go() {
        let room = Room {
            total: 1000,
            free: 100,
        };
        let excess = |bytes, free| Limits { bytes, free }.excess(500, room);
        assert_eq!(excess(None, None), 0);
        assert_eq!(excess(Some(500), None), 0);
        assert_eq!(excess(Some(200), None), 300);
        assert_eq!(excess(None, Some(Free::Bytes(150))), 50);
        assert_eq!(excess(None, Some(Free::Percent(10))), 0);
        assert_eq!(excess(None, Some(Free::Percent(30))), 200);
        assert_eq!(excess(Some(200), Some(Free::Percent(30))), 300);
    }
}
