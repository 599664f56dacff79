//! NOTIFY_SOCKET: a container's word that it is ready, handed on by whoever starts it (runc,
//! notify_socket.go).
//!
//! systemd believes only processes of its service's own cgroup, which a container's are not: they get a socket
//! of ours, and the caller's socket is told by us. As runc, `start` and `run` wait until the container is ready
//! or has ended, and what it says after that is heard by nobody.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::SendFlags,
    pipe::PipeFlags,
};

use super::error::{Error, Tried as _};
use crate::{
    executor::plan::{ContainerPlan, Mount, MountSource},
    sys::fdpass,
};

const VARIABLE: &str = "NOTIFY_SOCKET";
/// In the container's folder, and where it is inside.
pub(super) const FOLDER: &str = "notify";
pub(super) const NAME: &str = "notify.sock";
const INSIDE: &str = "/run/notify";
/// How long the caller's side has to say that it has read all (runc's).
const BARRIER: Duration = Duration::from_secs(30);

/// The caller's socket; none when there is none.
fn wanted() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|path| !path.is_empty())
}

/// Gives the container a place for its socket, where the caller has one.
pub fn offer(folder: &Path, plan: &mut ContainerPlan) -> Result<(), Error> {
    if wanted().is_none() {
        return Ok(());
    }
    let place = folder.join(FOLDER);
    let what = || format!("cannot make {}", place.display());
    fs::create_dir(&place).tried(what)?;
    // Also for those inside who are not root.
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).tried(what)?;
    plan.mounts.push(Mount {
        attributes: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        ..Mount::new(INSIDE, MountSource::Bind(place))
    });
    let env = &mut plan.process.env;
    env.retain(|line| !line.starts_with("NOTIFY_SOCKET="));
    env.push(format!("{VARIABLE}={INSIDE}/{NAME}"));
    Ok(())
}

/// A container's socket until it is ready.
#[derive(Debug)]
pub struct Listener {
    socket: UnixDatagram,
    host: UnixDatagram,
}

impl Listener {
    /// Begins to listen, before the program runs; none where nobody wants to hear.
    pub fn bind(folder: &Path) -> Result<Option<Self>, Error> {
        let place = folder.join(FOLDER);
        let Some(host) = wanted().filter(|_| place.is_dir()) else {
            return Ok(None);
        };
        let what = || format!("cannot make {}", place.join(NAME).display());
        match fs::remove_file(place.join(NAME)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).tried(what),
            _ => {}
        }
        let opened = fs::File::open(&place).tried(what)?;
        // A socket's name is short, that of the folder need not be.
        let short = format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd());
        let socket = UnixDatagram::bind(short).tried(what)?;
        fs::set_permissions(place.join(NAME), fs::Permissions::from_mode(0o777)).tried(what)?;
        socket.set_nonblocking(true).tried(what)?;
        Ok(Some(Self {
            socket,
            host: connect(&host).tried(|| format!("cannot connect to {VARIABLE} {host}"))?,
        }))
    }

    /// Something may be there to be heard.
    pub fn interest(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)
    }

    /// Reads what is there; whether the container is ready, which the caller is told then, with the number of
    /// the process that is to count as the service.
    pub fn hear(&self, main: i32) -> Result<bool, Error> {
        let what = || format!("cannot tell {VARIABLE}");
        let mut buffer = [0; 4096];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).tried(|| "cannot hear the container".to_owned()),
            };
            if let Some(ready) = ready(&buffer[..length]) {
                self.host.send(&[ready, b"\n"].concat()).tried(what)?;
                let main = format!("MAINPID={main}\n");
                self.host.send(main.as_bytes()).tried(what)?;
                self.barrier().tried(what)?;
                return Ok(true);
            }
        }
    }

    /// Waits until it is ready or has ended.
    pub fn until_ready(&self, main: i32, process: &OwnedFd) -> Result<(), Error> {
        loop {
            let mut polled = [self.interest(), PollFd::new(process, PollFlags::IN)];
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e).tried(|| "cannot wait for the container".to_owned()),
            }
            let ended = !polled[1].revents().is_empty();
            // Of one that has ended, too: it may have said so before.
            if self.hear(main)? || ended {
                return Ok(());
            }
        }
    }

    /// Waits until all was read: systemd asks the kernel who sent it, who is to be there still (sd_notify(3),
    /// BARRIER=1). Who does not know that closes the descriptor as well.
    fn barrier(&self) -> io::Result<()> {
        let (done, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let flags = SendFlags::empty();
        fdpass::send(&self.host, b"BARRIER=1", &[theirs.as_fd()], flags)?;
        drop(theirs);
        let patience = Timespec {
            tv_sec: BARRIER.as_secs() as i64,
            tv_nsec: 0,
        };
        let mut polled = [PollFd::new(&done, PollFlags::empty())];
        match rustix::event::poll(&mut polled, Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// A path, or `@name` of the abstract kind.
fn connect(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// The line of a message that says READY.
fn ready(message: &[u8]) -> Option<&[u8]> {
    message
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"READY="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ready_says_so_in_a_line_of_its_own() {
        assert_eq!(ready(b"STATUS=x\nREADY=1\nX=y"), Some(&b"READY=1"[..]));
        assert_eq!(ready(b"STATUS=READY=1"), None);
        assert_eq!(ready(b""), None);
    }
}
