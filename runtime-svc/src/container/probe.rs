//! Looking after the health of running containers: a probe every so often, its result kept.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::pipe::PipeFlags;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    exec::ExecSpec,
    health::{Check, Health, MOST_OUTPUT, Outcome, State},
    manager::Manager,
    state::{Container, Status},
};
use crate::{
    error::{Error, Tried as _},
    monitor::{now, protocol::Event},
    sys::asyncfd,
};

impl Manager {
    /// A container begins: nothing is known of its health yet.
    pub(super) fn begin_health(&self, container: &Arc<Container>) {
        if container.record().effective.health.is_none() {
            return;
        }
        container.with_health(|health| {
            *health = Some(health.take().unwrap_or_default().begun());
        });
        keep(container);
    }

    /// A container that outlived the last instance of the service, or ended under it: what that knew.
    pub(super) fn resume_health(&self, container: &Container) {
        if container.record().effective.health.is_some() {
            let known = Health::read(&container.health_file()).unwrap_or_default();
            container.with_health(|health| *health = Some(known));
        }
    }

    /// A container has ended: as docker, what does not run is not healthy.
    pub(super) fn end_health(&self, container: &Container) {
        let was = container.with_health(|health| {
            let health = health.as_mut()?;
            Some(std::mem::replace(&mut health.state, State::Unhealthy))
        });
        if was.is_some() {
            keep(container);
        }
    }

    /// Probes a running container until it has ended. `started` tells this run from others.
    pub(super) async fn look_after(self, container: Arc<Container>, check: Check, started: u64) {
        let mut status = container.watch();
        let over = |s: &Status| !matches!(s, Status::Running { running, .. } if running.started == started);
        loop {
            let age = Duration::from_nanos(now().saturating_sub(started));
            let state = container.health().unwrap_or_default().state;
            let ended = status.wait_for(over);
            if tokio::time::timeout(check.wait(state, age), ended)
                .await
                .is_ok()
            {
                return;
            }
            // A frozen container is not asked: its answer would only come when it goes on.
            let awake = |s: &Status| over(s) || matches!(s, Status::Running { paused: false, .. });
            // The sender lives as long as the container.
            let _ = status.wait_for(awake).await;
            if over(&container.status()) {
                return;
            }
            let start = now();
            let result = tokio::select! {
                result = self.probe(&container, &check) => result,
                // With the connection goes the probe.
                _ = status.wait_for(over) => return,
            };
            let (code, output) = result.unwrap_or_else(|error| (-1, error.to_string()));
            if over(&container.status()) {
                return;
            }
            let outcome = Outcome {
                start,
                end: now(),
                code,
                output,
            };
            let changed = container.with_health(|health| {
                health
                    .get_or_insert_default()
                    .take(&check, started, outcome)
            });
            keep(&container);
            if let Some(state) = changed {
                self.tell(&container, &format!("health_status: {}", state.word()), &[]);
            }
        }
    }

    /// One probe: its exit code and what it wrote.
    async fn probe(&self, container: &Container, check: &Check) -> Result<(i32, String), Error> {
        let what = || "cannot make a pipe".to_owned();
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).tried(what)?;
        rustix::io::ioctl_fionbio(&read, true).tried(what)?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).tried(what)?;
        let output = asyncfd::register(read).tried(what)?;
        let spec = ExecSpec {
            command: check.command.clone(),
            ends_with_client: true,
            ..ExecSpec::default()
        };
        let id = crate::ids::new_id();
        let command = check.command.join(" ");
        self.tell_exec(container, &format!("exec_create: {command}"), &id, None);
        let fds = [null.as_fd(), write.as_fd(), write.as_fd()];
        let connection = self.exec(container, spec, &fds).await?;
        drop((null, write));
        let mut kept = Kept::default();
        let ended = async {
            let reading = kept.read(&output);
            tokio::pin!(reading);
            let events = async {
                loop {
                    let next = connection.next().await;
                    let event = next.tried(|| "cannot hear from the monitor".to_owned())?;
                    match event.map(|(event, _)| event) {
                        Some(Event::ExecStarted { .. }) => {
                            let action = format!("exec_start: {command}");
                            self.tell_exec(container, &action, &id, None);
                        }
                        Some(Event::ExecExited { code }) => return Ok(code),
                        Some(Event::ExecFailed(error)) => return Err(Error::from(error)),
                        Some(Event::Refused(why)) => return Err(Error::Conflict(why)),
                        Some(_) => {}
                        None => {
                            let name = container.name();
                            return Err(Error::Conflict(format!("container {name} has ended")));
                        }
                    }
                }
            };
            tokio::pin!(events);
            tokio::select! {
                code = &mut events => code,
                () = &mut reading => events.await,
            }
        };
        let ended = tokio::time::timeout(check.patience(), ended).await;
        match ended {
            Ok(code) => {
                let code = code?;
                // All that it wrote is in the pipe, whoever else may still hold that open.
                kept.drain(&output);
                self.tell_exec(container, "exec_die", &id, Some(code));
                Ok((code, kept.text()))
            }
            Err(_) => {
                // The monitor kills it, and whatever it began, as soon as we hang up.
                drop(connection);
                self.tell_exec(container, "exec_die", &id, Some(137));
                let sentence = format!("Health check exceeded timeout ({:?})", check.patience());
                let output = kept.text();
                Ok((
                    -1,
                    if output.is_empty() {
                        sentence
                    } else {
                        format!("{sentence}: {output}")
                    },
                ))
            }
        }
    }
}

/// For the next instance of the service. Losing it costs one round of probes, so a full disk may.
fn keep(container: &Container) {
    if let Some(health) = container.health()
        && let Err(error) = health.write(&container.health_file())
    {
        tracing::debug!(container = container.id, %error, "its health was not kept");
    }
}

/// The first bytes of what a probe wrote.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Kept {
    /// Reads to the end of the output.
    async fn read(&mut self, from: &AsyncFd<OwnedFd>) {
        let mut buffer = [0; 4096];
        loop {
            let read = from.async_io(Interest::READABLE, |fd| {
                Ok(rustix::io::read(fd, &mut buffer[..])?)
            });
            match read.await {
                Ok(0) | Err(_) => return,
                Ok(n) => self.take(&buffer[..n]),
            }
        }
    }

    /// Reads what is there.
    fn drain(&mut self, from: &AsyncFd<OwnedFd>) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = rustix::io::read(from.get_ref(), &mut buffer[..]) {
            self.take(&buffer[..n]);
            if self.cut {
                return;
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = MOST_OUTPUT - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut { text + "..." } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_as_docker_does() {
        let mut kept = Kept::default();
        kept.take(&[b'x'; 4000]);
        assert_eq!(kept.text().len(), 4000);
        kept.take(&[b'x'; 96]);
        assert!(!kept.cut);
        kept.take(b"y");
        assert_eq!(
            (kept.text().len(), kept.text().ends_with("x...")),
            (4099, true)
        );
    }
}
