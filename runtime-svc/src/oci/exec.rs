//! `exec`.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::Process as Given;
use rustix::{
    net::{RecvFlags, SendFlags},
    process::{Pid, PidfdFlags, Signal, WaitOptions},
};

use super::{
    Error,
    agent::{self, Agent},
    cli, config, console, create, foreground, make,
    state::{Alive, Record, Status, Store},
};
use crate::{
    cgroup::Group,
    executor::{
        StartError, capabilities, join, launch,
        plan::{ExecPlan, Label, Namespace, Process, Stdio},
    },
    monitor::supervise::message_pair,
    oci::error::Tried as _,
    sys::{fdpass, fork::Clone},
};

/// Runs a further process in a container.
pub fn exec(store: &Store, options: &cli::Exec) -> Result<u8, Error> {
    let id = &options.id;
    // Before anything of ours is open: it could be taken for one of the caller's.
    let descriptors = create::descriptors(options.preserve_fds)?;
    let record = store.read(id)?;
    let alive = match store.status(&record) {
        (Status::Paused, Some(alive)) if options.ignore_paused => alive,
        (Status::Paused, _) => {
            return Err(Error::Conflict(format!(
                "cannot exec in a paused container (use --ignore-paused to override): {id}"
            )));
        }
        (_, Some(alive)) => alive,
        (_, None) => {
            return Err(Error::Conflict(format!(
                "cannot exec in a container that is not running: {id}"
            )));
        }
    };
    if options
        .process_label
        .as_ref()
        .is_some_and(|label| !label.is_empty())
    {
        return Err(Error::Unsupported(
            "--process-label: SELinux is not supported".to_owned(),
        ));
    }
    if !options.cgroup.is_empty() {
        return Err(Error::Unsupported(
            "--cgroup: a process begins in the container's own group".to_owned(),
        ));
    }
    let (process, stdio) = process(&record, options, descriptors)?;
    console::check(stdio, options.console_socket.as_deref(), options.detach)?;
    let plan = ExecPlan {
        process,
        terminal: create::size(stdio),
        ends_with_client: false,
        user: record.plan.user.clone(),
        time: record.plan.time.namespace != Namespace::Host,
    };
    let group = record.group()?;
    if !options.detach {
        foreground::block_signals()?;
    }
    let (pid, mut terminal) = join(&plan, alive, &group, &record)?;
    if let (Some(socket), Some(master)) = (&options.console_socket, &terminal) {
        console::send(socket, master)?;
        terminal = None;
    }
    if let Some(path) = &options.pid_file {
        make::write_pid(path, pid)?;
    }
    if options.detach {
        return Ok(0);
    }
    foreground::wait(pid, terminal, None)
}

/// What is to run: what a file says, or the container's own process with the options' changes.
fn process(
    record: &Record,
    options: &cli::Exec,
    descriptors: u32,
) -> Result<(Process, Stdio), Error> {
    let container = &record.plan.process;
    let Some(path) = &options.process else {
        return changed(container, options, descriptors);
    };
    let given: Given = serde_json::from_str(&config::read(path)?)
        .map_err(|e| Error::Invalid(format!("{} is not understood: {e}", path.display())))?;
    let mut process = config::process::process(&given, descriptors)?;
    process.seccomp = container.seccomp.clone();
    inherit(&mut process, &given, container);
    process.tuning.personality = container.tuning.personality;
    process.tuning.processors = config::process::processors(&given)?;
    let stdio = match given.terminal().unwrap_or(false) || options.tty {
        true => config::terminal(&given),
        false => Stdio::Pipes { stdin: true },
    };
    Ok((process, stdio))
}

/// What the file does not say is as for the container's own process (runc, newInitConfig): above all its
/// profile, without which it would be less confined than what it joins.
fn inherit(process: &mut Process, given: &Given, container: &Process) {
    if process.label == Label::None && given.apparmor_profile().is_none() {
        process.label = container.label.clone();
    }
    if given.capabilities().is_none() {
        process.sets = container.sets;
        process.capabilities = container.capabilities;
    }
    if process.rlimits.is_empty() {
        process.rlimits = container.rlimits.clone();
    }
    process.oom_score_adj = process.oom_score_adj.or(container.oom_score_adj);
}

