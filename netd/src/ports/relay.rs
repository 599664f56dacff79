//! Relays for tcp inside netd, no process a port, where the kernel cannot translate: there is no `route_localnet` for
//! IPv6, so that the answer to a client on the host's own `::1` would be dropped, and no way from IPv6 to a container
//! that has IPv4 only.
//!
//! The container sees the bridge's gateway as the client; that is why a container with IPv6 is led to by it from the
//! host's own loopback only, and one without from nowhere else unless it was asked for.
//!
//! One task listens for all ports, by an epoll of its own: a port costs a socket, and nothing else while nobody comes.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

/// Connections at once over one published port; further ones wait in the listener's backlog.
const CONNECTIONS: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Listeners that are looked at in one go.
const EVENTS: usize = 64;

/// Whom a relay serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Everybody who can connect.
    All,
    /// Those on the host's loopback.
    OnThisHost,
}

/// All relays of the host.
#[derive(Debug)]
pub struct Relays {
    runtime: Handle,
    shared: Option<(Arc<Shared>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    epoll: AsyncFd<OwnedFd>,
    ports: Mutex<Ports>,
}

#[derive(Debug, Default)]
struct Ports {
    by_token: HashMap<u64, Weak<Port>>,
    next: u64,
}

/// A port that is listened on.
#[derive(Debug)]
struct Port {
    token: u64,
    listener: TcpListener,
    to: Vec<SocketAddr>,
    clients: Clients,
    places: Arc<Semaphore>,
    connections: Mutex<JoinSet<()>>,
}

/// A running relay; dropping it ends it and its connections.
#[derive(Debug)]
pub struct Relay {
    port: Arc<Port>,
    shared: Arc<Shared>,
}

impl Relays {
    /// None yet; they will run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            shared: None,
        }
    }

    /// Listens and relays to the first of the addresses that takes the connection; the error is the kernel's. On all
    /// addresses it may serve the clients on this host alone: others, whom the kernel leads, never get to it.
    pub fn start(
        &mut self,
        address: Ipv6Addr,
        port: u16,
        to: Vec<SocketAddr>,
        clients: Clients,
    ) -> io::Result<Relay> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((address, port)).into())?;
        socket.listen(128)?;
        let shared = self.shared()?;
        let mut ports = shared.ports();
        ports.next += 1;
        let port = Arc::new(Port {
            token: ports.next,
            listener: socket.into(),
            to,
            clients,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            connections: Mutex::default(),
        });
        let epoll = shared.epoll.get_ref();
        epoll::add(epoll, &port.listener, data(&port), ONE_EVENT)?;
        ports.by_token.insert(port.token, Arc::downgrade(&port));
        drop(ports);
        Ok(Relay { port, shared })
    }

    /// Its task begins with the first of them.
    fn shared(&mut self) -> io::Result<Arc<Shared>> {
        if let Some((shared, _)) = &self.shared {
            return Ok(Arc::clone(shared));
        }
        let _guard = self.runtime.enter();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; our epoll owns the one descriptor it has"
        )]
        let epoll = AsyncFd::new(epoll)?;
        let shared = Arc::new(Shared {
            epoll,
            ports: Mutex::default(),
        });
        let task = self.runtime.spawn(listen(Arc::clone(&shared)));
        self.shared = Some((Arc::clone(&shared), task));
        Ok(shared)
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.shared {
            task.abort();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ports().by_token.remove(&self.port.token);
        // Nobody is told of it any more, also where somebody looks at it just now.
        if let Err(error) = epoll::delete(self.shared.epoll.get_ref(), &self.port.listener) {
            tracing::debug!(%error, "a relay was not listened for");
        }
    }
}

/// It is told once, and then again when whoever was told has looked.
const ONE_EVENT: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

fn data(port: &Port) -> epoll::EventData {
    epoll::EventData::new_u64(port.token)
}

impl Shared {
    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn port(&self, token: u64) -> Option<Arc<Port>> {
        self.ports().by_token.get(&token)?.upgrade()
    }

    /// Asks to be told of the next client.
    fn ask(&self, port: &Port) {
        let asked = epoll::modify(self.epoll.get_ref(), &port.listener, data(port), ONE_EVENT);
        if let Err(error) = asked {
            // It has just been taken back.
            tracing::debug!(%error, "a relay is not listened for");
        }
    }
}

