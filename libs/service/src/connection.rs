//! An accepted connection of any kind, with who is at its other end.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::{
    identity::{Caller, Peer, Way},
    roles::Role,
    tls::{server::Acceptor, server::Shown, subject::Subject},
};

/// See the module's page.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
}

#[derive(Debug)]
enum Io {
    Unix(UnixStream),
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Root and our own user may do everything. `others` is for who else may open the socket: nobody, unless who made
    /// it said so (mode 0600).
    pub fn unix(stream: UnixStream, others: Role) -> Self {
        let credentials = stream.peer_cred().ok();
        let uid = credentials.map(|c| c.uid());
        let name = match uid {
            Some(0) => "root".to_owned(),
            Some(uid) => format!("uid {uid}"),
            None => "somebody".to_owned(),
        };
        let pid = credentials.and_then(|c| c.pid());
        let own = rustix::process::geteuid().as_raw();
        let role = role_of(uid, own, others);
        let caller = Caller::new(name, Some(role), Way::Unix { pid });
        Self {
            io: Io::Unix(stream),
            peer: Peer::new(caller, None),
        }
    }

    /// Whoever reaches a plain listener may do everything: it is on loopback, or was asked for by name.
    pub fn plain(stream: TcpStream) -> io::Result<Self> {
        // The call's first message is to go at once.
        stream.set_nodelay(true)?;
        let address = stream.peer_addr()?;
        let caller = anybody(address);
        Ok(Self {
            io: Io::Plain(stream),
            peer: Peer::new(caller, None),
        })
    }

    pub(crate) fn encrypted(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        acceptor: Arc<Acceptor>,
    ) -> Self {
        let chain = stream.get_ref().1.peer_certificates();
        let peer = match chain.and_then(|chain| Some((chain, chain.first()?))) {
            // Of this listener no certificate is wanted.
            None => Peer::new(anybody(address), None),
            Some((chain, own)) => {
                let caller = Caller::certified(Subject::of(own), address);
                let shown = Shown::new(chain.to_vec(), acceptor);
                Peer::new(caller, Some(shown))
            }
        };
        Self {
            io: Io::Encrypted(Box::new(stream)),
            peer,
        }
    }
}

fn role_of(uid: Option<u32>, own: u32, others: Role) -> Role {
    match uid {
        Some(uid) if uid == 0 || uid == own => Role::Admin,
        _ => others,
    }
}

fn anybody(address: SocketAddr) -> Caller {
    Caller::new(
        "somebody".to_owned(),
        Some(Role::Admin),
        Way::Open { address },
    )
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// The same of whatever it is.
macro_rules! inner {
    ($self:ident, $stream:ident => $what:expr) => {
        match &mut $self.get_mut().io {
            Io::Unix($stream) => $what,
            Io::Plain($stream) => $what,
            Io::Encrypted($stream) => $what,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write(cx, buffer))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write_vectored(cx, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Unix(stream) => stream.is_write_vectored(),
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_neither_root_nor_ourselves_has_the_role_of_others() {
        for (uid, role) in [
            (Some(0), Role::Admin),
            (Some(990), Role::Admin),
            (Some(991), Role::Build),
            (None, Role::Build),
        ] {
            assert_eq!(role_of(uid, 990, Role::Build), role, "{uid:?}");
        }
    }
}
