//! Holding a host port: a bound socket that receives nothing, so that no other program can take the
//! port, and that tells at once when another program has it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use super::Protocol;

/// Our own resolver holds port 53 on every gateway; sharing it takes SO_REUSEPORT on both sides.
const SHARED: u16 = 53;

/// A held port. `None` where the kernel has no such protocol (sctp).
#[derive(Debug)]
pub struct Reservation {
    _socket: Option<Socket>,
}

/// Takes a port; the error is the kernel's.
pub fn reserve(protocol: Protocol, address: IpAddr, port: u16) -> io::Result<Reservation> {
    let address = SocketAddr::new(address, port);
    match bind(protocol, address, false) {
        // A program that served this port a minute ago leaves connections in TIME_WAIT behind;
        // those alone are no reason to refuse, a listener is.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && protocol == Protocol::Tcp => {
            bind(protocol, address, true)
        }
        other => other,
    }
}

fn bind(protocol: Protocol, address: SocketAddr, reuse: bool) -> io::Result<Reservation> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, SocketProtocol::TCP),
        Protocol::Udp => (Type::DGRAM, SocketProtocol::UDP),
        Protocol::Sctp => (Type::STREAM, SocketProtocol::from(132)),
    };
    let socket = match Socket::new(Domain::for_address(address), kind, Some(number)) {
        Err(_) if protocol == Protocol::Sctp => return Ok(Reservation { _socket: None }),
        other => other?,
    };
    if address.is_ipv6() {
        // IPv4 is reserved by itself.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(reuse)?;
    socket.set_reuse_port(address.port() == SHARED)?;
    socket.bind(&address.into())?;
    if reuse {
        // With SO_REUSEADDR only listening finds out whether someone else listens.
        socket.listen(1)?;
        socket.shutdown(std::net::Shutdown::Both)?;
    }
    Ok(Reservation {
        _socket: Some(socket),
    })
}
