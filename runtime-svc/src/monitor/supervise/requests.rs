//! What clients ask of a monitor, and the processes that it starts for them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{
    super::{
        execs::{Exec, Progress},
        listener,
        protocol::{DATA, END, Event, JSON, MAX_MESSAGE, Request},
    },
    Monitor,
};
use crate::executor::{StartError, init};

impl Monitor<'_> {
    pub(super) fn hear(&mut self, index: usize) {
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
            Request::Discard => {
                client.tell(&Event::Discarded, &[]);
                self.discarded = true;
                Ok(())
            }
            Request::FirstProcess => {
                match self.ending {
                    None => client.tell(&Event::FirstProcess, &[self.init_fd.as_fd()]),
                    Some(_) => client.tell(&Event::Refused("it has ended".to_owned()), &[]),
                }
                Ok(())
            }
            Request::Signal(signal) => {
                let sent = match self.ending {
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

    pub(super) fn advance_exec(&mut self, index: usize) {
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
                }
                if let Some(code) = exec.exit {
                    exec.pid = None;
                    let number = exec.client;
                    self.exec_has_ended(number, code);
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
}
