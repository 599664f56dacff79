//! The monitor's socket and the clients on it.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::protocol::{self, Event};
use crate::sys::fdpass;

/// Most clients at once; more are turned away. Well below the usual limit of open files, since a
/// connection that cannot be taken for want of one would be offered again and again.
const MAX_CLIENTS: usize = 640;
/// Most of them that may send input, so that signals and further processes always have room.
pub const MAX_ATTACHED: usize = 256;

/// Listens on a path that is new: clients find nothing there before it is ready.
///
/// The path of a unix socket has at most 107 bytes, so the folder is opened first and named by number.
pub fn bind(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (_folder, address) = address(path)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::net::bind(&socket, &address)?;
    // Nobody who connects waits: who finds no room is refused at once, by the kernel without a word.
    rustix::net::listen(&socket, 2 * MAX_CLIENTS as i32)?;
    Ok(socket)
}

/// The address of a socket, however long its path is. The folder must stay open while it is used.
pub fn address(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    use std::os::fd::AsRawFd as _;
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "no socket path");
    let folder = rustix::fs::open(
        path.parent().ok_or_else(invalid)?,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(invalid)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
    Ok((folder, address))
}

/// A connected client.
pub struct Client {
    /// Its connection.
    pub socket: OwnedFd,
    /// It wants to know when the log grows.
    pub follows: bool,
    /// It may send standard input.
    pub stdin: bool,
    /// Standard input ends when it goes.
    pub stdin_once: bool,
    /// The first position of the log that it needs.
    pub hold: Option<u64>,
    /// Marked to be dropped.
    pub gone: bool,
}

impl Client {
    /// A client that asked for nothing yet.
    pub const fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            follows: false,
            stdin: false,
            stdin_once: false,
            hold: None,
            gone: false,
        }
    }

    /// Tells something, without waiting. A client whose queue is full loses news only: of the log, of
    /// which it has some to read already, of memory, which the end tells again, and of an end that is told
    /// again when it is recorded. Anything else that does not fit ends it.
    pub fn tell(&mut self, event: &Event, fds: &[BorrowedFd<'_>]) {
        let message = protocol::encode(event);
        match fdpass::send(self.socket.as_fd(), &message, fds, SendFlags::DONTWAIT) {
            Ok(()) => {}
            Err(e)
                if e.kind() == io::ErrorKind::WouldBlock
                    && matches!(
                        event,
                        Event::Grew(_) | Event::Rotated(_) | Event::OutOfMemory | Event::Ended(_)
                    ) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.gone = true,
            // It has gone, but what it said before that is still to be heard; its end is noticed there.
            Err(_) => {}
        }
    }

    /// One message, if there is one.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Vec<OwnedFd>)> {
        match fdpass::receive(self.socket.as_fd(), buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.gone = true,
            Ok(message) => return Some(message),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // A client that went with our greeting unread: the kernel reports that once, ahead of what
            // the client had said (unix_release_sock). The next poll reads the rest, then the end.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            Err(_) => self.gone = true,
        }
        None
    }
}

/// Takes a new client in, unless there are too many: then it is told.
pub fn accept(listener: &OwnedFd, there: usize) -> Option<Client> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut client = Client::new(rustix::net::accept_with(listener, flags).ok()?);
    if there < MAX_CLIENTS {
        return Some(client);
    }
    client.tell(&Event::Refused("too many are connected".to_owned()), &[]);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_said_is_heard_although_it_went_without_reading() {
        let (monitor, service) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let mut client = Client::new(monitor);
        client.tell(&Event::Grew(1), &[]);
        fdpass::send(service.as_fd(), b"signal", &[], SendFlags::empty()).unwrap();
        drop(service);
        let mut buffer = [0; 64];
        // The reset, then the message, then the end.
        assert!(client.receive(&mut buffer).is_none());
        assert!(!client.gone);
        let (length, _) = client.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"signal");
        assert!(client.receive(&mut buffer).is_none());
        assert!(client.gone);
    }
}
