//! The process that monitors are forked from.
//!
//! runtime-svc has threads and megabytes; a fork of it is slow, and an exec a container costs more
//! than the container. So it starts one small single-threaded child, once, and that forks a monitor
//! for each container: no exec, its pages shared. The child is executed from a detached, read-only
//! bind mount of our own program, so that nothing in a container can write to it by way of
//! `/proc/<pid>/exe` (CVE-2019-5736).

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{FlockOperation, Mode, OFlags},
    mount::OpenTreeFlags,
    net::{RecvFlags, SendFlags},
    pipe::PipeFlags,
    process::{Pid, WaitOptions},
};

use super::{
    launch::Joined,
    protocol::{Event, MAX_MESSAGE, encode},
    supervise,
};
use crate::{
    descriptors,
    executor::{
        StartError,
        plan::{ContainerPlan, Namespace},
    },
    sys::{
        fdpass,
        fork::{self, Fork},
        heap, mount_attr, prctl, signals,
    },
};

/// First argument of a runtime-svc that is to be the spawner.
pub const ARGUMENT: &str = "spawner";

/// Bytes for the command line that `ps` shows of an init process.
const ROOM: usize = 1024;

/// runtime-svc's side: a running spawner.
#[derive(Debug)]
pub struct Spawner {
    child: Child,
    socket: OwnedFd,
}

impl Spawner {
    /// Starts one of `program`, which is runtime-svc (`/proc/self/exe`, but for tests). `lock` is a file that it holds locked until it and all monitors that are just
    /// starting are done: [`wait_for_last`] waits for that.
    pub fn start(program: &Path, lock: &Path) -> io::Result<Self> {
        let (ours, theirs) = supervise::message_pair()?;
        let program = protected(program)?;
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("runtime-svc")
            .arg(ARGUMENT)
            .arg(lock)
            // Room for the words that a container's init process shows instead.
            .arg(" ".repeat(ROOM))
            .env_clear()
            .envs(slipway_fault::environment())
            .stdin(theirs)
            .stdout(std::process::Stdio::null())
            .current_dir("/")
            .spawn()?;
        let spawner = Self {
            child,
            socket: ours,
        };
        // It does nothing before it is asked.
        descriptors::restore(Pid::from_child(&spawner.child))?;
        Ok(spawner)
    }

    /// Asks for a container. The returned socket speaks [`super::protocol`]; its first event says
    /// whether the container runs.
    pub fn spawn(
        &self,
        plan: &ContainerPlan,
        net: Option<&OwnedFd>,
        peers: &[OwnedFd],
        given: &[OwnedFd],
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = supervise::message_pair()?;
        let message = serde_json::to_vec(plan)?;
        if message.len() > MAX_MESSAGE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the container's arguments and environment are too long ({} bytes)",
                    message.len()
                ),
            ));
        }
        let mut fds = vec![theirs.as_fd()];
        fds.extend(
            net.into_iter()
                .chain(peers)
                .chain(given)
                .map(|fd| fd.as_fd()),
        );
        fdpass::send(&self.socket, &message, &fds, SendFlags::empty())?;
        Ok(ours)
    }

    /// Whether it is still there.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // It ends by itself when its socket closes; killing makes sure of it before we wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the spawner of an earlier instance, and what it was starting, is done: then every
/// container that was ever asked for has its socket or will never begin.
pub fn wait_for_last(lock: &Path) -> io::Result<()> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(lock)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(())
}

/// A program behind a mount that is read-only.
pub fn protected(program: &Path) -> io::Result<OwnedFd> {
    let mount = rustix::mount::open_tree(
        rustix::fs::CWD,
        program,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    mount_attr::set(&mount, libc::MOUNT_ATTR_RDONLY, 0, 0, false)?;
    Ok(mount)
}

/// The spawner's own life. Standard input is its socket, its argument the lock file.
pub fn main(lock: &Path) -> i32 {
    match serve(lock) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("Error: runtime-svc spawner: {error}");
            1
        }
    }
}

fn own_words(lock: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    let words: [&[u8]; 3] = [
        b"runtime-svc",
        ARGUMENT.as_bytes(),
        lock.as_os_str().as_bytes(),
    ];
    let ended = |word: &[u8]| [word, b"\0"].concat();
    words.into_iter().flat_map(ended).collect()
}

fn serve(lock: &Path) -> io::Result<()> {
    // What runtime-svc was started with is no container's; its socket is standard input.
    fork::close_from(3);
    prctl::set_name(c"slipway-spawner")?;
    // At worst `ps` shows blanks after it.
    let _ = prctl::set_command_line(&own_words(lock));
    heap::let_large_blocks_go();
    // Here and not in each container: what is forked from here shares it.
    crate::executor::seccomp::prepare();
    signals::ignore(nix::sys::signal::Signal::SIGINT)?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    let held = rustix::fs::open(
        lock,
        OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )?;
    rustix::fs::flock(&held, FlockOperation::LockExclusive)?;
    // Before the first request our limits may not be the containers' yet.
    wait_for_request(&socket, None)?;
    loop {
        slipway_fault::point("spawner.start.ready");
        let taker = fork_taker(&socket, &held)?;
        match taker.outcome()? {
            Taken::Closed => return Ok(()),
            // The next one is made when there is time for it, or need.
            Taken::Request => wait_for_request(&socket, Some(REST))?,
            // Somebody has killed it.
            Taken::Nothing => {}
        }
    }
}

