//! Logs of containers as streams.

use std::sync::Arc;

use slipway_proto::runtime::v1 as pb;
use tonic::Status;

use super::{
    streams::{self, Client},
    view,
};
use crate::{container::state::Container, error::Tried as _, logs};

/// Serves one `Logs` call.
pub async fn serve(
    container: Arc<Container>,
    request: pb::LogsRequest,
    client: Client<pb::LogEntries>,
) -> Result<(), Status> {
    let both = !request.stdout && !request.stderr;
    let selection = logs::Selection {
        stdout: request.stdout || both,
        stderr: request.stderr || both,
        since: request.since.as_ref().map(view::nanoseconds),
        until: request.until.as_ref().map(view::nanoseconds),
    };
    let (offset, skip) = match u64::try_from(request.tail) {
        Ok(lines) if container.log().exists() => {
            let path = container.log();
            tokio::task::spawn_blocking(move || logs::tail(&path, lines, &selection))
                .await
                .map_err(std::io::Error::other)
                .and_then(|r| r)
                .tried(|| format!("cannot read the log of container {}", container.name()))?
        }
        _ => (0, 0),
    };
    if request.follow {
        streams::follow(&container, None, offset, selection, skip, &client, entries).await?;
    } else {
        streams::read_all(&container, offset, selection, skip, &client, entries).await?;
    }
    Ok(())
}

fn entries(pieces: Vec<logs::Piece>) -> Vec<pb::LogEntries> {
    let entries = pieces
        .into_iter()
        .map(|piece| pb::log_entries::Entry {
            time: view::time(piece.time),
            stream: view::stream(piece.stream).into(),
            data: piece.data.into(),
        })
        .collect();
    vec![pb::LogEntries { entries }]
}
