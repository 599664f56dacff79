//! Processes that join a running container, as the monitor sees them.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{
    net::{RecvFlags, SendFlags},
    process::Pid,
};

use crate::{
    cgroup::Group,
    executor::{StartError, join, plan::ExecPlan},
    sys::{fdpass, fork::Clone},
};

/// A process on its way in, or inside.
pub struct Exec {
    /// Number of the client that asked for it; it may be gone.
    pub client: u64,
    /// The process that joins the namespaces, until it has ended.
    pub helper: Option<Pid>,
    /// The process itself, once it is known.
    pub pid: Option<Pid>,
    /// The way in is not over: messages come from here.
    pub report: Option<OwnedFd>,
    /// Its terminal, until it is handed on.
    pub terminal: Option<OwnedFd>,
    /// It is killed when its client goes.
    pub ends_with_client: bool,
    /// Its end, when that came before its start was reported.
    pub exit: Option<i32>,
}

/// What a message from the way in means.
pub enum Progress {
    /// Nothing to tell yet.
    Wait,
    /// It runs the program.
    Started,
    /// It could not.
    Failed(StartError),
}

impl Exec {
    /// Makes the process that joins `target`, which is `first`. It begins in the container's v2 cgroup and joins those of
    /// other trees by itself: moving it there would wait for all processors (see [`Group::join`]).
    pub fn begin(
        client: u64,
        plan: &ExecPlan,
        (first, target): (Pid, OwnedFd),
        fds: Vec<OwnedFd>,
        group: &Group,
    ) -> Result<Self, StartError> {
        let fail = |step: &str, why: std::io::Error| StartError::Failed {
            step: step.to_owned(),
            why: why.to_string(),
        };
        let (ours, theirs) =
            super::supervise::message_pair().map_err(|e| fail("cannot make a socket", e))?;
        let stdio = match (<[OwnedFd; 3]>::try_from(fds), plan.terminal) {
            (Ok([stdin, stdout, stderr]), None) => Some((stdin, stdout, stderr)),
            (_, Some(_)) => None,
            (Err(_), None) => {
                return Err(fail(
                    "cannot set up the streams",
                    std::io::Error::other("three descriptors are needed"),
                ));
            }
        };
        let (cloned, began_inside) = group
            .begin_beside(first)
            .map_err(|e| fail("cannot make a process in the container's cgroups", e))?;
        match cloned {
            Clone::Child => {
                drop(ours);
                join::run(
                    plan,
                    join::Inherited {
                        target,
                        stdio,
                        report: theirs,
                        group,
                    },
                )
            }
            Clone::Parent(helper, _pidfd) => {
                drop(theirs);
                if !began_inside {
                    group
                        .add_unified(helper)
                        .map_err(|e| fail("cannot join the container's cgroups", e))?;
                }
                fdpass::send(&ours, b"g", &[], SendFlags::empty())
                    .map_err(|e| fail("cannot begin", e))?;
                Ok(Self {
                    client,
                    helper: Some(helper),
                    pid: None,
                    report: Some(ours),
                    terminal: None,
                    ends_with_client: plan.ends_with_client,
                    exit: None,
                })
            }
        }
    }

    /// Its client is gone: with `ends_with_client` it goes as well, and what it began with it.
    pub fn client_left(&mut self) {
        if let (true, Some(pid)) = (self.ends_with_client, self.pid) {
            // It leads a session and so a group of its own. As long as `pid` is there it was not
            // collected, so the number is nobody else's. Gone already is fine.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }

    /// Takes one message from the way in.
    pub fn advance(&mut self) -> Progress {
        let Some(report) = &self.report else {
            return Progress::Wait;
        };
        let mut buffer = [0; 4096];
        let (length, mut fds) =
            match fdpass::receive(report.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
                Ok(message) => message,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Progress::Wait,
                Err(_) => (0, Vec::new()),
            };
        let message = &buffer[..length];
        if message.is_empty() {
            // Closed: by the exec, or by a death on the way.
            self.report = None;
            return match self.pid {
                Some(_) => Progress::Started,
                None => Progress::Failed(StartError::Failed {
                    step: "cannot join the container".to_owned(),
                    why: "the process ended on the way".to_owned(),
                }),
            };
        }
        if message == b"terminal" {
            self.terminal = fds.pop();
            return Progress::Wait;
        }
        if let Some(pid) = std::str::from_utf8(message)
            .ok()
            .and_then(|t| t.parse().ok())
            .and_then(Pid::from_raw)
        {
            self.pid = Some(pid);
            return Progress::Wait;
        }
        self.report = None;
        Progress::Failed(
            serde_json::from_slice(message).unwrap_or_else(|e| StartError::Failed {
                step: "cannot join the container".to_owned(),
                why: e.to_string(),
            }),
        )
    }
}
