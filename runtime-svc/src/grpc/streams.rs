//! Output to clients and input from them, for run and attach alike.

use std::sync::Arc;

use slipway_proto::runtime::v1::{
    CopyChunk, Exited, Stream, StreamInput, StreamOutput, stream_input::Input,
};
use tokio::sync::{OwnedRwLockReadGuard, mpsc};
use tonic::Status;

use super::view;
use crate::{
    container::{
        manager::Manager,
        state::{Container, Status as State},
    },
    error::{Error, Tried as _},
    logs::{LogReader, Piece, Selection},
    monitor::{
        client::{self, Connection},
        protocol::Request,
    },
};

/// Where events for a client go.
pub type Client<T> = mpsc::Sender<Result<T, Status>>;

/// Follows a container's log from `offset` and hands pieces on until the container has ended and all
/// was read; returns how it ended. Reads happen on the blocking pool, a batch at a time. `opening` keeps
/// the log where it is until it is open: from then on removal does it no harm.
pub async fn follow<T: Send>(
    container: &Arc<Container>,
    mut opening: Option<OwnedRwLockReadGuard<()>>,
    offset: u64,
    selection: Selection,
    mut skip: usize,
    client: &Client<T>,
    events: fn(Vec<Piece>) -> Vec<T>,
) -> Result<Exited, Error> {
    let mut status = container.watch();
    let mut length = container.log_length.subscribe();
    let mut reader = None;
    loop {
        // Read before looking at the log: what ended before has written everything.
        let ended = !matches!(*status.borrow_and_update(), State::Running { .. });
        length.mark_unchanged();
        loop {
            let path = container.log();
            let (back, pieces) =
                tokio::task::spawn_blocking(move || read_batch(reader, &path, offset))
                    .await
                    .map_err(std::io::Error::other)
                    .and_then(|r| r)
                    .tried(|| format!("cannot read the log of container {}", container.name()))?;
            reader = back;
            if reader.is_some() {
                drop(opening.take());
            }
            if pieces.is_empty() {
                break;
            }
            let mut wanted: Vec<Piece> =
                pieces.into_iter().filter(|p| selection.takes(p)).collect();
            if let Some(first) = wanted.first_mut() {
                first.data.drain(..skip.min(first.data.len()));
                skip = 0;
                if !hand_on(client, events(wanted)).await {
                    return Ok(Exited::default());
                }
            }
        }
        if ended {
            return Ok(match container.status() {
                State::Exited { record, error } | State::Restarting { record, error, .. } => {
                    view::exited(&record, &error)
                }
                _ => removed(container),
            });
        }
        tokio::select! {
            changed = length.changed() => drop(changed),
            changed = status.changed() => drop(changed),
            // Nobody reads: what is silent must not be followed for ever.
            () = client.closed() => return Ok(Exited::default()),
        }
    }
}

/// Hands on what a log holds now.
pub async fn read_all<T: Send>(
    container: &Arc<Container>,
    offset: u64,
    selection: Selection,
    mut skip: usize,
    client: &Client<T>,
    events: fn(Vec<Piece>) -> Vec<T>,
) -> Result<(), Error> {
    let mut reader = None;
    loop {
        let path = container.log();
        let (back, pieces) = tokio::task::spawn_blocking(move || read_batch(reader, &path, offset))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .tried(|| format!("cannot read the log of container {}", container.name()))?;
        reader = back;
        if pieces.is_empty() {
            return Ok(());
        }
        let mut wanted: Vec<Piece> = pieces.into_iter().filter(|p| selection.takes(p)).collect();
        if let Some(first) = wanted.first_mut() {
            first.data.drain(..skip.min(first.data.len()));
            skip = 0;
            if !hand_on(client, events(wanted)).await {
                return Ok(());
            }
        }
    }
}

fn removed(container: &Container) -> Exited {
    Exited {
        exit_code: container.last_exit_code(),
        ..Exited::default()
    }
}

