//! A terminal's master on its way to who asked for it (runc, docs/terminals.md).

use std::{
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::net::SendFlags;

use super::error::{Error, Tried as _};
use crate::{executor::plan::Stdio, sys::fdpass};

/// Whether there is somebody to take it, and only then.
pub fn check(stdio: Stdio, socket: Option<&Path>, detached: bool) -> Result<(), Error> {
    match (stdio, socket) {
        (Stdio::Terminal { .. }, None) if detached => Err(Error::invalid(
            "process.terminal needs --console-socket where nobody waits for the container",
        )),
        (Stdio::Pipes { .. }, Some(_)) => {
            Err(Error::invalid("--console-socket without process.terminal"))
        }
        _ => Ok(()),
    }
}

/// Sends it, with its name as conmon and containerd expect.
pub fn send(socket: &Path, master: &OwnedFd) -> Result<(), Error> {
    let what = || format!("cannot send the terminal to {}", socket.display());
    let stream = UnixStream::connect(socket).tried(what)?;
    fdpass::send(&stream, b"/dev/ptmx", &[master.as_fd()], SendFlags::empty()).tried(what)
}
