//! `create` and `run`.

use std::os::fd::OwnedFd;

use rustix::process::PidfdFlags;

use super::{
    Error,
    cli::{Create, Run},
    config::{self, Container},
    console, foreground,
    log::Log,
    make::{self, Making, Step},
    notify::{self, Listener},
    remove,
    state::{Held, Process, Record, Store},
};
use crate::{
    cgroup::{Group, Hierarchies},
    executor::{
        hooks,
        plan::{ContainerPlan, Stdio, UserMap},
    },
    oci::error::Tried as _,
};

/// Makes a container whose program waits for `start`.
pub fn create(store: &Store, options: &Create, systemd: bool) -> Result<u8, Error> {
    let Container {
        mut plan,
        outside,
        mappings,
        hierarchies,
    } = understand(options, systemd)?;
    console::check(plan.stdio, options.console_socket.as_deref(), true)?;
    let held = store.claim(&options.id)?;
    let offered = notify::offer(held.folder(), &mut plan);
    let fifos = match offered.and_then(|()| held.make_gate()) {
        Ok(fifos) => fifos,
        Err(error) => return Err(undone(held, error)),
    };
    let record = new_record(plan, outside);
    match made(
        held,
        record,
        (&mappings, &hierarchies),
        options,
        Some(fifos),
    ) {
        Ok(Made { making, record, .. }) => making.go(&record.plan.hooks).map(|_| 0),
        Err(error) => Err(error),
    }
}

