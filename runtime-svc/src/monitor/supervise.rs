//! A monitor's life: start the container, serve its streams and clients, record its end.

use std::{io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType},
    process::Pid,
};

mod end;
mod requests;

use self::end::Ending;
use super::{
    execs::Exec,
    launch::{Joined, launch},
    listener::{self, Client},
    output::{Output, now},
    protocol::{Event, Running},
    stdin::Stdin,
};
use crate::{
    cgroup::{Group, Hierarchies, OomWatch},
    executor::{StartError, Step as _, plan::ContainerPlan},
    sys::{
        fork::{self},
        heap, prctl, signals,
    },
};

/// Runs a monitor. `requester` is the first client; it is told whether the container runs. `held` is
/// dropped as soon as the monitor can be found by its socket.
pub fn run(
    plan: &ContainerPlan,
    requester: OwnedFd,
    joined: Joined,
    held: OwnedFd,
    ready: Result<Ready, StartError>,
) -> ! {
    let mut first = Client::new(requester);
    let error = match ready.and_then(|ready| start(plan, joined, held, ready)) {
        Ok(mut monitor) => {
            first.tell(&Event::Running(monitor.running.clone()), &[]);
            // Who is attached from the beginning loses nothing, however late it is heard of.
            first.hold = Some(monitor.running.log_start);
            monitor.clients.push((0, first));
            // What the start took. The container runs: nobody waits for this.
            heap::give_back();
            slipway_fault::point("monitor.start.told");
            monitor.serve();
            fork::exit_now(0)
        }
        Err(error) => error,
    };
    let _ = std::fs::remove_file(&plan.files.socket);
    first.tell(&Event::Failed(error), &[]);
    fork::exit_now(1)
}

/// What a monitor has of its own whatever it is asked for.
pub struct Ready {
    signals: OwnedFd,
    hierarchies: Hierarchies,
}

impl Ready {
    /// Makes this process one that stands alone.
    pub fn make() -> Result<Self, StartError> {
        settle()?;
        Ok(Self {
            signals: child_signals().step(|| "cannot watch for ended processes".to_owned())?,
            hierarchies: Hierarchies::detect().step(|| "cannot look at the cgroups".to_owned())?,
        })
    }
}

/// A pair of connected sockets that keep messages apart.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

struct Monitor<'a> {
    plan: &'a ContainerPlan,
    group: Group,
    init: Pid,
    init_fd: OwnedFd,
    running: Running,
    output: Output,
    stdin: Stdin,
    /// The terminal, for its size.
    terminal: Option<OwnedFd>,
    /// Its mounts go with us, after everybody has been told.
    _mounts: Option<OwnedFd>,
    listener: OwnedFd,
    signals: OwnedFd,
    /// Only with a limit of memory: others hardly run out of it, and tell at their end.
    oom: Option<OomWatch>,
    clients: Vec<(u64, Client)>,
    next_client: u64,
    execs: Vec<Exec>,
    /// The first process has ended.
    ending: Option<Ending>,
    /// Nobody will read the log any more.
    discarded: bool,
    /// What is kept until runtime-svc says who reads: at first everything, since whoever runs a container
    /// attached misses nothing; later what clients held who went without a word, as runtime-svc does when
    /// it is killed: its next instance goes on from there, and says so.
    left: Option<u64>,
    /// Children that ended and that no exec has claimed yet, newest last.
    ended: Vec<(Pid, i32)>,
}

/// How many unclaimed ends are kept.
const MAX_ENDED: usize = 64;

fn start<'a>(
    plan: &'a ContainerPlan,
    joined: Joined,
    held: OwnedFd,
    ready: Ready,
) -> Result<Monitor<'a>, StartError> {
    let Ready {
        signals,
        hierarchies,
    } = ready;
    prctl::set_name(c"slipway-monitor").step(|| "cannot set the monitor up".to_owned())?;
    slipway_fault::point("monitor.start.begun");
    let listener = listener::bind(&plan.files.socket)
        .step(|| "cannot make the monitor's socket".to_owned())?;
    drop(held);
    slipway_fault::point("monitor.start.listening");
    let output = Output::open(plan.files.log.as_deref(), plan.files.log_limits)
        .step(|| "cannot open the log".to_owned())?;
    let log_start = output.position();
    slipway_fault::point("monitor.start.log");
    let group = Group::create_first(&hierarchies, &plan.cgroup)
        .step(|| "cannot make the cgroups".to_owned())?;
    slipway_fault::point("monitor.start.cgroup");
    match launch(plan, joined, &group) {
        Ok(launched) => {
            slipway_fault::point("monitor.start.launched");
            let running = Running {
                pid: launched.init.as_raw_nonzero().get(),
                monitor_pid: rustix::process::getpid().as_raw_nonzero().get(),
                started: now(),
                log_start,
            };
            let mut output = output;
            output.sources = launched.sources;
            let limited = plan.cgroup.limits.memory.is_some();
            let oom = limited.then(|| group.watch_oom()).flatten();
            Ok(Monitor {
                plan,
                group,
                init: launched.init,
                init_fd: launched.init_fd,
                running,
                output,
                stdin: Stdin::new(launched.stdin, launched.terminal.is_some()),
                terminal: launched.terminal,
                _mounts: launched.mounts,
                listener,
                signals,
                oom,
                clients: Vec::new(),
                next_client: 1,
                execs: Vec::new(),
                ending: None,
                discarded: false,
                left: Some(log_start),
                ended: Vec::new(),
            })
        }
        Err(error) => {
            // Whatever began is ended; the error that the caller gets is the first one.
            let _ = group.kill();
            let _ = group.remove();
            Err(error)
        }
    }
}

