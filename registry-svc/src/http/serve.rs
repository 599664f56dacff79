//! Listeners and their connections: TLS, limits, and the way to the end.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use http::{HeaderMap, Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use slipway_service::tls::subject::Subject;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    answer,
    auth::Peer,
    connections::{Connections, Place},
    limits::{self, Limits},
    proxies::Proxies,
    tls::Tls,
    traffic::Ended,
};
use crate::{access::Access, registry::Registry};

/// How long a connection that is to end may take for it.
const FAREWELL: Duration = Duration::from_secs(4);

/// A listener that may not be opened, or could not be.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Anybody could come off loopback.
    #[error(
        "refusing to serve http on {0}: whoever reaches it could read, push and delete images; say \
         [http_tls] and [[access]] in registry.toml, or --allow-plain-http if that network is trusted"
    )]
    Open(SocketAddr),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Binds a listener of the API. Off loopback it must be `guarded`, by TLS and a policy, or allowed to be `open`.
pub async fn bind(
    address: SocketAddr,
    guarded: bool,
    open: bool,
) -> Result<TcpListener, ListenError> {
    if !address.ip().to_canonical().is_loopback() && !guarded && !open {
        return Err(ListenError::Open(address));
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Bind { address, source })
}

/// What is between the network and the API, the same for all listeners.
#[derive(Default)]
pub struct Front {
    pub(super) access: Option<Arc<Access>>,
    tls: Option<Tls>,
    pub(super) limits: Limits,
    connections: Arc<Connections>,
    proxies: Proxies,
}

impl Front {
    /// Without `access` everybody may do everything; with `tls` nothing else is spoken.
    pub fn new(access: Option<Arc<Access>>, tls: Option<Tls>, limits: Limits) -> Self {
        Self {
            access,
            tls,
            limits,
            connections: Arc::default(),
            proxies: Proxies::default(),
        }
    }

    /// Believes these who it is that they speak for.
    pub fn trusting(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// Who is at the other end of a connection, or of that of a proxy in front.
    pub(super) fn behind(&self, peer: &Peer, headers: &HeaderMap) -> Peer {
        let from = self.proxies.client(peer.address.ip(), headers);
        Peer {
            address: SocketAddr::new(from, peer.address.port()),
            ..peer.clone()
        }
    }
}

/// Serves until `stop`, then lets requests end.
pub async fn serve(
    registry: Arc<Registry>,
    listener: TcpListener,
    front: Arc<Front>,
    stop: CancellationToken,
) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, tls = front.tls.is_some(), policy = front.access.is_some(), "serving the distribution api");
    }
    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors: better to wait for one than to spin.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(place) = front.connections.admit(peer.ip(), &front.limits) else {
            debug!(%peer, "too many connections");
            continue;
        };
        let served = Served {
            registry: Arc::clone(&registry),
            front: Arc::clone(&front),
            place,
            stop: stop.clone(),
        };
        connections.spawn(served.run(stream, peer));
    }
    connections.close();
    // Whoever is in the middle of something gets a moment, and is cut off after it.
    let _ = tokio::time::timeout(FAREWELL, connections.wait()).await;
}

/// One connection.
struct Served {
    registry: Arc<Registry>,
    front: Arc<Front>,
    place: Place,
    stop: CancellationToken,
}

impl Served {
    async fn run(self, stream: TcpStream, address: SocketAddr) {
        // Answers are written whole; delaying the last segment helps nobody. Failing is harmless.
        let _ = stream.set_nodelay(true);
        let mut peer = Peer {
            address,
            certificate: None,
            secure: false,
        };
        let Some(tls) = &self.front.tls else {
            return self.talk(stream, peer).await;
        };
        let shaken = tokio::select! {
            shaken = tls.acceptor().accept(stream) => shaken,
            () = self.place.traffic.cut.cancelled() => return,
            () = self.stop.cancelled() => return,
            () = tokio::time::sleep(self.front.limits.head) => return,
        };
        match shaken {
            Err(error) => debug!(%error, %address, "no tls"),
            Ok(mut stream) => {
                peer.secure = true;
                let ahead = limits::ENCRYPTED.beside(self.place.others);
                stream.get_mut().1.set_buffer_limit(Some(ahead));
                let shown = stream.get_ref().1.peer_certificates();
                peer.certificate = shown.and_then(|chain| Subject::of(chain.first()?)?.name);
                self.talk(stream, peer).await;
            }
        }
    }

    async fn talk(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let address = peer.address;
        let (server, peer) = (self.server(), Arc::new(peer));
        let (registry, front) = (&self.registry, &self.front);
        let traffic = &self.place.traffic;
        let service = service_fn(move |request: Request<Incoming>| {
            let (registry, front) = (Arc::clone(registry), Arc::clone(front));
            let (traffic, peer) = (Arc::clone(traffic), Arc::clone(&peer));
            async move { Ok::<_, Infallible>(answer(&registry, &front, &traffic, &peer, request).await) }
        });
        let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
        let limits = &self.front.limits;
        let mut watch = std::pin::pin!(traffic.watch(limits));
        let mut old = std::pin::pin!(tokio::time::sleep(limits.age).fuse());
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break Some(ended),
                ended = &mut watch => {
                    debug!(?ended, peer = %address, "the connection is ended");
                    if ended == Ended::Slow {
                        return;
                    }
                    break None;
                }
                () = &mut old => {
                    // What is under way is finished, however long it takes.
                    connection.as_mut().graceful_shutdown();
                }
                () = traffic.cut.cancelled() => return,
                () = self.stop.cancelled() => break None,
            }
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                // What is under way is finished, for a while, and nothing else begun.
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(FAREWELL, connection)
                    .await
                    .unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            debug!(%error, peer = %address, "the connection ended");
        }
    }

    fn server(&self) -> auto::Builder<TokioExecutor> {
        let (limits, others) = (&self.front.limits, self.place.others);
        let window = u32::try_from(limits::WINDOW.beside(others)).expect("at most a megabyte");
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(limits::HEAD.beside(others))
            .writev(true);
        server
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .max_header_list_size(limits::HEADERS)
            .max_send_buf_size(limits::SEND_BUFFER)
            .max_pending_accept_reset_streams(limits::RESETS)
            .max_local_error_reset_streams(limits::RESETS);
        server
    }
}
