//! What happens to a container's output besides being read: handed on to its driver, packed.

use std::{sync::Arc, sync::LazyLock, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};

use super::state::Container;
use crate::logs::{find, pack, sink};

/// How long the end of a container waits for its driver at most. What it does not take by then it takes
/// when the log is next looked at.
const LAST: Duration = Duration::from_secs(10);
/// After a driver took nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// Hands output on as it comes, until what is returned is dropped.
pub fn begin(container: &Arc<Container>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if !container
        .logging()
        .is_ok_and(|logging| sink::has(logging.driver))
    {
        return tasks;
    }
    container.sink.begin(&container.holds);
    let container = container.clone();
    tasks.spawn(async move {
        let mut length = container.log_length.subscribe();
        length.mark_changed();
        while length.changed().await.is_ok() {
            while let Err(error) = drain(&container, false).await {
                tracing::warn!(container = container.id, %error, "its log driver takes nothing");
                tokio::time::sleep(AGAIN).await;
            }
        }
    });
    tasks
}

async fn drain(container: &Arc<Container>, last: bool) -> std::io::Result<()> {
    let container = container.clone();
    tokio::task::spawn_blocking(move || container.drain_log(last))
        .await
        .map_err(std::io::Error::other)?
}

/// All output is there: the driver gets the rest.
pub async fn finish(container: &Arc<Container>) {
    // A few system calls upon what was just written.
    if let Ok(length) = find::end(&container.folder) {
        container.log_length.send_replace(length);
    }
    if !container.logging().is_ok_and(|l| sink::has(l.driver)) {
        return container.sink.close();
    }
    match tokio::time::timeout(LAST, drain(container, true)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(container = container.id, %error, "its log driver did not take the end of its output");
        }
        Err(_) => {
            tracing::warn!(
                container = container.id,
                "its log driver does not take the end of its output"
            );
            // It waits for the driver, too; nobody else has to.
            let container = container.clone();
            drop(tokio::task::spawn_blocking(move || container.sink.close()));
            return;
        }
    }
    container.sink.close();
}

/// Packs the complete parts of a log, one container at a time: that takes some memory.
pub fn pack(container: &Arc<Container>) {
    static TURN: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));
    if !container.logging().is_ok_and(|logging| logging.compress) {
        return;
    }
    let folder = container.folder.clone();
    tokio::spawn(async move {
        let Ok(turn) = TURN.clone().acquire_owned().await else {
            return;
        };
        let packed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            pack::pack_all(&folder)
        });
        match packed.await {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "a log could not be packed");
            }
            // Removed meanwhile is fine.
            _ => {}
        }
    });
}
