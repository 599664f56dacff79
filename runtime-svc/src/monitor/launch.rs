//! From a plan to a running first process: its streams, its clone, the end of its way in.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    net::{RecvFlags, SendFlags},
    pipe::PipeFlags,
    process::Pid,
};

use super::{client, log_format::Stream, output::Source, supervise::message_pair};
use crate::{
    cgroup::Group,
    executor::{
        self, StartError, Step as _, init,
        plan::{ContainerPlan, Stdio},
        userns::UserNamespace,
    },
    sys::{fdpass, fork::Clone},
};

/// How long the first process has until it is the program.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of it.
pub struct Launched {
    /// The first process.
    pub init: Pid,
    /// It, by descriptor.
    pub init_fd: OwnedFd,
    /// Its output.
    pub sources: Vec<Source>,
    /// Its input, when that is open.
    pub stdin: Option<OwnedFd>,
    /// Its terminal, for the size.
    pub terminal: Option<OwnedFd>,
    /// Keeps its mounts, where they may stay a moment longer than it: taking them away takes several
    /// times the kernel's waiting for all processors, and its end would be told after that only.
    pub mounts: Option<OwnedFd>,
}

/// What the container joins.
pub struct Joined {
    /// The network namespace that netd made.
    pub net: Option<OwnedFd>,
    /// First processes of other containers, for `Namespace::Peer`.
    pub peers: Vec<OwnedFd>,
    /// Mounts, for `MountSource::Given`.
    pub given: Vec<OwnedFd>,
}

/// Clones the first process into its namespaces and waits until it is the program.
pub fn launch(plan: &ContainerPlan, joined: Joined, group: &Group) -> Result<Launched, StartError> {
    let pipe =
        || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step(|| "cannot make a pipe".to_owned());
    let (report, report_child) = message_pair().step(|| "cannot make a socket".to_owned())?;
    let mut sources = Vec::new();
    let (mut stdin, mut child_pipes) = (None, None);
    if let Stdio::Pipes { stdin: open } = plan.stdio {
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        let stdin_read = match open {
            true => {
                let (read, write) = pipe()?;
                nonblocking(&write)?;
                stdin = Some(write);
                Some(read)
            }
            false => None,
        };
        // What is ready is taken from the back: of two lines that wait, the one on stdout is first.
        sources.push(Source {
            fd: err_read,
            stream: Stream::Stderr,
        });
        sources.push(Source {
            fd: out_read,
            stream: Stream::Stdout,
        });
        child_pipes = Some((stdin_read, out_write, err_write));
    }
    let user = plan.user.as_ref().map(UserNamespace::create).transpose()?;
    let home = init::enter_pid_namespace(&plan.namespaces, &joined.peers)?;
    let (cloned, began_inside) = group
        .begin_inside(init::clone_flags(&plan.namespaces))
        .step(|| "cannot make the container's first process".to_owned())?;
    let (init, init_fd) = match cloned {
        Clone::Child => {
            drop(report);
            init::run(
                plan,
                init::Inherited {
                    net: joined.net.as_ref(),
                    fresh_net: false,
                    peers: &joined.peers,
                    given: &joined.given,
                    pipes: child_pipes,
                    report: report_child,
                    group,
                    user: user.as_ref(),
                    mappings: &[],
                    gate: None,
                },
            )
        }
        Clone::Parent(pid, fd) => (pid, fd),
    };
    slipway_fault::point("monitor.start.cloned");
    drop((child_pipes, report_child, joined, user));
    if let Some(home) = home {
        init::leave_pid_namespace(&home)?;
    }
    // Meanwhile it makes its mounts.
    group
        .create_others(&plan.cgroup)
        .step(|| "cannot make the cgroups".to_owned())?;
    if !began_inside {
        group
            .add_unified(init)
            .step(|| "cannot put the process into its cgroups".to_owned())?;
    }
    let lingers = plan.files.mounts_may_linger && plan.user.is_none();
    let mounts = lingers.then(|| mount_namespace(init)).flatten();
    match fdpass::send(&report, b"g", &[], SendFlags::empty()) {
        // It has failed already, and said why.
        Err(e) if client::is_gone(&e) => {}
        sent => sent.map_err(lost)?,
    }

    slipway_fault::point("monitor.start.placed");
    let deadline = Instant::now() + PATIENCE;
    let (mut terminal, mut ready) = (None, false);
    let mut buffer = [0; 4096];
    loop {
        wait_for(&report, deadline)?;
        let received = match fdpass::receive(&report, &mut buffer, RecvFlags::empty()) {
            // It went with our word unread. The kernel reports that once, ahead of what it had said.
            Err(e) if client::is_gone(&e) => {
                fdpass::receive(&report, &mut buffer, RecvFlags::empty())
            }
            received => received,
        };
        let (length, mut fds) = received.map_err(lost)?;
        match &buffer[..length] {
            // Closed by the exec: the program runs.
            [] if ready => break,
            [] => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
            executor::launch::LAST_STEPS => ready = true,
            b"terminal" => terminal = fds.pop(),
            error => {
                return Err(
                    serde_json::from_slice(error).unwrap_or_else(|e| StartError::Failed {
                        step: "cannot start".to_owned(),
                        why: e.to_string(),
                    }),
                );
            }
        }
    }
    if let (Stdio::Terminal { stdin: open, .. }, Some(master)) = (plan.stdio, &terminal) {
        nonblocking(master)?;
        let copy = || {
            rustix::io::fcntl_dupfd_cloexec(master, 3)
                .step(|| "cannot copy the terminal".to_owned())
        };
        sources.push(Source {
            fd: copy()?,
            stream: Stream::Stdout,
        });
        stdin = if open { Some(copy()?) } else { None };
    }
    Ok(Launched {
        init,
        init_fd,
        sources,
        stdin,
        terminal,
        mounts,
    })
}

/// Why the first process says nothing more. By somebody's SIGKILL, or the kernel's: too little memory is
/// allowed, say.
fn lost(error: io::Error) -> StartError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let why = match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => {
            "the container's first process was killed on its way in".to_owned()
        }
        _ => error.to_string(),
    };
    StartError::Failed {
        step: "cannot start".to_owned(),
        why,
    }
}

/// Waits for a message of the first process. Something that it mounts may never answer: then nobody could
/// stop or remove the container.
fn wait_for(report: &OwnedFd, deadline: Instant) -> Result<(), StartError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(report, PollFlags::IN)], Some(&timeout)) {
        Ok(0) => Err(StartError::Failed {
            step: "cannot start".to_owned(),
            why: format!(
                "the container's first process was not there after {} seconds",
                PATIENCE.as_secs()
            ),
        }),
        // What went wrong with it is said by the receiving.
        _ => Ok(()),
    }
}

/// The mount namespace that a process has. Without it its end only takes longer.
fn mount_namespace(pid: Pid) -> Option<OwnedFd> {
    let path = format!("/proc/{}/ns/mnt", pid.as_raw_nonzero());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn nonblocking(fd: &OwnedFd) -> Result<(), StartError> {
    rustix::io::ioctl_fionbio(fd, true).step(|| "cannot make a pipe non-blocking".to_owned())
}