/// Makes a container, runs its program to its end unless it is to be left alone, and deletes it.
pub fn run(store: &Store, options: &Run, systemd: bool, log: &Log) -> Result<u8, Error> {
    let Run {
        create,
        detach,
        keep,
        ..
    } = options;
    let Container {
        mut plan,
        outside,
        mappings,
        hierarchies,
    } = understand(create, systemd)?;
    console::check(plan.stdio, create.console_socket.as_deref(), *detach)?;
    let held = store.claim(&create.id)?;
    let notify = notify::offer(held.folder(), &mut plan);
    let notify = match notify.and_then(|()| Listener::bind(held.folder())) {
        Ok(notify) => notify,
        Err(error) => return Err(undone(held, error)),
    };
    let record = new_record(plan, outside);
    if !detach {
        if !options.no_subreaper {
            crate::sys::prctl::set_child_subreaper()
                .tried(|| "cannot become the subreaper".to_owned())?;
        }
        // Before there is a process whose end could be missed.
        foreground::block_signals()?;
    }
    let Made {
        making,
        held,
        record,
        terminal,
    } = made(held, record, (&mappings, &hierarchies), create, None)?;
    let pid = making.pid;
    let began = making.go(&record.plan.hooks);
    let began = began.and_then(|gone| gone.until_executed());
    let began = began.and_then(|()| {
        let about = &record.plan.hooks.about;
        let number = pid.as_raw_pid();
        Ok(hooks::run_all(
            "poststart",
            &record.outside.poststart,
            about,
            "running",
            number,
        )?)
    });
    if let Err(error) = began {
        remove::destroy(held, &record, log)?;
        return Err(error);
    }
    // Others may ask for it meanwhile, or kill it.
    drop(held);
    if *detach {
        if let Some(notify) = notify {
            // It is our child and not waited for: the number is its own, also when it has ended, and what it
            // said before that counts.
            let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .tried(|| "cannot wait for the container".to_owned())?;
            notify.until_ready(pid.as_raw_pid(), &process)?;
        }
        return Ok(0);
    }
    let code = foreground::wait(pid, terminal, notify.map(|notify| (notify, log)))?;
    if !keep {
        match store.hold(&create.id) {
            Ok(held) => remove::destroy(held, &record, log)?,
            // Somebody has deleted it.
            Err(Error::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(code)
}

fn understand(options: &Create, systemd: bool) -> Result<Container, Error> {
    if options.no_pivot {
        return Err(Error::Unsupported(
            "--no-pivot is not supported: without pivot_root(2) a container can get at the host's files".to_owned(),
        ));
    }
    let descriptors = descriptors(options.preserve_fds)?;
    let given = config::Options {
        systemd,
        keep_keyring: options.no_new_keyring,
        descriptors,
    };
    let mut container = config::load(&options.bundle, &options.id, given)?;
    if let Some(listen) = listen_fds() {
        // As runc: sockets that systemd opened are the container's, whose program is pid 1.
        let env = &mut container.plan.process.env;
        env.push(format!("LISTEN_FDS={listen}"));
        env.push("LISTEN_PID=1".to_owned());
    }
    Ok(container)
}

fn listen_fds() -> Option<u32> {
    std::env::var("LISTEN_FDS")
        .ok()?
        .parse()
        .ok()
        .filter(|n| *n > 0)
}

/// How many descriptors are handed on: those of the option and those of systemd.
pub fn descriptors(preserve: u32) -> Result<u32, Error> {
    let count = preserve.saturating_add(listen_fds().unwrap_or(0));
    for number in 3..3_u32.saturating_add(count) {
        if !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
            return Err(Error::Invalid(format!(
                "--preserve-fds: descriptor {number} is not open"
            )));
        }
    }
    Ok(count)
}

fn new_record(plan: ContainerPlan, outside: config::Outside) -> Record {
    Record {
        plan,
        outside,
        process: None,
        created: jiff::Timestamp::now().to_string(),
    }
}

/// A container at its gate.
struct Made {
    making: Making,
    held: Held,
    record: Record,
    terminal: Option<OwnedFd>,
}

/// Everything up to the gate; takes everything back when something fails.
fn made(
    held: Held,
    mut record: Record,
    (mappings, hierarchies): (&[UserMap], &Hierarchies),
    options: &Create,
    fifos: Option<(OwnedFd, OwnedFd)>,
) -> Result<Made, Error> {
    let group = Group::open(hierarchies, &record.plan.cgroup.path);
    match group.processes() {
        // runc: a group that is somebody's already must not be taken over, and killed with the container.
        Ok(processes) if !processes.is_empty() => {
            let why = format!("the cgroup {} is not empty", record.plan.cgroup.path);
            return Err(undone(held, Error::Conflict(why)));
        }
        _ => {}
    }
    let mut hooked = false;
    let attempt = (|| {
        // Whatever happens from here on, there is a record of what to take away.
        held.save(&record)?;
        let group = Group::create(hierarchies, &record.plan.cgroup)
            .tried(|| "cannot make the container's cgroups".to_owned())?;
        let mut making = make::begin(&record.plan, mappings, &group, fifos)?;
        let mut terminal = None;
        loop {
            match making.next()? {
                Step::Terminal(master) => terminal = Some(master),
                Step::Mounted => {
                    hooked = true;
                    run_outside(&record, making.pid.as_raw_pid())?;
                    making.go_on()?;
                }
                Step::Listens(listener) => {
                    let about = &record.plan.hooks.about;
                    let state = about.state("creating", making.pid.as_raw_pid());
                    match &record.outside.agent {
                        Some(agent) => {
                            agent.tell(&state, making.pid, &listener)?;
                            making.asks(agent)?;
                        }
                        None => return Err(Error::invalid("there is no seccomp agent")),
                    }
                    making.go_on()?;
                }
                Step::Ready => break,
            }
        }
        if let (Some(socket), Some(master)) = (&options.console_socket, &terminal) {
            console::send(socket, master)?;
            terminal = None;
        }
        record.process = Process::of(making.pid);
        held.save(&record)?;
        if let Some(path) = &options.pid_file {
            make::write_pid(path, making.pid)?;
        }
        Ok((making, terminal))
    })();
    match attempt {
        Ok((making, terminal)) => Ok(Made {
            making,
            held,
            record,
            terminal,
        }),
        Err(error) => {
            // Its first process is gone; what it left goes now. The error that counts is the first one.
            let _ = remove::empty(&group).and_then(|()| group.remove());
            if hooked {
                for (number, hook) in record.outside.poststop.iter().enumerate() {
                    let about = &record.plan.hooks.about;
                    let _ = hooks::run("poststop", number, hook, &about.state("stopped", 0));
                }
            }
            Err(undone(held, error))
        }
    }
}

fn run_outside(record: &Record, pid: i32) -> Result<(), Error> {
    let about = &record.plan.hooks.about;
    hooks::run_all("prestart", &record.outside.prestart, about, "creating", pid)?;
    let run = &record.outside.create_runtime;
    Ok(hooks::run_all(
        "createRuntime",
        run,
        about,
        "creating",
        pid,
    )?)
}

/// Gives an id back.
fn undone(held: Held, error: Error) -> Error {
    match held.forget() {
        Ok(()) => error,
        Err(more) => Error::Conflict(format!("{error}; then {more}")),
    }
}

/// Rows and columns.
pub const fn size(stdio: Stdio) -> Option<(u16, u16)> {
    match stdio {
        Stdio::Terminal { rows, columns, .. } => Some((rows, columns)),
        Stdio::Pipes { .. } => None,
    }
}
