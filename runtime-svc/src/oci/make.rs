//! Makes a container's first process, up to its gate.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    net::{RecvFlags, SendFlags},
    process::{Pid, Signal, WaitOptions},
    thread::UnshareFlags,
};

use super::{
    agent::{self, Agent},
    error::{Error, Tried as _},
};
use crate::{
    cgroup::Group,
    executor::{
        StartError, gate, init, launch,
        plan::{ContainerPlan, Hooks, Namespace, Stdio, UserMap},
        userns::UserNamespace,
    },
    monitor::supervise::message_pair,
    sys::{fdpass, fork::Clone, namespaces},
};

/// A first process that has not got beyond its gate. It ends when this is dropped and not [let go](Self::go).
#[derive(Debug)]
pub struct Making {
    /// The process.
    pub pid: Pid,
    report: OwnedFd,
    pidfd: OwnedFd,
    /// Who answers calls of it from here on.
    agent: Option<Agent>,
    finished: bool,
}

/// What comes on the way.
pub enum Step {
    /// Its mounts are made; it waits.
    Mounted,
    /// Its terminal.
    Terminal(OwnedFd),
    /// An agent is to answer some of its calls, by this.
    Listens(OwnedFd),
    /// It waits at its gate.
    Ready,
}

/// Begins. `fifos` are what it waits on at its gate, if it is to wait there.
pub fn begin(
    plan: &ContainerPlan,
    maps: &[UserMap],
    group: &Group,
    fifos: Option<(OwnedFd, OwnedFd)>,
) -> Result<Making, Error> {
    let what = || "cannot make the container's first process".to_owned();
    let (report, theirs) = message_pair().tried(what)?;
    let mut plan = plan.clone();
    let mut owned = Vec::new();
    let user = match (&plan.user, &plan.user_path) {
        (Some(map), Some(path)) => {
            let namespace = fs::File::open(path)
                .tried(|| format!("cannot open the user namespace {}", path.display()))?;
            Some(UserNamespace::of(namespace.into(), map.clone()))
        }
        (Some(map), None) => {
            let kinds = own_namespaces(&plan);
            let (user, namespaces) = UserNamespace::create_with(map, &kinds)?;
            owned = kinds
                .into_iter()
                .map(|(flag, _)| flag)
                .zip(namespaces)
                .collect();
            Some(user)
        }
        (None, _) => None,
    };
    let fresh_net = join_owned(&mut plan, &owned);
    let plan = &plan;
    let mappings = maps
        .iter()
        .map(UserNamespace::create)
        .collect::<Result<Vec<_>, _>>()?;
    let pipes = match plan.stdio {
        Stdio::Pipes { .. } => Some(own_streams()?),
        Stdio::Terminal { .. } => None,
    };
    if plan.time.namespace == Namespace::New {
        begin_time(plan)?;
    }
    let home = init::enter_pid_namespace(&plan.namespaces, &[])?;
    let (cloned, began_inside) = group
        .begin_inside(init::clone_flags(&plan.namespaces))
        .tried(what)?;
    let (pid, pidfd) = match cloned {
        Clone::Child => {
            drop(report);
            init::run(
                plan,
                init::Inherited {
                    net: None,
                    fresh_net,
                    peers: &[],
                    given: &[],
                    pipes: pipes.map(|(stdin, stdout, stderr)| (Some(stdin), stdout, stderr)),
                    report: theirs,
                    group,
                    user: user.as_ref(),
                    mappings: &mappings,
                    gate: Some(gate::Gate {
                        fifos,
                        hooks: &plan.hooks,
                    }),
                },
            )
        }
        Clone::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop((theirs, fifos, pipes, user, mappings, owned));
    let making = Making {
        pid,
        report,
        pidfd,
        agent: None,
        finished: false,
    };
    if plan.time.namespace == Namespace::New {
        leave_time()?;
    }
    if let Some(home) = home {
        init::leave_pid_namespace(&home)?;
    }
    if !began_inside {
        group
            .add_unified(pid)
            .tried(|| "cannot put the process into its cgroups".to_owned())?;
    }
    making.go_on()?;
    Ok(making)
}

/// New namespaces that the container's user namespace is to own: its root may do there what root may.
/// That of processes cannot be had without its first process, which needs the host's privileges.
fn own_namespaces(plan: &ContainerPlan) -> Vec<(i32, &'static str)> {
    let new = |namespace: &Namespace| *namespace == Namespace::New;
    [
        (libc::CLONE_NEWNET, "net", new(&plan.namespaces.net)),
        (libc::CLONE_NEWIPC, "ipc", new(&plan.namespaces.ipc)),
    ]
    .into_iter()
    .filter_map(|(flag, name, new)| new.then_some((flag, name)))
    .collect()
}

/// Has the first process join them: as our child it has the same descriptors. Whether that of the network is
/// among them.
fn join_owned(plan: &mut ContainerPlan, owned: &[(i32, OwnedFd)]) -> bool {
    for (flag, namespace) in owned {
        let path = Namespace::Path(format!("/proc/self/fd/{}", namespace.as_raw_fd()).into());
        match *flag {
            libc::CLONE_NEWNET => plan.namespaces.net = path,
            _ => plan.namespaces.ipc = path,
        }
    }
    owned.iter().any(|(flag, _)| *flag == libc::CLONE_NEWNET)
}

/// Our own standard streams, for the container.
pub fn own_streams() -> Result<(OwnedFd, OwnedFd, OwnedFd), Error> {
    use rustix::stdio::{stderr, stdin, stdout};
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, 3).tried(|| "cannot copy the streams".to_owned())
    };
    Ok((copy(stdin())?, copy(stdout())?, copy(stderr())?))
}

