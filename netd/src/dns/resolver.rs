//! The server on one network's gateway: udp and tcp, a bounded number of questions at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::network::Network;

use super::answer::{Decision, answer_of, decide, failure, no_such_name};
use super::clients::{Clients, Place};
use super::peers::Peers;
use super::upstream::Upstream;
use super::wire::{cut, payload};
use super::zone::Zone;

/// Questions under way to other resolvers, in all and of one client; further ones are answered with SERVFAIL at once,
/// so that one container's flood is neither memory nor a wait for others.
const FORWARDED: (usize, usize) = (1024, 64);
/// Connections at once, in all and of one client, and how long an idle one is kept (RFC 7766 6.2.3).
const CONNECTIONS: (usize, usize) = (256, 8);
const IDLE: Duration = Duration::from_secs(10);
/// DNS.
pub const PORT: u16 = 53;

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct Resolver {
    tasks: [JoinHandle<()>; 2],
    port: u16,
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
    forwarded: Arc<Clients>,
    /// Whose turn it is among those that share a name.
    turn: AtomicUsize,
}

impl Resolver {
    /// Listens on the network's gateway: on port 53, or on any if another program has that of all addresses.
    pub fn start(
        runtime: &Handle,
        network: &Network,
        zone: Arc<RwLock<Zone>>,
        resolv_conf: PathBuf,
    ) -> io::Result<Self> {
        let (udp, tcp) = match sockets(network.v4.gateway, PORT) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                elsewhere(network.v4.gateway)?
            }
            sockets => sockets?,
        };
        let port = udp
            .local_addr()?
            .as_socket()
            .map_or(PORT, |address| address.port());
        let _guard = runtime.enter();
        let udp = UdpSocket::from_std(udp.into())?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let service = Arc::new(Service {
            zone,
            upstream: Upstream::new(resolv_conf, network.v4.gateway),
            forwarded: Clients::new(FORWARDED.0, FORWARDED.1),
            turn: AtomicUsize::new(0),
        });
        let tasks = [
            runtime.spawn(serve_udp(Arc::new(udp), Arc::clone(&service))),
            runtime.spawn(serve_tcp(tcp, service)),
        ];
        Ok(Self { tasks, port })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Tries to find a port that is free for both.
const TRIES: usize = 16;

