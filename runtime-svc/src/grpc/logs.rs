//! Logs of containers as streams.

use std::sync::Arc;

use slipway_proto::runtime::v1 as pb;
use tonic::Status;

use super::{
    follow::{self, Form, Reading},
    streams::{self, Client},
    view,
};
use crate::{
    container::state::Container,
    error::{Error, Tried as _},
    logs::{
        Piece, Selection, attributes,
        config::Driver,
        find::{self, Start},
        sink::json_read::History,
    },
};

/// Serves one `Logs` call.
pub async fn serve(
    container: Arc<Container>,
    request: pb::LogsRequest,
    client: Client<pb::LogEntries>,
) -> Result<(), Status> {
    let both = !request.stdout && !request.stderr;
    let selection = Selection {
        stdout: request.stdout || both,
        stderr: request.stderr || both,
        since: request.since.as_ref().map(view::nanoseconds),
        until: request.until.as_ref().map(view::nanoseconds),
    };
    let opening = Arc::clone(&container.opening).read_owned().await;
    let attributes = attributes::of(&container.record());
    if !attributes.is_empty() {
        let first = pb::LogEntries {
            attributes: attributes.into_iter().collect(),
            ..pb::LogEntries::default()
        };
        streams::send(&client, first).await;
    }
    let at = container.clone();
    let lines = u64::try_from(request.tail).ok();
    let begun = streams::blocking(move || begin(&at, lines, &selection)).await?;
    let reading = Reading {
        selection,
        opening: Some(opening),
        follow: request.follow,
        ..begun
    };
    let form = Form {
        pieces: entries,
        lost: |lost| {
            Ok(pb::LogEntries {
                lost,
                ..pb::LogEntries::default()
            })
        },
    };
    follow::follow(&container, reading, &client, form).await?;
    Ok(())
}

/// Where to begin. As docker: the last lines of all, and of those what is of the time.
fn begin(
    container: &Container,
    lines: Option<u64>,
    selection: &Selection,
) -> Result<Reading, Error> {
    let what = || format!("cannot read the log of container {}", container.name());
    let folder = &container.folder;
    let logging = container.logging()?;
    if logging.driver == Driver::JsonFile {
        let record = container.record();
        let begin = |drained: crate::logs::sink::Drained| {
            Ok(Reading {
                history: Some(History::open(folder, &record.id, lines)?),
                begun: drained.begun,
                from: Start {
                    position: drained.position,
                    ..Start::default()
                },
                ..Reading::default()
            })
        };
        return container
            .sink
            .drain_and(&record, folder, &logging, false, begin)
            .tried(what);
    }
    let from = match (lines, selection.since) {
        (Some(lines), _) => find::tail(folder, lines).tried(what)?,
        (None, Some(since)) => Start {
            position: find::since(folder, since).tried(what)?,
            ..Start::default()
        },
        // The oldest there is, which is no loss.
        (None, None) => Start {
            position: find::since(folder, 0).tried(what)?,
            ..Start::default()
        },
    };
    Ok(Reading {
        from,
        ..Reading::default()
    })
}

fn entries(pieces: Vec<Piece>) -> Vec<pb::LogEntries> {
    let entries: Vec<_> = pieces
        .into_iter()
        .map(|piece| pb::log_entries::Entry {
            time: view::time(piece.time),
            stream: view::stream(piece.stream).into(),
            data: piece.data.into(),
        })
        .collect();
    if entries.is_empty() {
        return Vec::new();
    }
    vec![pb::LogEntries {
        entries,
        ..pb::LogEntries::default()
    }]
}
