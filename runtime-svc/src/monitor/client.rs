//! runtime-svc's side of a monitor's socket.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    listener,
    protocol::{DATA, END, Event, JSON, MAX_DATA, MAX_MESSAGE, Request, encode},
};
use crate::sys::fdpass;

/// A connection to a monitor. Both directions may be used at the same time through a shared reference.
#[derive(Debug)]
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    /// Takes over a connected socket, as [`super::spawner::Spawner::spawn`] returns it. Must be called
    /// inside a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: crate::sys::asyncfd::register(socket)?,
        })
    }

    /// Connects to a monitor. `NotFound` or `ConnectionRefused` = there is none any more.
    pub fn open(path: &Path) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        let (_folder, address) = listener::address(path)?;
        rustix::net::connect(&socket, &address)?;
        Self::new(socket)
    }

    /// Asks to be told when the log grows. A monitor that has just ended needs no request: its end is
    /// what [`Connection::next`] gives.
    pub async fn follow(&self) -> io::Result<()> {
        let attach = Request::Attach {
            stdin: false,
            stdin_once: false,
        };
        match self.request(&attach, &[]).await {
            Err(e) if is_gone(&e) => Ok(()),
            sent => sent,
        }
    }

    /// Sends a request, with descriptors.
    pub async fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = encode(request);
        if message.len() > MAX_MESSAGE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the request is too long",
            ));
        }
        self.send(&message, fds).await
    }

    /// Sends a signal to the container's first process and waits until that was done. A container that
    /// ends meanwhile needs no signal.
    pub async fn signal(&self, signal: i32) -> io::Result<()> {
        match self.request(&Request::Signal(signal), &[]).await {
            Err(e) if is_gone(&e) => return Ok(()),
            sent => sent?,
        }
        loop {
            match self.next().await?.map(|(event, _)| event) {
                None | Some(Event::Signalled | Event::Exited(_)) => return Ok(()),
                Some(Event::Refused(why)) => return Err(io::Error::other(why)),
                Some(_) => {}
            }
        }
    }

    /// Says that the container is being removed. An older monitor does not know that and waits for the disk.
    pub async fn discard(&self) -> io::Result<()> {
        match self.request(&Request::Discard, &[]).await {
            Err(e) if is_gone(&e) => return Ok(()),
            sent => sent?,
        }
        loop {
            match self.next().await?.map(|(event, _)| event) {
                None | Some(Event::Discarded | Event::Refused(_) | Event::Exited(_)) => {
                    return Ok(());
                }
                Some(_) => {}
            }
        }
    }

    /// Asks for a pidfd of the container's first process; `None` when that has ended.
    pub async fn first_process(&self) -> io::Result<Option<OwnedFd>> {
        match self.request(&Request::FirstProcess, &[]).await {
            Err(e) if is_gone(&e) => return Ok(None),
            sent => sent?,
        }
        loop {
            match self.next().await? {
                Some((Event::FirstProcess, fds)) => {
                    let fd = fds.into_iter().next();
                    return fd
                        .map(Some)
                        .ok_or_else(|| io::Error::other("the monitor sent no descriptor"));
                }
                None | Some((Event::Exited(_) | Event::Refused(_), _)) => return Ok(None),
                Some(_) => {}
            }
        }
    }

    /// Sends bytes to standard input; waits while the container does not read.
    pub async fn stdin(&self, bytes: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(bytes.len().min(MAX_DATA) + 1);
        for chunk in bytes.chunks(MAX_DATA) {
            message.clear();
            message.push(DATA);
            message.extend_from_slice(chunk);
            self.send(&message, &[]).await?;
        }
        Ok(())
    }

    /// Ends standard input.
    pub async fn end_stdin(&self) -> io::Result<()> {
        self.send(&[END], &[]).await
    }

    async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                fdpass::send(socket.as_fd(), message, fds, SendFlags::DONTWAIT)
            })
            .await
    }

    /// The next event and its descriptors; `None` when the monitor is gone.
    pub async fn next(&self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| receive(socket.as_fd()))
                .await;
            match received {
                Ok(message) => return message,
                // It went with something of ours unread. The kernel reports that once, ahead of what the
                // monitor had said (unix_release_sock): the next read gets that, then the end.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(e) => return Err(e),
            }
        }
    }
}

type Heard = io::Result<Option<(Event, Vec<OwnedFd>)>>;

/// One message that is there. The outer error is the socket's, the inner one is about what was said.
///
/// Its buffer is on the stack, so that the thousands of connections that only wait have none.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Heard> {
    let mut buffer = [0; 16 * 1024];
    let (length, fds) = fdpass::receive(socket, &mut buffer, RecvFlags::DONTWAIT)?;
    Ok(match buffer[..length].split_first() {
        None => Ok(None),
        Some((&JSON, body)) => serde_json::from_slice(body)
            .map(|event| Some((event, fds)))
            .map_err(io::Error::from),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "unknown kind of message",
        )),
    })
}

/// Whether an error of [`Connection::open`] says that there is no monitor: only these two do, anything
/// else (no descriptor left, say) is trouble of ours.
pub fn is_none(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Whether an error says that the monitor has closed its end: the container has ended.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_monitor_said_is_heard_although_it_went_without_reading() {
        let (service, monitor) = super::super::supervise::message_pair().unwrap();
        let connection = Connection::new(service).unwrap();
        connection.request(&Request::Signal(15), &[]).await.unwrap();
        let said = encode(&Event::Grew(7));
        fdpass::send(monitor.as_fd(), &said, &[], SendFlags::empty()).unwrap();
        drop(monitor);
        let (event, _) = connection.next().await.unwrap().unwrap();
        assert_eq!(event, Event::Grew(7));
        assert!(connection.next().await.unwrap().is_none());
    }
}
