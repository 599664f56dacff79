//! The server on one network's gateway: udp and tcp, a bounded number of questions at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::network::Network;

use super::answer::{Decision, decide, failure};
use super::upstream::Upstream;
use super::zone::Zone;

/// Questions under way to the host's resolvers; further ones are answered with SERVFAIL at once, so
/// that one container's flood is neither memory nor a wait for others' own names.
const FORWARDED: usize = 256;
/// Connections at once, and how long an idle one is kept (RFC 7766 6.2.3).
const CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(10);
const PORT: u16 = 53;

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct Resolver {
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Debug)]
struct Service {
    zone: Arc<RwLock<Zone>>,
    upstream: Upstream,
    forwarded: Arc<Semaphore>,
}

impl Resolver {
    /// Listens on the network's gateway.
    pub fn start(
        runtime: &Handle,
        network: &Network,
        zone: Arc<RwLock<Zone>>,
        resolv_conf: PathBuf,
    ) -> io::Result<Self> {
        let address = SocketAddr::new(IpAddr::V4(network.gateway), PORT);
        let socket = |kind| -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, kind, None)?;
            // Shared with our own reservation of a published port 53, see `ports/reserve.rs`.
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            Ok(socket)
        };
        let udp = socket(Type::DGRAM)?;
        let tcp = socket(Type::STREAM)?;
        tcp.listen(64)?;
        let _guard = runtime.enter();
        let udp = UdpSocket::from_std(udp.into())?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let service = Arc::new(Service {
            zone,
            upstream: Upstream::new(resolv_conf, network.gateway),
            forwarded: Arc::new(Semaphore::new(FORWARDED)),
        });
        let tasks = [
            runtime.spawn(serve_udp(Arc::new(udp), Arc::clone(&service))),
            runtime.spawn(serve_tcp(tcp, service)),
        ];
        Ok(Self { tasks })
    }
}

impl Service {
    fn serves(&self, client: SocketAddr) -> bool {
        let IpAddr::V4(client) = client.ip() else {
            return false;
        };
        self.zone
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .serves(client)
    }

    fn decide(&self, query: &[u8]) -> Decision {
        decide(
            &self.zone.read().unwrap_or_else(PoisonError::into_inner),
            query,
        )
    }

    async fn forward(
        &self,
        query: &[u8],
        tcp: bool,
        place: Option<OwnedSemaphorePermit>,
    ) -> Option<Vec<u8>> {
        let Some(_place) = place else {
            return failure(query);
        };
        match self.upstream.ask(query, tcp).await {
            Ok(response) => Some(response),
            Err(error) => {
                tracing::debug!(%error, "the host's resolvers do not answer");
                failure(query)
            }
        }
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.forwarded).try_acquire_owned().ok()
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, service: Arc<Service>) {
    let mut buffer = vec![0; 4096];
    let mut forwarding = JoinSet::new();
    loop {
        while forwarding.try_join_next().is_some() {}
        let (read, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer came back as unreachable: nobody's loss but that client's.
            Err(_) => continue,
        };
        if !service.serves(client) {
            continue;
        }
        let query = &buffer[..read];
        let response = match service.decide(query) {
            Decision::Ignore => None,
            Decision::Answer(response) => Some(response),
            Decision::Forward => match service.place() {
                None => failure(query),
                place => {
                    let (query, service) = (query.to_vec(), Arc::clone(&service));
                    let socket = Arc::clone(&socket);
                    forwarding.spawn(async move {
                        if let Some(response) = service.forward(&query, false, place).await {
                            // A client that has gone does not need its answer.
                            let _ = socket.send_to(&response, client).await;
                        }
                    });
                    None
                }
            },
        };
        if let Some(response) = response {
            let _ = socket.send_to(&response, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, client)) = listener.accept().await else {
            // Out of descriptors: give others time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        if service.serves(client) {
            let service = Arc::clone(&service);
            connections.spawn(async move {
                let _place = place;
                // An end of the stream is how every conversation ends.
                let _ = converse(stream, &service).await;
            });
        }
    }
}

async fn converse(mut stream: TcpStream, service: &Service) -> io::Result<()> {
    loop {
        let len = timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(len)];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let response = match service.decide(&query) {
            Decision::Ignore => return Ok(()),
            Decision::Answer(response) => Some(response),
            Decision::Forward => service.forward(&query, true, service.place()).await,
        };
        let Some(response) = response else {
            return Ok(());
        };
        let len = u16::try_from(response.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut framed = len.to_be_bytes().to_vec();
        framed.extend(response);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
