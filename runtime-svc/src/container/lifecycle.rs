//! What is done with a container: start, signal, stop, pause, exec, remove.

use std::{
    fs, io,
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use rustix::process::Pid;
use slipway_proto::runtime::v1::{Mount, TerminalSize};

use super::{
    etc,
    manager::Manager,
    plan::{self, Places},
    ports,
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    error::{Error, Tried as _},
    executor::{
        StartError, capabilities,
        plan::{ExecPlan, Seccomp},
    },
    monitor::{
        client::Connection,
        protocol::{Event, ExitRecord, Request, Running},
        spawner::Spawner,
    },
    network::Attached,
};

/// docker's default between the signal to stop and SIGKILL.
const STOP_TIMEOUT: i32 = 10;

/// A process to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Further variables.
    pub env: Vec<String>,
    /// Instead of the container's.
    pub user: String,
    /// Instead of the container's.
    pub working_dir: String,
    /// All capabilities.
    pub privileged: bool,
    /// With a terminal of this many lines and columns.
    pub terminal: Option<(u16, u16)>,
}

impl Manager {
    /// Starts a container, its terminal in the size of the caller's if that has one. Returns false when
    /// it ran already.
    pub async fn start(
        &self,
        container: &Arc<Container>,
        size: Option<TerminalSize>,
    ) -> Result<bool, Error> {
        let _turn = container.operation.lock().await;
        match container.status() {
            Status::Running { .. } => return Ok(false),
            Status::Removed => return Err(Error::NoSuchContainer(container.id.clone())),
            Status::Created | Status::Exited { .. } => {}
        }
        let attached = self.attach(container).await?;
        match self.launch(container, attached.as_ref(), size).await {
            Ok((connection, running)) => {
                container.set_endpoint(attached.map(|a| a.endpoint));
                self.supervise(container.clone(), connection, running);
                self.tell(container, "start", &[]);
                Ok(true)
            }
            Err(error) => {
                if attached.is_some() {
                    self.0.netd.release(&container.id).await;
                }
                self.clean_up(container);
                // As docker: what could not be started has ended with that.
                if let Error::Start(start) = &error {
                    let code = match start {
                        StartError::NotFound(..) => 127,
                        StartError::NotExecutable(..) => 126,
                        StartError::Failed { .. } => 128,
                    };
                    let now = crate::monitor::now();
                    let record = ExitRecord {
                        code,
                        oom_killed: false,
                        started: now,
                        finished: now,
                    };
                    container.set_status(Status::Exited {
                        record,
                        error: start.to_string(),
                    });
                }
                Err(error)
            }
        }
    }

    async fn attach(&self, container: &Container) -> Result<Option<Attached>, Error> {
        let record = container.record();
        let mut config = record.spec.network.clone().unwrap_or_default();
        if config.publish_all {
            let more = ports::publish_all(&record.effective.exposed, &config.ports);
            config.ports.extend(more);
        }
        let attached = match config.mode.as_str() {
            "host" | "none" => None,
            _ => Some(
                self.0
                    .netd
                    .attach(
                        &record.id,
                        &record.name,
                        &record.effective.hostname,
                        &config,
                    )
                    .await?,
            ),
        };
        let endpoint = attached.as_ref().map(|a| &a.endpoint);
        let written = etc::write(
            &container.folder,
            &record.effective,
            &record.spec.domainname,
            &config,
            endpoint,
        );
        if let Err(e) = written {
            if attached.is_some() {
                self.0.netd.release(&container.id).await;
            }
            return Err(e).tried(|| format!("cannot write the hosts file of {}", record.name));
        }
        Ok(attached)
    }