/// A new time namespace is for children only (time_namespaces(7)): the next one begins in it. Its offsets can
/// be set until then.
fn begin_time(plan: &ContainerPlan) -> Result<(), Error> {
    let what = || "cannot begin a time namespace".to_owned();
    namespaces::unshare(UnshareFlags::NEWTIME).tried(what)?;
    let lines: String = plan
        .time
        .offsets
        .iter()
        .map(|(clock, seconds, nanoseconds)| format!("{clock} {seconds} {nanoseconds}\n"))
        .collect();
    match lines.is_empty() {
        true => Ok(()),
        false => fs::write("/proc/self/timens_offsets", lines)
            .tried(|| "cannot set the offsets of the clocks".to_owned()),
    }
}

/// Whoever is made from here on, a hook above all, has the caller's clocks.
fn leave_time() -> Result<(), Error> {
    let what = || "cannot leave a time namespace".to_owned();
    let own = fs::File::open("/proc/self/ns/time").tried(what)?;
    rustix::thread::move_into_link_name_space(own.as_fd(), None).tried(what)
}

impl Making {
    /// Waits for the next step.
    pub fn next(&mut self) -> Result<Step, Error> {
        let mut buffer = [0; 16 << 10];
        let heard = fdpass::receive(&self.report, &mut buffer, RecvFlags::empty());
        let (length, mut fds) = patient(heard, self.agent.as_ref())?;
        match &buffer[..length] {
            b"terminal" => {
                let terminal = fds.pop();
                terminal
                    .map(Step::Terminal)
                    .ok_or_else(|| broken("its terminal did not come"))
            }
            init::MOUNTED => Ok(Step::Mounted),
            gate::READY => Ok(Step::Ready),
            [] => Err(broken("it ended on the way")),
            said => match launch::listens(said) {
                Some(number) => agent::take(&self.pidfd, number).map(Step::Listens),
                None => Err(serde_json::from_slice::<StartError>(said)
                    .map_or_else(|e| broken(&e.to_string()), Error::Start)),
            },
        }
    }

    /// An agent answers calls of it from here on, of which it still has to make some.
    pub fn asks(&mut self, agent: &Agent) -> Result<(), Error> {
        agent.limit(&self.report, Some(agent::PATIENCE))?;
        self.agent = Some(agent.clone());
        Ok(())
    }

    /// Lets it go on from where it waits.
    pub fn go_on(&self) -> Result<(), Error> {
        fdpass::send(&self.report, b"g", &[], SendFlags::empty())
            .tried(|| "cannot let the first process go on".to_owned())
    }

    /// Lets it through its gate: from here on it is on its own.
    pub fn go(mut self, hooks: &Hooks) -> Result<Gone, Error> {
        if let Some(agent) = &self.agent {
            agent.limit(&self.report, agent.patience(hooks))?;
        }
        self.go_on()?;
        self.finished = true;
        let report = rustix::io::fcntl_dupfd_cloexec(&self.report, 3)
            .tried(|| "cannot copy a socket".to_owned())?;
        let agent = self.agent.take();
        Ok(Gone { report, agent })
    }
}

/// A first process that was let through its gate.
#[derive(Debug)]
pub struct Gone {
    report: OwnedFd,
    agent: Option<Agent>,
}

impl Gone {
    /// Waits until one that has nothing to wait for at its gate executes its program.
    pub fn until_executed(&self) -> Result<(), Error> {
        let mut buffer = [0; 16 << 10];
        let heard = fdpass::receive(&self.report, &mut buffer, RecvFlags::empty());
        let (length, _) = patient(heard, self.agent.as_ref())?;
        answered(&buffer[..length])
    }
}

/// What was heard, or who kept it from being said.
fn patient<T>(heard: io::Result<T>, agent: Option<&Agent>) -> Result<T, Error> {
    match (heard, agent) {
        (Err(e), Some(agent)) if agent::late(&e) => Err(agent.held_up()),
        (heard, _) => heard.tried(|| "cannot hear from the first process".to_owned()),
    }
}

/// What was said in the place of an exec; nothing means that there was one.
pub fn answered(said: &[u8]) -> Result<(), Error> {
    match said {
        [] => Ok(()),
        error => Err(serde_json::from_slice::<StartError>(error)
            .map_or_else(|e| broken(&e.to_string()), Error::Start)),
    }
}

fn broken(why: &str) -> Error {
    Error::Start(StartError::Failed {
        step: "cannot start the container's first process".to_owned(),
        why: why.to_owned(),
    })
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Gone already is fine; it is ours to collect in any case.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// Writes a pid where the caller looks for it, all at once.
pub fn write_pid(path: &Path, pid: Pid) -> Result<(), Error> {
    let what = || format!("cannot write {}", path.display());
    let name = path
        .file_name()
        .ok_or(rustix::io::Errno::INVAL)
        .tried(what)?;
    let mut new = std::ffi::OsString::from(".");
    new.push(name);
    let new = path.with_file_name(new);
    // Of a call that was killed. It is made anew: in a folder such as /tmp it may be somebody's link.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).tried(what),
        _ => {}
    }
    let mut file = fs::File::create_new(&new).tried(what)?;
    write!(file, "{}", pid.as_raw_pid()).tried(what)?;
    fs::rename(&new, path).tried(what)
}
