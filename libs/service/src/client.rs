//! Connections to services.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{
    Address,
    tls::{TlsFiles, client::Connector},
};

/// A channel that connects when it is first used and again when the service was away.
///
/// Errors only when the address or the certificates cannot be used at all.
pub fn connect(address: &Address, tls: Option<&TlsFiles>) -> Result<Channel, ConnectError> {
    connect_with(address, tls, &Patience::default())
}

/// How long a service may be silent before a connection counts as broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until a connection must be there.
    pub connect: Duration,
    /// Without a word in a call that is open, before the other end is asked whether it is there.
    pub silence: Duration,
    /// Until it has answered that.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            answer: Duration::from_secs(20),
        }
    }
}

impl Patience {
    /// A connection whose other end has gone is noticed within this time.
    pub fn of(limit: Duration) -> Self {
        Self {
            connect: limit.min(Self::default().connect),
            silence: limit / 2,
            answer: limit / 2,
        }
    }
}

/// The same, with another patience.
pub fn connect_with(
    address: &Address,
    tls: Option<&TlsFiles>,
    patience: &Patience,
) -> Result<Channel, ConnectError> {
    match address {
        Address::Unix(path) => {
            let path = path.clone();
            // The name is a placeholder: the connector below decides.
            let endpoint = tune(Endpoint::from_static("http://slipway.sock"), patience);
            Ok(
                endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                })),
            )
        }
        Address::Tcp { host, port } => {
            let authority = match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            };
            // Encrypted or not is the connector's affair.
            let endpoint = tune(
                Endpoint::from_shared(format!("http://{authority}"))?,
                patience,
            );
            let Some(files) = tls else {
                return Ok(endpoint.connect_lazy());
            };
            let connector = Arc::new(Connector::open(files.clone())?);
            let (host, port) = (host.clone(), *port);
            let connect = service_fn(move |_: Uri| {
                let (connector, host) = (Arc::clone(&connector), host.clone());
                async move {
                    let stream = TcpStream::connect((host.as_str(), port)).await?;
                    stream.set_nodelay(true)?;
                    connector.connect(&host, stream).await.map(TokioIo::new)
                }
            });
            Ok(endpoint.connect_with_connector_lazy(connect))
        }
    }
}

fn tune(endpoint: Endpoint, patience: &Patience) -> Endpoint {
    endpoint
        .connect_timeout(patience.connect)
        .initial_stream_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .max_frame_size(crate::MAX_FRAME_SIZE)
        .http2_keep_alive_interval(patience.silence)
        .keep_alive_timeout(patience.answer)
        .tcp_nodelay(true)
}

/// Why there can be no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address or the certificates were refused.
    #[error("cannot use this address: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A certificate file cannot be read.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
}