async fn listen(shared: Arc<Shared>) {
    loop {
        let Ok(mut ready) = shared.epoll.readable().await else {
            return;
        };
        match told(shared.epoll.get_ref()) {
            Ok(tokens) if tokens.is_empty() => ready.clear_ready(),
            Ok(tokens) => {
                for port in tokens.into_iter().filter_map(|token| shared.port(token)) {
                    accept(&shared, &port);
                }
                // Others have their turn between two floods.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::error!(%error, "published ports are not relayed any more");
                return;
            }
        }
    }
}

/// Of which ports there is something to tell.
fn told(epoll: &OwnedFd) -> io::Result<Vec<u64>> {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut events = Vec::with_capacity(EVENTS);
    epoll::wait(epoll, spare_capacity(&mut events), Some(&at_once))?;
    Ok(events.iter().map(|event| event.data.u64()).collect())
}

/// Takes one client, and asks for the next if there is a place for it; else the first that leaves does.
fn accept(shared: &Arc<Shared>, port: &Arc<Port>) {
    let Ok(place) = Arc::clone(&port.places).try_acquire_owned() else {
        return;
    };
    let place = Place {
        shared: Arc::clone(shared),
        port: Arc::downgrade(port),
        permit: Some(place),
    };
    let accepted = port.listener.accept().and_then(|(client, from)| {
        client.set_nonblocking(true)?;
        Ok((TcpStream::from_std(client)?, from))
    });
    match accepted {
        // The place is given back, which asks for the next.
        Ok((_, from)) if port.clients == Clients::OnThisHost && !from.ip().is_loopback() => {}
        Ok((client, _)) => {
            let to = port.to.clone();
            let mut connections = port
                .connections
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            while connections.try_join_next().is_some() {}
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = relay(client, &to).await {
                    tracing::debug!(%error, "a relayed connection ended");
                }
            });
            drop(connections);
            if port.places.available_permits() > 0 {
                shared.ask(port);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection to relay");
            // Without a file for it, as a rule: there may be one in a while.
            port.connections
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .spawn(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    drop(place);
                });
        }
    }
}

/// One of those that a port has for connections.
struct Place {
    shared: Arc<Shared>,
    port: Weak<Port>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // First there is a place, and then somebody is asked for.
        drop(self.permit.take());
        if let Some(port) = self.port.upgrade() {
            self.shared.ask(&port);
        }
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    const ONE: Ipv6Addr = Ipv6Addr::LOCALHOST;

    /// A server that sends back what it gets, on one thread a connection.
    fn echo() -> SocketAddr {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in server.incoming() {
                let mut client = client.unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
                });
            }
        });
        address
    }

    fn port_of(relay: &Relay) -> SocketAddr {
        relay.port.listener.local_addr().unwrap()
    }

    fn connect(to: SocketAddr) -> std::net::TcpStream {
        std::net::TcpStream::connect(to).unwrap()
    }

    fn goes_through(client: &mut std::net::TcpStream) {
        client.write_all(&[7]).unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [7]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_ports_are_one_task_and_end_one_by_one() {
        let mut relays = Relays::new(Handle::current());
        let to = echo();
        let all: Vec<Relay> = (0..200)
            .map(|_| relays.start(ONE, 0, vec![to], Clients::OnThisHost).unwrap())
            .collect();
        let tasks = Handle::current().metrics().num_alive_tasks();
        assert!(tasks < 10, "{tasks} tasks");
        tokio::task::spawn_blocking(move || {
            for relay in &all {
                goes_through(&mut connect(port_of(relay)));
            }
            let mut all = all.into_iter();
            let (first, second) = (all.next().unwrap(), all.next().unwrap());
            let gone = port_of(&first);
            let mut left = connect(port_of(&second));
            let mut cut = connect(gone);
            goes_through(&mut cut);
            drop(first);
            // What went by it ends, and what goes by others does not.
            assert!(matches!(cut.read(&mut [0]), Ok(0) | Err(_)));
            assert!(std::net::TcpStream::connect(gone).is_err());
            goes_through(&mut left);
        })
        .await
        .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_finds_no_place_waits_until_somebody_leaves() {
        let mut relays = Relays::new(Handle::current());
        let relay = relays.start(ONE, 0, vec![echo()], Clients::All).unwrap();
        let beside = relays.start(ONE, 0, vec![echo()], Clients::All).unwrap();
        tokio::task::spawn_blocking(move || {
            let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(port_of(&relay))).collect();
            clients.iter_mut().for_each(goes_through);
            let mut late = connect(port_of(&relay));
            late.write_all(&[7]).unwrap();
            // Other ports have places of their own.
            goes_through(&mut connect(port_of(&beside)));
            assert_eq!(relay.port.places.available_permits(), 0);
            clients.pop();
            let mut byte = [0];
            late.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [7]);
        })
        .await
        .unwrap();
    }
}