/// Bytes that are handed on at once.
const BATCH: usize = 256 * 1024;

fn read_batch(
    reader: Option<LogReader>,
    path: &std::path::Path,
    offset: u64,
) -> std::io::Result<(Option<LogReader>, Vec<Piece>)> {
    let mut reader = match reader {
        Some(reader) => reader,
        None => match LogReader::open(path, offset) {
            Ok(reader) => reader,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((None, Vec::new())),
            Err(e) => return Err(e),
        },
    };
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH {
        let Some(piece) = reader.next_piece()? else {
            break;
        };
        bytes += piece.data.len();
        pieces.push(piece);
    }
    Ok((Some(reader), pieces))
}

/// A piece as a message.
pub fn output(piece: Piece) -> StreamOutput {
    StreamOutput {
        stream: view::stream(piece.stream).into(),
        data: piece.data.into(),
    }
}

/// Which output streams are asked for; none named = both.
pub fn selection(streams: &[i32]) -> Selection {
    let has = |stream: Stream| streams.is_empty() || streams.contains(&stream.into());
    Selection {
        stdout: has(Stream::Stdout),
        stderr: has(Stream::Stderr),
        ..Selection::default()
    }
}

/// Passes a client's input on until it has no more or the container has ended. With `once`, standard
/// input ends with it.
pub async fn feed(
    manager: &Manager,
    container: &Container,
    mut inputs: mpsc::Receiver<StreamInput>,
    once: bool,
) -> Result<(), Error> {
    let what = || format!("cannot reach the monitor of container {}", container.name());
    let Ok(connection) = Connection::open(&container.socket()) else {
        return Ok(());
    };
    let attach = Request::Attach {
        stdin: true,
        stdin_once: once,
    };
    // What the monitor tells on this connection is read and thrown away, so that its queue stays empty.
    let listen = async { while let Ok(Some(_)) = connection.next().await {} };
    let talk = async {
        connection.request(&attach, &[]).await?;
        while let Some(input) = inputs.recv().await {
            match input.input {
                Some(Input::Stdin(bytes)) => connection.stdin(&bytes).await?,
                Some(Input::StdinClose(_)) => connection.end_stdin().await?,
                Some(Input::Resize(size)) => {
                    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                    let request = Request::Resize {
                        rows: clamp(size.rows),
                        columns: clamp(size.columns),
                    };
                    connection.request(&request, &[]).await?;
                    let more = [
                        ("height", size.rows.to_string()),
                        ("width", size.columns.to_string()),
                    ];
                    manager.tell(container, "resize", &more);
                }
                Some(Input::Signal(name)) => {
                    // A signal to what has just ended is not worth an error.
                    let _ = manager.kill(container, &name).await;
                }
                None => {}
            }
        }
        Ok(())
    };
    let done = tokio::select! {
        () = listen => Ok(()),
        done = talk => done,
    };
    match done {
        // How it ended is told by its output's end.
        Err(e) if client::is_gone(&e) => Ok(()),
        done => done.tried(what),
    }
}

async fn hand_on<T>(client: &Client<T>, events: Vec<T>) -> bool {
    for event in events {
        if !send(client, event).await {
            return false;
        }
    }
    true
}

/// Sends to a client; false when it is gone.
pub async fn send<T>(client: &Client<T>, event: T) -> bool {
    client.send(Ok(event)).await.is_ok()
}

/// Runs what blocks on the pool for that.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)
        .tried(|| "interrupted".to_owned())?
}

/// A blocking writer into a call's answer.
pub struct CopyWriter(pub mpsc::Sender<Result<CopyChunk, Status>>);

impl std::io::Write for CopyWriter {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = buffer.len().min(slipway_service::CHUNK_SIZE);
        let chunk = CopyChunk {
            data: bytes::Bytes::copy_from_slice(&buffer[..n]),
            stat: None,
        };
        self.0.blocking_send(Ok(chunk)).map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the caller is gone")
        })?;
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
