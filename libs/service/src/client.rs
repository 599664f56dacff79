//! Connections to services.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Address, tls::TlsFiles};

/// A channel that connects when it is first used and again when the service was away.
///
/// Errors only when the address or the certificates cannot be used at all.
pub fn connect(address: &Address, tls: Option<&TlsFiles>) -> Result<Channel, ConnectError> {
    match address {
        Address::Unix(path) => {
            let path = path.clone();
            // The name is a placeholder: the connector below decides.
            let endpoint = tune(Endpoint::from_static("http://slipway.sock"));
            Ok(
                endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                })),
            )
        }
        Address::Tcp { host, port } => {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            let scheme = if tls.is_some() { "https" } else { "http" };
            let endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"))?;
            let endpoint = match tls {
                Some(files) => endpoint.tls_config(files.client()?)?,
                None => endpoint,
            };
            Ok(tune(endpoint).connect_lazy())
        }
    }
}

fn tune(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(10))
        .initial_stream_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
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
