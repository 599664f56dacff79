//! Output to clients and input from them, for run and attach alike.

use slipway_proto::runtime::v1::{
    CopyChunk, Stream, StreamInput, StreamOutput, stream_input::Input,
};
use tokio::sync::mpsc;
use tonic::Status;

use super::view;
use crate::{
    container::{manager::Manager, state::Container},
    error::{Error, Tried as _},
    logs::{Piece, Selection},
    monitor::{
        client::{self, Connection},
        protocol::{Event, Request},
    },
};

/// Where events for a client go.
pub type Client<T> = mpsc::Sender<Result<T, Status>>;

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
    let connection = match Connection::open(&container.socket()) {
        // It has ended: how is told by its output's end.
        Err(e) if client::is_none(&e) => return Ok(()),
        opened => opened.tried(what)?,
    };
    let attach = Request::Attach {
        stdin: true,
        stdin_once: once,
    };
    // What the monitor tells on this connection is read, so that its queue stays empty. It hangs up when
    // the container ends, and on whom it does not want.
    let listen = async {
        let mut refused = None;
        loop {
            match connection.next().await {
                Ok(Some((Event::Refused(why), _))) => refused = Some(why),
                Ok(Some(_)) => refused = None,
                Ok(None) | Err(_) => break,
            }
        }
        refused.map_or(Ok(()), |why| Err(std::io::Error::other(why)))
    };
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
        done = listen => done,
        done = talk => done,
    };
    match done {
        // How it ended is told by its output's end.
        Err(e) if client::is_gone(&e) => Ok(()),
        done => done.tried(what),
    }
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
