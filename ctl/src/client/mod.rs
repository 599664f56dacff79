//! Connections to the services of a context, made when a command first needs them.

use std::{fmt, io, time::Duration};

use hyper_util::rt::TokioIo;
use slipway_proto::{
    builder::v1::builder_client::BuilderClient,
    netd::v1::network_client::NetworkClient,
    registry::v1::{registry_client::RegistryClient, upkeep_client::UpkeepClient},
    runtime::v1::{
        containers_client::ContainersClient, host_client::HostClient, volumes_client::VolumesClient,
    },
};
use slipway_service::{
    Address, MAX_MESSAGE_SIZE,
    tls::{
        TlsFiles,
        client::{Connector, TROUBLE},
    },
};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::context::Context;

/// A service did not answer the door.
#[derive(Debug, thiserror::Error)]
pub struct Unreachable {
    program: &'static str,
    address: Address,
    cause: io::Error,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            address,
            cause,
        } = self;
        match address {
            Address::Unix(path) if cause.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "may not use {program} at {}: run ctl as root or as a member of the socket's group",
                path.display()
            ),
            Address::Unix(path) => write!(
                f,
                "cannot reach {program} at {}: is it running? Start it with: ctl up",
                path.display()
            ),
            Address::Tcp { .. } if cause.kind() == TROUBLE => {
                write!(f, "cannot use {program} at {address}: {cause}")
            }
            Address::Tcp { .. } => write!(
                f,
                "cannot reach {program} at {address}: {cause}. Is it running there, and is the context right? See: ctl context ls"
            ),
        }
    }
}

/// The services of the chosen context.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where they are.
    pub context: Context,
}

macro_rules! client {
    ($(#[$doc:meta])* $name:ident, $client:ident, $program:literal, $address:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> $client<Channel> {
            $client::new(channel($program, &self.context.$address, self.context.tls.as_ref()))
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE)
        }
    };
}

impl Site {
    client!(
        /// Containers of the runtime host.
        containers, ContainersClient, "runtime-svc", runtime
    );
    client!(
        /// Volumes of the runtime host.
        volumes, VolumesClient, "runtime-svc", runtime
    );
    client!(
        /// The runtime host itself.
        host, HostClient, "runtime-svc", runtime
    );
    client!(
        /// Images.
        registry, RegistryClient, "registry-svc", registry
    );
    client!(
        /// The store of images.
        upkeep, UpkeepClient, "registry-svc", registry
    );
    client!(
        /// Networks of the runtime host.
        networks, NetworkClient, "netd", netd
    );
    client!(
        /// Builds.
        builder, BuilderClient, "builder-svc", builder
    );
}

/// A channel that connects at its first call and says in words when it cannot.
pub fn channel(program: &'static str, address: &Address, tls: Option<&TlsFiles>) -> Channel {
    let (address, tls) = (address.clone(), tls.cloned());
    // The name is a placeholder: the connector below decides.
    let endpoint = Endpoint::from_static("http://slipway.sock")
        .initial_stream_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        // A chunk of 256 KiB is one frame.
        .max_frame_size(1 << 20);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            open(&address, tls).await.map_err(|cause| {
                io::Error::other(Unreachable {
                    program,
                    address,
                    cause,
                })
            })
        }
    }))
}

/// How long a service has to take a connection, and again to show its certificate: as long as it waits for ours, and
/// a little.
const PATIENCE: Duration = Duration::from_secs(12);

async fn open(address: &Address, tls: Option<TlsFiles>) -> io::Result<TokioIo<Wire>> {
    match address {
        Address::Unix(path) => Ok(TokioIo::new(Box::new(UnixStream::connect(path).await?))),
        Address::Tcp { host, port } => {
            let late = |what: &str| {
                let said = format!("no answer{what} within {} seconds", PATIENCE.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, said)
            };
            let opened = TcpStream::connect((host.as_str(), *port));
            let opened = tokio::time::timeout(PATIENCE, opened).await;
            let stream = opened.map_err(|_| late(""))??;
            stream.set_nodelay(true)?;
            let Some(files) = tls else {
                return Ok(TokioIo::new(Box::new(stream)));
            };
            let connector = Connector::open(files).map_err(|e| io::Error::new(TROUBLE, e))?;
            let shaken = tokio::time::timeout(PATIENCE, connector.connect(host, stream)).await;
            let stream = shaken.map_err(|_| late(" to the TLS handshake"))??;
            Ok(TokioIo::new(Box::new(stream)))
        }
    }
}

type Wire = Box<dyn Stream>;

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_says_how_to_start_the_service() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site {
            context: Context::local(&folder.path().join("none")),
        };
        let status = site
            .containers()
            .list(slipway_proto::runtime::v1::ListRequest::default())
            .await
            .unwrap_err();
        let failure = crate::failure::Failure::from(status);
        let socket = folder.path().join("none/runtime.sock");
        assert_eq!(
            failure.text,
            format!(
                "cannot reach runtime-svc at {}: is it running? Start it with: ctl up",
                socket.display()
            )
        );
    }
}