fn changed(
    container: &Process,
    options: &cli::Exec,
    descriptors: u32,
) -> Result<(Process, Stdio), Error> {
    let mut process = container.clone();
    if options.command.is_empty() {
        return Err(Error::invalid("exec needs a program, or --process"));
    }
    process.args = options.command.clone();
    process.descriptors = descriptors;
    process.env.extend(options.env.iter().cloned());
    if let Some(cwd) = &options.cwd {
        if !cwd.starts_with('/') {
            return Err(Error::Invalid(format!(
                "--cwd {cwd:?} is not an absolute path"
            )));
        }
        process.working_dir = cwd.clone();
    }
    if let Some(profile) = &options.apparmor {
        process.label = config::process::label(Some(profile));
    }
    process.no_new_privs |= options.no_new_privs;
    let mut identity = process.identity.take().unwrap_or_default();
    if let Some(user) = &options.user {
        let bad = || Error::Invalid(format!("--user {user:?} is not UID[:GID] in numbers"));
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (&**user, None),
        };
        identity.uid = uid.parse().map_err(|_| bad())?;
        if let Some(gid) = gid {
            identity.gid = gid.parse().map_err(|_| bad())?;
        }
    }
    identity.groups.extend(&options.additional_gids);
    process.identity = Some(identity);
    let mut sets = process.sets.unwrap_or_default();
    for name in &options.cap {
        let bit = capabilities::bit(name).map_err(Error::invalid)?;
        sets.bounding |= bit;
        sets.effective |= bit;
        sets.permitted |= bit;
        // Never inheritable: file capabilities of the image would raise privileges by it (CVE-2022-29162).
        // Ambient are only those that are inheritable anyway.
        sets.ambient |= bit & sets.inheritable;
    }
    process.capabilities = sets.effective;
    process.sets = Some(sets);
    let stdio = match options.tty {
        true => Stdio::Terminal {
            rows: 0,
            columns: 0,
            stdin: true,
        },
        false => Stdio::Pipes { stdin: true },
    };
    Ok((process, stdio))
}

/// Makes it a process of the container. It is our child.
fn join(
    plan: &ExecPlan,
    Alive {
        pid: first,
        pidfd: target,
    }: Alive,
    group: &Group,
    record: &Record,
) -> Result<(Pid, Option<OwnedFd>), Error> {
    let what = || "cannot join the container".to_owned();
    let (ours, theirs) = message_pair().tried(what)?;
    let stdio = match plan.terminal {
        Some(_) => None,
        None => Some(make::own_streams()?),
    };
    let (cloned, began_inside) = group.begin_beside(first).tried(what)?;
    let helper = match cloned {
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
        Clone::Parent(helper, _) => helper,
    };
    drop((theirs, stdio));
    if !began_inside {
        group.add_unified(helper).tried(what)?;
    }
    fdpass::send(ours.as_fd(), b"g", &[], SendFlags::empty()).tried(what)?;
    let mut pid = None;
    let heard = hear(&ours, &mut pid, (record, first));
    if let (Err(_), Some(process)) = (&heard, pid) {
        // Nothing of it stays: with the only descriptor of its own filter it could wait for itself for ever.
        // It is our child, and not waited for yet. Gone already is fine.
        let _ = rustix::process::kill_process(process, Signal::KILL);
        let _ = rustix::process::waitpid(Some(process), WaitOptions::empty());
    }
    // The process that joined the namespaces ends by itself.
    rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(helper), WaitOptions::empty()))
        .tried(what)?;
    let terminal = heard?;
    let pid = pid.ok_or_else(|| {
        Error::Start(StartError::Failed {
            step: what(),
            why: "the process ended on the way".to_owned(),
        })
    })?;
    Ok((pid, terminal))
}

/// Until the program is executed: its terminal, if it has one. `pid` is its number as soon as that is known.
fn hear(
    report: &OwnedFd,
    pid: &mut Option<Pid>,
    container: (&Record, Pid),
) -> Result<Option<OwnedFd>, Error> {
    let what = || "cannot join the container".to_owned();
    let (mut terminal, mut listens, mut agent) = (None, None, None);
    let mut buffer = [0; 16 << 10];
    loop {
        let heard = fdpass::receive(report, &mut buffer, RecvFlags::empty());
        let (length, mut fds) = match (heard, agent) {
            (Err(e), Some(agent)) if agent::late(&e) => return Err(Agent::held_up(agent)),
            (heard, _) => heard.tried(what)?,
        };
        let message = &buffer[..length];
        let number = std::str::from_utf8(message)
            .ok()
            .and_then(|text| text.parse().ok());
        match (message, number.and_then(Pid::from_raw)) {
            (b"terminal", _) => terminal = fds.pop(),
            (message, _) if launch::listens(message).is_some() => {
                listens = launch::listens(message);
            }
            (_, Some(number)) => *pid = Some(number),
            ([], None) => return Ok(terminal),
            (error, None) => {
                make::answered(error)?;
            }
        }
        // The process may say that before it is known which one it is.
        if let (Some(process), Some(number)) = (*pid, listens) {
            listens = None;
            let told = tell_agent(container, process, number)?;
            told.limit(report, Some(agent::PATIENCE))?;
            agent = Some(told);
            fdpass::send(report.as_fd(), b"g", &[], SendFlags::empty()).tried(what)?;
        }
    }
}

/// Hands the listener of a further process over; to whom.
fn tell_agent(
    (record, first): (&Record, Pid),
    process: Pid,
    listener: i32,
) -> Result<&Agent, Error> {
    let agent = record.outside.agent.as_ref();
    let agent = agent.ok_or_else(|| Error::invalid("there is no seccomp agent"))?;
    // It is our child, and not waited for yet: the number is its own.
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty())
        .tried(|| "cannot join the container".to_owned())?;
    let state = (record.plan.hooks.about).state("running", first.as_raw_pid());
    let listener = agent::take(&pidfd, listener)?;
    agent.tell(&state, process, &listener)?;
    Ok(agent)
}