/// Makes this process one that stands alone.
fn settle() -> Result<(), StartError> {
    let what = || "cannot set the monitor up".to_owned();
    rustix::process::setsid().step(what)?;
    rustix::process::chdir("/").step(what)?;
    use nix::sys::signal::Signal;
    // Its end is the container's end: only SIGKILL may bring it about.
    for signal in [
        Signal::SIGPIPE,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGQUIT,
    ] {
        signals::ignore(signal).step(what)?;
    }
    Ok(())
}

fn child_signals() -> io::Result<OwnedFd> {
    use nix::sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    };
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?.into())
}

/// What a descriptor of the poll set belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    OutOfMemory,
    Output(usize),
    Stdin,
    Client(usize),
    Exec(usize),
}

impl Monitor<'_> {
    fn serve(&mut self) {
        let mut segment = self.output.segment();
        self.output.set_needed(self.needed());
        let record = loop {
            if let Some(record) = self.is_over() {
                break record;
            }
            let ready = self.wait();
            if self.output.is_stuck() {
                self.output.retry();
            }
            let mut grew = false;
            for source in ready.into_iter().rev() {
                match source {
                    Source::Signals => self.reap(),
                    Source::Listener => self.accept(),
                    Source::OutOfMemory => self.hear_of_memory(),
                    Source::Output(index) => grew |= self.output.pump(index),
                    Source::Stdin => self.stdin.flush(),
                    Source::Client(index) => self.hear(index),
                    Source::Exec(index) => self.advance_exec(index),
                }
            }
            if grew {
                let event = Event::Grew(self.output.position());
                let begun = self.output.segment();
                let rotated = (begun != std::mem::replace(&mut segment, begun))
                    .then_some(Event::Rotated(begun));
                for (_, client) in self.clients.iter_mut().filter(|(_, c)| c.follows) {
                    client.tell(&event, &[]);
                    if let Some(rotated) = &rotated {
                        client.tell(rotated, &[]);
                    }
                }
            }
            self.drop_clients();
            self.execs.retain(|e| e.report.is_some() || e.pid.is_some());
            if self.execs.iter().all(|e| e.report.is_none()) {
                // Nobody will claim them, and their numbers may go to others.
                self.ended.clear();
            }
        };
        self.finish(&record);
    }

    /// The first position of the log that an attached client needs.
    fn needed(&self) -> Option<u64> {
        let held = self.clients.iter().filter_map(|(_, c)| c.hold);
        held.chain(self.left).min()
    }

    /// Waits for something to happen: what is ready, in the order of the lists.
    fn wait(&self) -> Vec<Source> {
        let mut names = vec![Source::Signals, Source::Listener];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        if let Some(watch) = &self.oom {
            let (fd, interest) = watch.interest();
            names.push(Source::OutOfMemory);
            fds.push(PollFd::from_borrowed_fd(fd, interest));
        }
        if !self.output.is_stuck() {
            for (i, source) in self.output.sources.iter().enumerate() {
                names.push(Source::Output(i));
                fds.push(PollFd::new(&source.fd, PollFlags::IN));
            }
        }
        if let Some(fd) = self.stdin.wants_to_write() {
            names.push(Source::Stdin);
            fds.push(PollFd::new(fd, PollFlags::OUT));
        }
        for (i, (_, client)) in self.clients.iter().enumerate() {
            // A client with input for a full pipe waits, but its going away is seen (POLLHUP).
            let interest = if client.stdin && !self.stdin.has_room() {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            names.push(Source::Client(i));
            fds.push(PollFd::new(&client.socket, interest));
        }
        for (i, exec) in self.execs.iter().enumerate() {
            if let Some(report) = &exec.report {
                names.push(Source::Exec(i));
                fds.push(PollFd::new(report, PollFlags::IN));
            }
        }
        let timeout = (self.ending.is_some() || self.output.is_stuck()).then_some(Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => names
                .iter()
                .zip(&fds)
                .filter(|(_, fd)| !fd.revents().is_empty())
                .map(|(n, _)| *n)
                .collect(),
            Err(_) => Vec::new(),
        }
    }

    fn hear_of_memory(&mut self) {
        if self.oom.as_mut().is_some_and(OomWatch::happened) {
            for (_, client) in self.clients.iter_mut().filter(|(_, c)| c.follows) {
                client.tell(&Event::OutOfMemory, &[]);
            }
        }
    }

    fn accept(&mut self) {
        if let Some(mut client) = listener::accept(&self.listener, self.clients.len()) {
            client.tell(&Event::Running(self.running.clone()), &[]);
            if self.ending.as_ref().is_some_and(|ending| ending.known)
                && let Some(record) = self.record()
            {
                client.tell(&Event::Ended(record), &[]);
            }
            self.clients.push((self.next_client, client));
            self.next_client += 1;
        }
    }

    fn drop_clients(&mut self) {
        let ends_stdin = self
            .clients
            .iter()
            .any(|(_, c)| c.gone && c.stdin && c.stdin_once);
        for (number, _) in self.clients.iter().filter(|(_, c)| c.gone) {
            for exec in &mut self.execs {
                if exec.client == *number {
                    exec.client_left();
                }
            }
        }
        let before = self.clients.len();
        let gone = self.clients.iter().filter(|(_, c)| c.gone);
        self.left = gone.filter_map(|(_, c)| c.hold).chain(self.left).min();
        self.clients.retain(|(_, c)| !c.gone);
        if self.clients.len() != before {
            let needed = self.needed();
            self.output.set_needed(needed);
        }
        if ends_stdin {
            self.stdin.end();
        }
    }
}
