//! Asking servers, and waiting: long for what has to come, and but a moment for what must not.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// For what has to come: a machine under load takes its time, and what was lost on the way is sent again after a second
/// (RFC 6298, RFC 4861).
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For what must not come.
pub const MOMENT: Duration = Duration::from_millis(700);

/// What a server tells the client that connects from the calling thread's namespace.
pub fn ask(server: impl Into<SocketAddr>) -> io::Result<String> {
    ask_within(PATIENCE, server)
}

/// The same where nobody is to answer, or is asked again.
pub fn ask_briefly(server: impl Into<SocketAddr>) -> io::Result<String> {
    ask_within(MOMENT, server)
}

/// The same.
pub fn ask_within(patience: Duration, server: impl Into<SocketAddr>) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server.into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

pub fn ask_udp(server: impl Into<SocketAddr>, question: &[u8]) -> io::Result<Vec<u8>> {
    let server = server.into();
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(question)?;
    let mut buffer = vec![0; 1024];
    let read = socket.recv(&mut buffer)?;
    buffer.truncate(read);
    Ok(buffer)
}

/// Waits for something that netd, another thread or the kernel does; fails after a minute: netd's start waits for the
/// disk, which others may keep busy for longer than anything else takes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(10));
    }
}
