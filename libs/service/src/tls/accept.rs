//! Handshakes of a listener: several at once, none for long.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tracing::{debug, info};

use super::server::Acceptor;
use crate::connection::Connection;

/// How long a client has for its handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes under way; for one more the oldest is broken off. One that is meant takes milliseconds, so who
/// opens connections and says nothing keeps nobody else out.
const AT_ONCE: usize = 256;

/// How long what a client still sends is taken after its certificate was refused, and how much of it: a
/// connection that is closed before is reset, and the client may not read why.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 64 << 10);

/// The connections of a listener whose handshake went well. Ends with what it returns.
pub fn incoming(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
) -> impl Stream<Item = io::Result<Connection>> {
    let (give, taken) = mpsc::channel(16);
    tokio::spawn(async move {
        tokio::select! {
            () = give.closed() => {}
            () = accept(listener, acceptor, give.clone()) => {}
        }
    });
    ReceiverStream::new(taken)
}

async fn accept(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    give: mpsc::Sender<io::Result<Connection>>,
) {
    let mut under_way = Handshakes::default();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or who came has gone again: better to wait than to spin.
                debug!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, give) = (Arc::clone(&acceptor), give.clone());
        let handshake = tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, shake(stream, acceptor)).await {
                Ok(Ok(connection)) => {
                    // Nobody takes it when the service ends.
                    let _ = give.send(Ok(connection)).await;
                }
                Ok(Err(error)) => info!(%address, %error, "refused a connection"),
                Err(_) => info!(%address, "a TLS handshake took too long"),
            }
        });
        under_way.push(handshake.abort_handle(), AT_ONCE);
    }
}

async fn shake(stream: TcpStream, acceptor: Arc<Acceptor>) -> io::Result<Connection> {
    // The call's first message is to go at once.
    stream.set_nodelay(true)?;
    let address = stream.peer_addr()?;
    match acceptor.now().accept(stream).into_fallible().await {
        Ok(stream) => Ok(Connection::encrypted(stream, address, acceptor)),
        Err((error, mut stream)) => {
            let (time, bytes) = LINGER;
            let read = async {
                // It may be gone already.
                let _ = stream.shutdown().await;
                let _ = tokio::io::copy(&mut stream.take(bytes), &mut tokio::io::sink()).await;
            };
            let _ = tokio::time::timeout(time, read).await;
            Err(error)
        }
    }
}

#[derive(Default)]
struct Handshakes(VecDeque<AbortHandle>);

impl Handshakes {
    /// One more, and the oldest of more than `most` no longer. What has ended does not count.
    fn push(&mut self, handshake: AbortHandle, most: usize) {
        if self.0.len() >= most {
            self.0.retain(|one| !one.is_finished());
        }
        if self.0.len() >= most
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(handshake);
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_breaks_off_the_oldest() {
        let mut under_way = Handshakes::default();
        let mut tasks: Vec<_> = (0..3)
            .map(|_| tokio::spawn(std::future::pending::<()>()))
            .collect();
        for task in &tasks {
            under_way.push(task.abort_handle(), 2);
        }
        assert!(tasks.remove(0).await.unwrap_err().is_cancelled());
        assert!(tasks.iter().all(|task| !task.is_finished()));
        drop(under_way);
        for task in tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
    }
}
