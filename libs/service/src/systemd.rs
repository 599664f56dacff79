//! What a service manager hands over, and what it wants to hear (sd_listen_fds(3), sd_notify(3)). Without one none of
//! this happens.

use std::{
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
};

use rustix::net::{SocketType, sockopt};
use sd_notify::NotifyState;
use tracing::warn;

use crate::sys::inherit;

/// Unix sockets that listen already: who connects before the service is there waits for it.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(PathBuf, UnixListener)>);

/// A socket was handed over that is of no use here.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Not what sd_listen_fds(3) says.
    #[error("cannot take the sockets of the service manager: {0}")]
    Io(#[from] io::Error),
    /// No unix socket with a path.
    #[error(
        "the service manager handed over a socket that is no unix socket with a path: give tcp addresses by --listen"
    )]
    Foreign,
    /// No listener of this service.
    #[error(
        "the service manager handed over {path}, where this service does not listen: {expected} does"
    )]
    Elsewhere {
        /// Where that is.
        path: PathBuf,
        /// Where the service listens.
        expected: String,
    },
}

impl Inherited {
    /// Takes them over; to be called once, at the very start.
    pub fn take() -> Result<Self, InheritError> {
        let mut sockets = Vec::new();
        for socket in inherit::sockets()? {
            let listens = sockopt::socket_type(&socket).is_ok_and(|t| t == SocketType::STREAM)
                && sockopt::socket_acceptconn(&socket).unwrap_or(false);
            if !listens {
                return Err(InheritError::Foreign);
            }
            let listener = UnixListener::from(socket);
            let address = listener.local_addr().map_err(|_| InheritError::Foreign)?;
            let path = address.as_pathname().ok_or(InheritError::Foreign)?;
            sockets.push((path.to_owned(), listener));
        }
        Ok(Self(sockets))
    }

    /// The one with this path, as tokio wants it.
    pub fn socket(&mut self, path: &Path) -> io::Result<Option<tokio::net::UnixListener>> {
        let Some(at) = self.0.iter().position(|(p, _)| p == path) else {
            return Ok(None);
        };
        let (_, listener) = self.0.swap_remove(at);
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener).map(Some)
    }

    /// All that were handed over have been of use.
    ///
    /// # Errors
    ///
    /// One was not: a misspelt path would otherwise take calls that nobody answers.
    pub fn done(self, listens: &[PathBuf]) -> Result<(), InheritError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((path, _)) => Err(InheritError::Elsewhere {
                path,
                expected: listens
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }
}

/// Calls are answered from here on.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// No more calls are taken.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "cannot tell the service manager how we are");
    }
}