fn elsewhere(gateway: IpAddr) -> io::Result<(Socket, Socket)> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..TRIES {
        let any = bound(Type::DGRAM, gateway, 0)?;
        let port = any
            .local_addr()?
            .as_socket()
            .map_or(0, |address| address.port());
        match listening(gateway, port) {
            Ok(tcp) => return Ok((any, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn sockets(gateway: IpAddr, port: u16) -> io::Result<(Socket, Socket)> {
    Ok((
        bound(Type::DGRAM, gateway, port)?,
        listening(gateway, port)?,
    ))
}

fn listening(gateway: IpAddr, port: u16) -> io::Result<Socket> {
    let socket = bound(Type::STREAM, gateway, port)?;
    socket.listen(64)?;
    Ok(socket)
}

fn bound(kind: Type, gateway: IpAddr, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    // Shared with our own reservation of a published port 53, see `ports/reserve.rs`.
    socket.set_reuse_port(port == PORT)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(gateway, port).into())?;
    Ok(socket)
}

impl Service {
    fn zone(&self) -> RwLockReadGuard<'_, Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client, if it may ask.
    fn client(&self, client: SocketAddr) -> Option<IpAddr> {
        let zone = self.zone();
        let may = |client: &IpAddr| zone.serves(*client) || is_peer(&zone, *client);
        Some(client.ip()).filter(may)
    }

    /// Never with two zones locked: whoever else does that would wait for us.
    fn decide(&self, client: IpAddr, query: &[u8]) -> Decision {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (others, has_peers) = {
            let zone = self.zone();
            let decision = decide(&zone, query, turn);
            if decision != Decision::Forward {
                return decision;
            }
            // Another host knows everything else as well as we do.
            if is_peer(&zone, client) {
                return refusal(query);
            }
            (zone.others_of(client), zone.peers().is_some())
        };
        let names_of = |other: &Arc<RwLock<Zone>>| {
            let zone = other.read().unwrap_or_else(PoisonError::into_inner);
            answer_of(&zone, query, turn)
        };
        if let Some(decision) = others.iter().find_map(names_of) {
            return decision;
        }
        match self.zone().is_internal() && others.is_empty() && !has_peers {
            true => refusal(query),
            false => Decision::Forward,
        }
    }

    /// Who knows the names on other hosts, of all networks that a client is on.
    fn peers(&self, client: IpAddr) -> Vec<Arc<Peers>> {
        let (own, others) = {
            let zone = self.zone();
            (zone.peers().cloned(), zone.others_of(client))
        };
        let of = |other: &Arc<RwLock<Zone>>| {
            let zone = other.read().unwrap_or_else(PoisonError::into_inner);
            zone.peers().cloned()
        };
        own.into_iter()
            .chain(others.iter().filter_map(of))
            .collect()
    }

    async fn forward(
        &self,
        client: IpAddr,
        query: &[u8],
        tcp: bool,
        place: Option<Place>,
    ) -> Option<Vec<u8>> {
        let Some(_place) = place else {
            return failure(query);
        };
        let mut stays = self.zone().is_internal();
        for peers in self.peers(client) {
            if let Some(answer) = peers.ask(query).await {
                return Some(answer);
            }
            stays |= peers.is_of_network(query);
        }
        if stays {
            return no_such_name(query);
        }
        let resolvers = self.zone().resolvers_of(client).to_vec();
        match self.upstream.ask(&resolvers, query, tcp).await {
            Ok(response) => Some(response),
            Err(error) => {
                tracing::debug!(%error, "the resolvers do not answer");
                failure(query)
            }
        }
    }

    fn place(&self, client: IpAddr) -> Option<Place> {
        self.forwarded.place(client)
    }
}

fn is_peer(zone: &Zone, client: IpAddr) -> bool {
    zone.peers().is_some_and(|peers| peers.is_peer(client))
}

fn refusal(query: &[u8]) -> Decision {
    no_such_name(query).map_or(Decision::Ignore, Decision::Answer)
}

async fn serve_udp(socket: Arc<UdpSocket>, service: Arc<Service>) {
    let mut buffer = vec![0; 4096];
    let mut forwarding = JoinSet::new();
    loop {
        while forwarding.try_join_next().is_some() {}
        let (read, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer came back as unreachable: nobody's loss but that client's. An error that stays must
            // not take a processor.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let Some(own) = service.client(client) else {
            continue;
        };
        let query = &buffer[..read];
        let limit = payload(query);
        let response = match service.decide(own, query) {
            Decision::Ignore => None,
            Decision::Answer(response) => Some(response),
            Decision::Forward => match service.place(own) {
                None => failure(query),
                place => {
                    let (query, service) = (query.to_vec(), Arc::clone(&service));
                    let socket = Arc::clone(&socket);
                    forwarding.spawn(async move {
                        if let Some(response) = service.forward(own, &query, false, place).await {
                            // A client that has gone does not need its answer.
                            let _ = socket.send_to(&cut(response, limit), client).await;
                        }
                    });
                    None
                }
            },
        };
        if let Some(response) = response {
            let _ = socket.send_to(&cut(response, limit), client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, service: Arc<Service>) {
    let places = Clients::new(CONNECTIONS.0, CONNECTIONS.1);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, client)) = listener.accept().await else {
            // Out of descriptors: give others time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(client) = service.client(client) else {
            continue;
        };
        let Some(place) = places.place(client) else {
            continue;
        };
        let service = Arc::clone(&service);
        connections.spawn(async move {
            let _place = place;
            // An end of the stream is how every conversation ends.
            let _ = converse(stream, client, &service).await;
        });
    }
}

async fn converse(mut stream: TcpStream, client: IpAddr, service: &Service) -> io::Result<()> {
    loop {
        let len = timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(len)];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let response = match service.decide(client, &query) {
            Decision::Ignore => return Ok(()),
            Decision::Answer(response) => Some(response),
            Decision::Forward => {
                let place = service.place(client);
                service.forward(client, &query, true, place).await
            }
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
