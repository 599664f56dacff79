//! A relay for tcp inside netd, no process a port, where the kernel cannot translate: there is no `route_localnet` for
//! IPv6, so that the answer to a client on the host's own `::1` would be dropped, and no way from IPv6 to a container
//! that has IPv4 only.
//!
//! The container sees the bridge's gateway as the client; that is why a container with IPv6 is led to by it from the
//! host's own loopback only, and one without from nowhere else unless it was asked for.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// Connections at once over one published port; further ones wait in the listener's backlog.
const CONNECTIONS: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom a relay serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Everybody who can connect.
    All,
    /// Those on the host's loopback.
    OnThisHost,
}

/// A running relay; dropping it ends it and its connections.
#[derive(Debug)]
pub struct Relay {
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens and relays to the first of the addresses that takes the connection; the error is the kernel's. On all
    /// addresses it may serve the clients on this host alone: others, whom the kernel leads, never get to it.
    pub fn start(
        runtime: &Handle,
        address: Ipv6Addr,
        port: u16,
        to: Vec<SocketAddr>,
        clients: Clients,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((address, port)).into())?;
        socket.listen(128)?;
        let _guard = runtime.enter();
        let listener = TcpListener::from_std(socket.into())?;
        Ok(Self {
            task: runtime.spawn(accept(listener, to.into(), clients)),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: Arc<[SocketAddr]>, clients: Clients) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropped with the task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((_, client)) if clients == Clients::OnThisHost && !client.ip().is_loopback() => {}
            Ok((client, _)) => {
                let to = Arc::clone(&to);
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = relay(client, &to).await {
                        tracing::debug!(%error, "a relayed connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to relay");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(mut client: TcpStream, to: &[SocketAddr]) -> io::Result<()> {
    let mut server = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to))
        .await
        .map_err(io::Error::from)??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