    async fn launch(
        &self,
        container: &Container,
        attached: Option<&Attached>,
        size: Option<TerminalSize>,
    ) -> Result<(Connection, Running), Error> {
        let mut record = container.record();
        record.spec.terminal_size = size.or(record.spec.terminal_size);
        let what = || format!("cannot start container {}", record.name);
        let mut lower = self.lower(&record);
        if lower.is_empty() {
            lower.push(self.empty_layer().tried(what)?);
        } else if !lower.iter().all(|l| l.exists()) {
            return Err(Error::Conflict(format!(
                "the image of container {} is no longer unpacked here: create the container again",
                record.name
            )));
        }
        fs::create_dir_all(container.run_folder.join("rootfs")).tried(what)?;
        match fs::remove_file(container.exit_file()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).tried(what),
            _ => {}
        }
        let volume = |name: &str| self.0.volumes.data(name);
        let places = Places {
            folder: &container.folder,
            run_folder: &container.run_folder,
            lower,
            volume: &volume,
        };
        let plan = plan::plan(&record, &places, attached.is_some())?;
        container.update(|r| r.starting = true).tried(what)?;
        let socket = self.spawn(&plan, attached).tried(what)?;
        let connection = Connection::new(socket).tried(what)?;
        match connection.next().await.tried(what)? {
            Some((Event::Running(running), _)) => Ok((connection, running)),
            Some((Event::Failed(error), _)) => {
                container.update(|r| r.starting = false).tried(what)?;
                Err(error.into())
            }
            _ => Err(Error::Conflict(format!(
                "the monitor of container {} was killed while it started",
                record.name
            ))),
        }
    }

    /// Asks the spawner for a monitor; starts another spawner when it is gone.
    pub fn spawn(
        &self,
        plan: &crate::executor::plan::ContainerPlan,
        attached: Option<&Attached>,
    ) -> io::Result<std::os::fd::OwnedFd> {
        let mut spawner = self
            .0
            .spawner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let net = attached.map(|a| &a.namespace);
        match spawner.spawn(plan, net) {
            Ok(socket) => Ok(socket),
            Err(error) if spawner.is_alive() => Err(error),
            Err(_) => {
                tracing::warn!("the spawner was gone: starting another");
                *spawner = Spawner::start(
                    std::path::Path::new("/proc/self/exe"),
                    &self.0.run.join("spawner.lock"),
                )?;
                spawner.spawn(plan, net)
            }
        }
    }

    /// Follows a running container to its end.
    pub(super) fn supervise(
        &self,
        container: Arc<Container>,
        connection: Connection,
        running: Running,
    ) {
        container.log_length.send_replace(running.log_start);
        container.set_status(Status::Running {
            running: running.clone(),
            paused: false,
        });
        let manager = self.clone();
        tokio::spawn(async move {
            // Trouble here shows again when its events are read.
            let _ = connection.follow().await;
            let record = loop {
                match connection.next().await {
                    Ok(Some((Event::Grew(length), _))) => {
                        container.log_length.send_replace(length);
                    }
                    Ok(Some((Event::Exited(record), _))) => break Some(record),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break None,
                }
            };
            manager.ended(&container, &running, record).await;
        });
    }

    async fn ended(
        &self,
        container: &Arc<Container>,
        running: &Running,
        record: Option<ExitRecord>,
    ) {
        let (record, error) = match record {
            Some(record) => (record, String::new()),
            None => {
                // The monitor was killed; its container dies with it, or now.
                tracing::error!(
                    container = container.id,
                    "the monitor was killed, its container ends"
                );
                let finished = crate::monitor::now();
                let record = ExitRecord {
                    code: 137,
                    oom_killed: false,
                    started: running.started,
                    finished,
                };
                // So that the next instance knows it as well.
                let _ = fs::write(
                    container.exit_file(),
                    serde_json::to_vec(&record).unwrap_or_default(),
                );
                (record, "the container's monitor was killed".to_owned())
            }
        };
        self.clean_up(container);
        if container.endpoint().is_some() || !matches!(mode(container).as_str(), "host" | "none") {
            self.0.netd.release(&container.id).await;
        }
        container.set_endpoint(None);
        let length = fs::metadata(container.log()).map_or(0, |m| m.len());
        container.log_length.send_replace(length);
        if let Err(e) = container.update(|r| r.starting = false) {
            tracing::warn!(container = container.id, error = %e, "its record was not updated");
        }
        let code = record.code.to_string();
        container.set_status(Status::Exited { record, error });
        self.tell(container, "die", &[("exitCode", code)]);
        if container.record().spec.auto_remove
            && let Err(error) = self.remove(container, true, true).await
            && !matches!(error, Error::NoSuchContainer(_))
        {
            tracing::warn!(container = container.id, %error, "could not be removed");
        }
    }

    /// Takes away what a dead monitor left: processes, cgroups, its socket.
    pub(super) fn clean_up(&self, container: &Container) {
        let group = Group::open(&self.0.hierarchies, &format!("slipway/{}", container.id));
        let killed = group.kill().and_then(|()| group.remove());
        if let Err(error) = killed {
            tracing::warn!(container = container.id, %error, "its cgroups could not be removed");
        }
        if let Err(error) = fs::remove_dir_all(&container.run_folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(container = container.id, %error, "its run folder could not be removed");
        }
    }

    /// Sends a signal to the first process.
    pub async fn kill(&self, container: &Container, signal: &str) -> Result<(), Error> {
        let signal = parse_signal(if signal.is_empty() { "KILL" } else { signal })?;
        if container.running().is_none() {
            return Err(Error::Conflict(format!(
                "cannot kill container: {}: container {} is not running",
                container.name(),
                container.id
            )));
        }
        self.signal(container, signal).await?;
        self.tell(container, "kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    async fn signal(&self, container: &Container, signal: i32) -> Result<(), Error> {
        let what = || format!("cannot signal container {}", container.name());
        match Connection::open(&container.socket()) {
            Ok(connection) => connection.signal(signal).await.tried(what),
            // It has just ended.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(e).tried(what),
        }
    }

    /// Asks a container to end, and kills it when it does not in time. False when it did not run.
    pub async fn stop(
        &self,
        container: &Container,
        signal: &str,
        timeout: Option<i32>,
    ) -> Result<bool, Error> {
        if container.running().is_none() {
            return Ok(false);
        }
        let record = container.record();
        let name = [signal, &record.effective.stop_signal, "TERM"]
            .into_iter()
            .find(|s| !s.is_empty())
            .unwrap_or("TERM")
            .to_owned();
        let signal = parse_signal(&name)?;
        let seconds = timeout.or(record.spec.stop_timeout).unwrap_or(STOP_TIMEOUT);
        let mut watch = container.watch();
        self.signal(container, signal).await?;
        let ended = watch.wait_for(|s| !matches!(s, Status::Running { .. }));
        match u64::try_from(seconds) {
            Ok(seconds) => {
                if tokio::time::timeout(Duration::from_secs(seconds), ended)
                    .await
                    .is_err()
                {
                    let mut watch = container.watch();
                    self.signal(container, libc::SIGKILL).await?;
                    // The sender lives as long as the container.
                    let _ = watch
                        .wait_for(|s| !matches!(s, Status::Running { .. }))
                        .await;
                }
            }
            Err(_) => drop(ended.await),
        }
        self.tell(container, "stop", &[]);
        Ok(true)
    }

    /// Freezes or continues a container.
    pub async fn pause(&self, container: &Container, pause: bool) -> Result<(), Error> {
        let _turn = container.operation.lock().await;
        let name = container.name();
        let Status::Running { running, paused } = container.status() else {
            return Err(Error::Conflict(format!("Container {name} is not running")));
        };
        if paused == pause {
            let state = if pause { "already" } else { "not" };
            return Err(Error::Conflict(format!(
                "Container {name} is {state} paused"
            )));
        }
        let group = Group::open(&self.0.hierarchies, &format!("slipway/{}", container.id));
        tokio::task::spawn_blocking(move || group.freeze(pause))
            .await
            .map_err(io::Error::other)
            .and_then(|r| r)
            .tried(|| format!("cannot pause container {name}"))?;
        container.set_status(Status::Running {
            running,
            paused: pause,
        });
        self.tell(container, if pause { "pause" } else { "unpause" }, &[]);
        Ok(())
    }

    /// Processes of a running container, by their numbers on the host.
    pub fn processes(&self, container: &Container) -> Result<Vec<Pid>, Error> {
        let name = container.name();
        if container.running().is_none() {
            return Err(Error::Conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
        Group::open(&self.0.hierarchies, &format!("slipway/{}", container.id))
            .processes()
            .tried(|| format!("cannot list the processes of container {name}"))
    }

    /// Removes a container; a running one only with `force`.
    pub async fn remove(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        if container.running().is_some() {
            if !force {
                return Err(Error::Conflict(format!(
                    "cannot remove container \"/{}\": container is running: stop the container before removing or force remove",
                    container.name()
                )));
            }
            let mut watch = container.watch();
            self.signal(container, libc::SIGKILL).await?;
            // The sender lives as long as the container.
            let _ = watch
                .wait_for(|s| !matches!(s, Status::Running { .. }))
                .await;
        }
        let _turn = container.operation.lock().await;
        match container.status() {
            Status::Removed => return Err(Error::NoSuchContainer(container.id.clone())),
            Status::Running { .. } => {
                return Err(Error::Conflict(format!(
                    "container {} was started meanwhile",
                    container.name()
                )));
            }
            Status::Created | Status::Exited { .. } => {}
        }
        let record = container.record();
        // Out of the way under another name first: a removal that is cut off is finished at the next start.
        let gone = container.folder.with_extension("removed");
        let what = || format!("cannot remove container {}", record.name);
        fs::rename(&container.folder, &gone).tried(what)?;
        self.clean_up(container);
        self.forget(container);
        if volumes {
            self.remove_anonymous(&record.spec.mounts).await;
        }
        // Name and volumes are free: who waits for that need not wait for the disk.
        container.set_status(Status::Removed);
        self.tell(container, "destroy", &[]);
        tokio::task::spawn_blocking(move || fs::remove_dir_all(gone))
            .await
            .map_err(io::Error::other)
            .and_then(|r| r)
            .tried(what)
    }

    /// Removes the anonymous volumes among these, unless another container shares them.
    async fn remove_anonymous(&self, mounts: &[Mount]) {
        for mount in mounts.iter().filter(|m| m.r#type == "volume") {
            let name = &mount.source;
            if !self.0.volumes.find(name).is_ok_and(|v| v.anonymous) {
                continue;
            }
            let (manager, volume) = (self.clone(), name.clone());
            let removed = tokio::task::spawn_blocking(move || {
                let users = || manager.users_of_volume(&volume);
                manager.0.volumes.remove(&volume, users)
            })
            .await;
            match removed {
                Ok(Ok(()) | Err(Error::VolumeInUse { .. } | Error::NoSuchVolume(_))) => {}
                Ok(Err(error)) => tracing::warn!(volume = name, %error, "could not be removed"),
                Err(error) => tracing::warn!(volume = name, %error, "could not be removed"),
            }
        }
    }

    /// Runs a further process. `fds` are its three streams, or nothing with a terminal. The events of
    /// the returned connection tell how it goes.
    pub async fn exec(
        &self,
        container: &Container,
        exec: ExecSpec,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Connection, Error> {
        let record = container.record();
        let name = &record.name;
        match container.status() {
            Status::Running { paused: true, .. } => {
                return Err(Error::Conflict(format!(
                    "Container {name} is paused, unpause the container before exec"
                )));
            }
            Status::Running { .. } => {}
            _ => {
                return Err(Error::Conflict(format!(
                    "container {} is not running",
                    container.id
                )));
            }
        }
        if exec.command.is_empty() {
            return Err(Error::Invalid("No exec command specified".to_owned()));
        }
        let places = Places {
            folder: &container.folder,
            run_folder: &container.run_folder,
            lower: Vec::new(),
            volume: &|_| PathBuf::new(),
        };
        let mut process = plan::plan(&record, &places, false)?.process;
        process.args = exec.command;
        process.env.extend(exec.env);
        if exec.terminal.is_some() && !process.env.iter().any(|e| e.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        if !exec.user.is_empty() {
            process.user = exec.user;
        }
        if !exec.working_dir.is_empty() {
            process.working_dir = exec.working_dir;
        }
        if exec.privileged {
            process.capabilities = capabilities::all();
            process.seccomp = Seccomp::Unconfined;
        }
        let what = || format!("cannot reach the monitor of container {name}");
        let connection = Connection::open(&container.socket()).tried(what)?;
        let plan = ExecPlan {
            process,
            terminal: exec.terminal,
        };
        connection
            .request(&Request::Exec(Box::new(plan)), fds)
            .await
            .tried(what)?;
        Ok(connection)
    }
}

fn mode(container: &Container) -> String {
    container.record().spec.network.unwrap_or_default().mode
}

/// `TERM`, `SIGTERM` or `15`.
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    if let Ok(number) = text.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = format!("SIG{}", upper.strip_prefix("SIG").unwrap_or(&upper));
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.trim_start_matches('+').parse().unwrap_or(-1)
        };
        if (0..=30).contains(&offset) {
            // 34 is what glibc leaves of the kernel's 32.
            return Ok(34 + offset);
        }
    }
    name.parse::<nix::sys::signal::Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| Error::Invalid(format!("Invalid signal: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("1", 1),
            ("SIGRTMIN+3", 37),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "NONSENSE", "SIGRTMIN+99"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
