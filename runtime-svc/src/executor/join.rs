//! The life of a further process in a running container (`exec`).
//!
//! Two processes: the first joins the namespaces; a process namespace only holds for children, so it
//! makes the second one, a sibling by CLONE_PARENT, which becomes the program as a child of the
//! monitor.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{fs::OFlags, thread::ThreadNameSpaceType as Kind};

use super::{StartError, Step as _, dev, init, launch, plan::ExecPlan, userns::UserNamespace};
use crate::{
    cgroup::Group,
    sys::{
        fdpass,
        fork::{self, Clone},
        prctl, terminal,
    },
};

/// What the new process gets from the monitor.
pub struct Inherited<'a> {
    /// The container's first process.
    pub target: OwnedFd,
    /// Its pipes or files; none with a terminal.
    pub stdio: Option<(OwnedFd, OwnedFd, OwnedFd)>,
    /// To the monitor: first `terminal` with a descriptor, then the pid, then an error or nothing.
    pub report: OwnedFd,
    /// Its cgroups: those of v1 are for itself to join.
    pub group: &'a Group,
}

/// Runs the first process. Never returns.
pub fn run(plan: &ExecPlan, inherited: Inherited<'_>) -> ! {
    let report = match rustix::io::fcntl_dupfd_cloexec(&inherited.report, 3) {
        Ok(report) => report,
        Err(_) => fork::exit_now(125),
    };
    match enter(plan, inherited) {
        Ok(()) => fork::exit_now(0),
        Err(error) => {
            init::send_error(&report, &error);
            fork::exit_now(125)
        }
    }
}

fn enter(plan: &ExecPlan, inherited: Inherited<'_>) -> Result<(), StartError> {
    prctl::set_dumpable(false).step(|| "cannot become undumpable".to_owned())?;
    init::reset_signals()?;
    if !plan.process.outlives {
        prctl::set_parent_death_signal(libc::SIGKILL)
            .step(|| "cannot bind to the monitor".to_owned())?;
    }
    init::wait_until_placed(&inherited.report)?;
    inherited
        .group
        .join()
        .step(|| "cannot join the container's cgroups".to_owned())?;
    slipway_fault::point("join.exec.begun");
    launch::mark(&plan.process)?;
    let mut all = Kind::MOUNT
        | Kind::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kind::INTER_PROCESS_COMMUNICATION
        | Kind::NETWORK
        | Kind::PROCESS_ID
        | Kind::CONTROL_GROUP;
    if plan.time {
        all |= Kind::TIME;
    }
    rustix::thread::move_into_thread_name_spaces(inherited.target.as_fd(), all)
        .step(|| "cannot join the container's namespaces".to_owned())?;
    slipway_fault::point("join.exec.joined");
    // Last of all comes the user namespace: its root may do nothing of what is still to be done.
    let user = plan.user.clone();
    let user = user.map(|map| UserNamespace::of(inherited.target, map));

    let stdio = match plan.terminal {
        Some((rows, columns)) => {
            let root = rustix::fs::open(
                "/",
                OFlags::PATH | OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .step(|| "cannot open the container's root".to_owned())?;
            let opened = dev::open_terminal(&root)?;
            init::set_size(&opened.master, rows, columns)?;
            fdpass::send(
                &inherited.report,
                b"terminal",
                &[opened.master.as_fd()],
                rustix::net::SendFlags::empty(),
            )
            .step(|| "cannot hand over the terminal".to_owned())?;
            let again = |fd: &OwnedFd| {
                rustix::io::fcntl_dupfd_cloexec(fd, 3)
                    .step(|| "cannot copy the terminal".to_owned())
            };
            (again(&opened.peer)?, again(&opened.peer)?, opened.peer)
        }
        None => inherited.stdio.ok_or_else(|| StartError::Failed {
            step: "cannot set up the streams".to_owned(),
            why: "none came with the request".to_owned(),
        })?,
    };

    match fork::clone3(libc::CLONE_PARENT, None).step(|| "cannot make a process".to_owned())? {
        Clone::Parent(pid, _pidfd) => {
            slipway_fault::point("join.exec.cloned");
            let message = pid.as_raw_nonzero().to_string();
            fdpass::send(
                &inherited.report,
                message.as_bytes(),
                &[],
                rustix::net::SendFlags::empty(),
            )
            .step(|| "cannot report the process".to_owned())
        }
        Clone::Child => become_program(plan, stdio, user.as_ref(), &inherited.report),
    }
}

fn become_program(
    plan: &ExecPlan,
    stdio: (OwnedFd, OwnedFd, OwnedFd),
    user: Option<&UserNamespace>,
    report: &OwnedFd,
) -> ! {
    let error = match settle(plan, stdio) {
        Ok(()) => launch::become_program(&plan.process, user.map(launch::Entry::Join), report),
        Err(error) => error,
    };
    init::send_error(report, &error);
    fork::exit_now(125)
}

fn settle(plan: &ExecPlan, stdio: (OwnedFd, OwnedFd, OwnedFd)) -> Result<(), StartError> {
    rustix::process::setsid().step(|| "cannot begin a session".to_owned())?;
    if plan.terminal.is_some() {
        terminal::make_controlling(&stdio.0).step(|| "cannot take the terminal".to_owned())?;
    }
    init::install_stdio(stdio)?;
    slipway_fault::point("join.exec.ready");
    fork::cloexec_from(3).step(|| "cannot close what is not the container's".to_owned())
}