/// How long after a request the next taker is made, if no other request comes before: meanwhile both
/// processors are busy with what was asked for.
const REST: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Waits until there is a request, or the other side is gone, or for a time.
fn wait_for_request(socket: &OwnedFd, time: Option<Timespec>) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(socket, PollFlags::IN)];
        match rustix::event::poll(&mut ready, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}

/// A process that waits for a request and becomes its monitor.
///
/// It is there before the request is: nothing has to be forked then but the container itself. The
/// spawner itself never reads a request: what its memory holds is in every monitor that it forks later,
/// and so in the init process of a container, but one container's arguments and variables are not for
/// another's eyes.
struct Taker {
    /// A word comes when it has taken something; closed without one when it is gone.
    word: OwnedFd,
}

/// What became of a [`Taker`].
enum Taken {
    Request,
    Closed,
    Nothing,
}

const REQUEST: u8 = b'r';
const CLOSED: u8 = b'c';

impl Taker {
    fn outcome(self) -> io::Result<Taken> {
        let mut word = [0];
        loop {
            return match rustix::io::read(&self.word, &mut word) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => Err(e.into()),
                Ok(1) if word == [CLOSED] => Ok(Taken::Closed),
                Ok(1) => Ok(Taken::Request),
                Ok(_) => Ok(Taken::Nothing),
            };
        }
    }
}

/// Forks one, twice, so that it belongs to init and nobody has to wait for it.
fn fork_taker(socket: &OwnedFd, held: &OwnedFd) -> io::Result<Taker> {
    let (word, told) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    match fork::fork()? {
        Fork::Child => {
            close(&word);
            fork::exit_now(match fork::fork() {
                Ok(Fork::Child) => {
                    take(socket, held, told);
                    0
                }
                Ok(Fork::Parent(_)) => 0,
                Err(_) => 1,
            })
        }
        Fork::Parent(first) => {
            let status = loop {
                match rustix::process::waitpid(Some(first), WaitOptions::empty()) {
                    Err(rustix::io::Errno::INTR) => {}
                    done => break done?,
                }
            };
            match status.and_then(|(_, status)| status.exit_status()) {
                // Somebody has killed it: then there is perhaps none, which its outcome tells.
                Some(0) | None => Ok(Taker { word }),
                _ => Err(io::Error::other("cannot fork")),
            }
        }
    }
}

/// A taker's life: waits for a request and becomes its monitor. Returns when there is none to become.
fn take(socket: &OwnedFd, held: &OwnedFd, told: OwnedFd) {
    // At worst `ps` shows its parent's name.
    let _ = prctl::set_name(c"slipway-taker");
    // Everything that does not depend on the request.
    let ready = supervise::Ready::make();
    let mut buffer = vec![0; MAX_MESSAGE];
    let received = loop {
        match fdpass::receive(socket, &mut buffer, RecvFlags::empty()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            received => break received,
        }
    };
    let tell = |word| {
        // The spawner may be gone; then nobody is to be told.
        let _ = rustix::io::write(&told, &[word]);
    };
    let Ok((length, fds)) = received else { return };
    if length == 0 {
        return tell(CLOSED);
    }
    slipway_fault::point("taker.start.read");
    tell(REQUEST);
    drop(told);
    let mut fds = fds.into_iter();
    let Some(requester) = fds.next() else { return };
    match serde_json::from_slice::<ContainerPlan>(&buffer[..length]) {
        Ok(plan) => {
            drop(buffer);
            let net = match plan.namespaces.net {
                Namespace::Fd => fds.next(),
                _ => None,
            };
            let peers = fds.by_ref().take(plan.namespaces.peers()).collect();
            let given = fds.collect();
            let Ok(held_copy) = rustix::io::fcntl_dupfd_cloexec(held, 3) else {
                return;
            };
            close(held);
            close(socket);
            supervise::run(
                &plan,
                requester,
                Joined { net, peers, given },
                held_copy,
                ready,
            )
        }
        Err(e) => refuse(&requester, "cannot read the plan", &e.to_string()),
    }
}

fn refuse(requester: &OwnedFd, step: &str, why: &str) {
    let error = StartError::Failed {
        step: step.to_owned(),
        why: why.to_owned(),
    };
    // The requester may be gone; then nobody is to be told.
    let _ = fdpass::send(
        requester,
        &encode(&Event::Failed(error)),
        &[],
        SendFlags::DONTWAIT,
    );
}

/// Closes this process's copy of a descriptor that its parent goes on using.
fn close(fd: &OwnedFd) {
    fork::close_copy(fd.as_raw_fd());
}
