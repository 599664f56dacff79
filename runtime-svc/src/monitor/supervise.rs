//! A monitor's life: start the container, serve its streams and clients, record its end.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Pid, WaitOptions, WaitStatus},
};

use super::{
    execs::{Exec, Progress},
    launch::{Joined, launch},
    listener::{self, Client},
    output::{Output, now},
    protocol::{DATA, END, Event, ExitRecord, JSON, MAX_MESSAGE, Request, Running},
    stdin::Stdin,
};
use crate::{
    cgroup::{Group, Hierarchies, OomWatch},
    executor::{StartError, Step as _, init, plan::ContainerPlan},
    sys::{
        fork::{self},
        heap, prctl, signals,
    },
};

/// How long output may still come after the first process has ended and everything else of the
/// container was killed: only a process outside of it can still hold a pipe.
const DRAIN: Duration = Duration::from_secs(2);

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
    exit_code: Option<i32>,
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
                exit_code: None,
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
        let mut deadline = None;
        let mut segment = self.output.segment();
        self.output.set_needed(self.needed());
        loop {
            if self.exit_code.is_some() {
                let deadline = *deadline.get_or_insert_with(|| std::time::Instant::now() + DRAIN);
                if self.output.sources.is_empty() && !self.output.is_stuck()
                    || std::time::Instant::now() >= deadline
                {
                    break;
                }
            }
            let ready = self.wait(deadline.is_some());
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
        }
        self.finish();
    }

    /// The first position of the log that an attached client needs.
    fn needed(&self) -> Option<u64> {
        let held = self.clients.iter().filter_map(|(_, c)| c.hold);
        held.chain(self.left).min()
    }

    /// Waits for something to happen: what is ready, in the order of the lists.
    fn wait(&self, draining: bool) -> Vec<Source> {
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
        let timeout = (draining || self.output.is_stuck()).then_some(Timespec {
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
            self.clients.push((self.next_client, client));
            self.next_client += 1;
        }
    }

    fn hear(&mut self, index: usize) {
        let mut buffer = vec![0; MAX_MESSAGE];
        let (number, client) = &mut self.clients[index];
        let number = *number;
        let Some((length, fds)) = client.receive(&mut buffer) else {
            return;
        };
        let Some((kind, body)) = buffer[..length].split_first() else {
            return;
        };
        match *kind {
            DATA if client.stdin => self.stdin.push(body),
            END if client.stdin => self.stdin.end(),
            JSON => match serde_json::from_slice(body) {
                Ok(request) => self.serve_request(index, number, request, fds),
                Err(e) => client.tell(&Event::Refused(e.to_string()), &[]),
            },
            _ => client.gone = true,
        }
    }

    fn serve_request(&mut self, index: usize, number: u64, request: Request, fds: Vec<OwnedFd>) {
        let attached = self.clients.iter().filter(|(_, c)| c.stdin).count();
        let client = &mut self.clients[index].1;
        let done: Result<(), io::Error> = match request {
            Request::Attach { stdin: true, .. } if attached >= listener::MAX_ATTACHED => {
                client.gone = true;
                Err(io::Error::other("too many clients are attached to it"))
            }
            Request::Attach { stdin, stdin_once } => {
                // Who sends input reads no output here.
                client.follows = !stdin;
                client.stdin = stdin;
                client.stdin_once = stdin_once;
                let length = self.output.position();
                client.tell(&Event::Grew(length), &[]);
                Ok(())
            }
            Request::Hold(position) => {
                client.hold = position;
                self.left = None;
                let needed = self.needed();
                self.output.set_needed(needed);
                self.clients[index].1.tell(&Event::Held(position), &[]);
                return;
            }
            Request::Resize { rows, columns } => match &self.terminal {
                Some(terminal) => init::set_size(terminal, rows, columns).map_err(io::Error::other),
                None => Ok(()),
            },
            Request::WatchMemory => {
                self.oom = self.oom.take().or_else(|| self.group.watch_oom());
                Ok(())
            }
            Request::FirstProcess => {
                match self.exit_code {
                    None => client.tell(&Event::FirstProcess, &[self.init_fd.as_fd()]),
                    Some(_) => client.tell(&Event::Refused("it has ended".to_owned()), &[]),
                }
                Ok(())
            }
            Request::Signal(signal) => {
                let sent = match self.exit_code {
                    None => crate::sys::signals::send(&self.init_fd, signal),
                    Some(_) => Ok(()),
                };
                if sent.is_ok() {
                    client.tell(&Event::Signalled, &[]);
                }
                sent
            }
            Request::Exec(plan) => {
                let target =
                    rustix::io::fcntl_dupfd_cloexec(&self.init_fd, 3).map_err(io::Error::from);
                let begun = target
                    .map_err(|e| StartError::Failed {
                        step: "cannot join".to_owned(),
                        why: e.to_string(),
                    })
                    .and_then(|target| {
                        Exec::begin(number, &plan, (self.init, target), fds, &self.group)
                    });
                match begun {
                    Ok(exec) => {
                        slipway_fault::point("monitor.exec.forked");
                        self.execs.push(exec);
                    }
                    Err(error) => self.clients[index].1.tell(&Event::ExecFailed(error), &[]),
                }
                return;
            }
        };
        if let Err(e) = done {
            client.tell(&Event::Refused(e.to_string()), &[]);
        }
    }

    fn advance_exec(&mut self, index: usize) {
        let exec = &mut self.execs[index];
        let progress = exec.advance();
        if let Some(at) = self
            .ended
            .iter()
            .position(|(pid, _)| Some(*pid) == exec.pid)
        {
            exec.exit = Some(self.ended.remove(at).1);
        }
        let client = self
            .clients
            .iter_mut()
            .find(|(n, _)| *n == exec.client)
            .map(|(_, c)| c);
        match progress {
            Progress::Wait => {}
            Progress::Started => {
                let terminal = exec.terminal.take();
                slipway_fault::point("monitor.exec.started");
                let pid = exec.pid.map_or(0, |p| p.as_raw_nonzero().get());
                if client.is_none() {
                    exec.client_left();
                }
                if let Some(client) = client {
                    let fds: Vec<_> = terminal.iter().map(|t| t.as_fd()).collect();
                    client.tell(&Event::ExecStarted { pid }, &fds);
                    if let Some(code) = exec.exit {
                        client.tell(&Event::ExecExited { code }, &[]);
                    }
                }
                if exec.exit.is_some() {
                    exec.pid = None;
                }
            }
            Progress::Failed(error) => {
                if let Some(client) = client {
                    client.tell(&Event::ExecFailed(error), &[]);
                }
                exec.pid = None;
            }
        }
    }

    /// Collects ended children.
    fn reap(&mut self) {
        let mut drain = [0; 1024];
        while rustix::io::read(&self.signals, &mut drain).is_ok_and(|n| n > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some(code) = shell_code(status) else {
                continue;
            };
            if pid == self.init {
                slipway_fault::point("monitor.end.reaped");
                self.exit_code = Some(code);
                // Without a process namespace of its own the rest lives on, and would hold the pipes.
                let _ = self.group.kill();
                slipway_fault::point("monitor.end.killed");
                continue;
            }
            if let Some(exec) = self.execs.iter_mut().find(|e| e.helper == Some(pid)) {
                exec.helper = None;
            } else if let Some(exec) = self.execs.iter_mut().find(|e| e.pid == Some(pid)) {
                if exec.report.is_some() {
                    exec.exit = Some(code);
                    continue;
                }
                exec.pid = None;
                slipway_fault::point("monitor.exec.ended");
                let number = exec.client;
                if let Some((_, client)) = self.clients.iter_mut().find(|(n, _)| *n == number) {
                    client.tell(&Event::ExecExited { code }, &[]);
                }
            } else {
                // Ended before its pid was reported, or of an exec that failed.
                if self.ended.len() == MAX_ENDED {
                    self.ended.remove(0);
                }
                self.ended.push((pid, code));
            }
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

    /// Records the end, tells it at once, and clears up.
    fn finish(&mut self) {
        let record = ExitRecord {
            code: self.exit_code.unwrap_or(137),
            oom_killed: self.group.oom_killed(),
            started: self.running.started,
            finished: now(),
            error: String::new(),
        };
        let path = &self.plan.files.exit;
        slipway_fault::point("monitor.end.drained");
        // A full disk: wait for room, since an exit code must not be lost.
        while record.write(path).is_err() {
            if !path.parent().is_some_and(std::path::Path::exists) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        slipway_fault::point("monitor.end.recorded");
        // Its last moment may have been that one.
        self.hear_of_memory();
        self.oom = None;
        for (_, client) in &mut self.clients {
            client.tell(&Event::Exited(record.clone()), &[]);
        }
        // Who needs that to be done waits until we hang up; who comes now is never greeted, and finds us
        // gone. What cannot be removed is found and removed with the container.
        let _ = self.group.remove();
        slipway_fault::point("monitor.end.uncgrouped");
        let _ = std::fs::remove_file(&self.plan.files.socket);
        slipway_fault::point("monitor.end.closed");
    }
}

/// As a shell reports an end; `None` when it is none.
fn shell_code(status: WaitStatus) -> Option<i32> {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}
