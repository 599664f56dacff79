//! A container's first process: started, followed to its end, cleared up after.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use slipway_proto::runtime::v1::TerminalSize;

use super::{
    confinement::{self, Modules},
    devices, early, etc, logging,
    manager::Manager,
    peers,
    plan::{self, Places},
    ports,
    record::{Life, Record},
    resources,
    restart::{self, Ending, Policy},
    sources,
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    error::{Error, Tried as _},
    executor::{StartError, rootfs},
    monitor::{
        client::Connection,
        protocol::{Event, ExitRecord, Request, Running},
        spawner::Spawner,
    },
    network::Attached,
};

impl Manager {
    /// Starts a container, its terminal in the size of the caller's if that has one. Returns false when
    /// it ran already. One that waits for its restart begins at once.
    pub async fn start(
        &self,
        container: &Arc<Container>,
        size: Option<TerminalSize>,
    ) -> Result<bool, Error> {
        let _turn = container.operation.lock().await;
        match container.status() {
            Status::Running { paused: true, .. } => {
                return Err(Error::Conflict(
                    "cannot start a paused container, try unpause instead".to_owned(),
                ));
            }
            Status::Running { .. } => return Ok(false),
            Status::Ending { .. } => return Err(waits_for_room(container)),
            Status::Removed => return Err(Error::NoSuchContainer(container.id.clone())),
            Status::Created | Status::Exited { .. } | Status::Restarting { .. } => {}
        }
        container.set_delay(None);
        self.begin(container, size, Life::default()).await?;
        Ok(true)
    }

    /// Starts what does not run; who calls holds `operation`. `life` is what its record tells from now on.
    pub(super) async fn begin(
        &self,
        container: &Arc<Container>,
        size: Option<TerminalSize>,
        life: Life,
    ) -> Result<(), Error> {
        slipway_fault::point("runtime.start.begun");
        let attached = self.attach(container).await?;
        match self.launch(container, attached.as_ref(), size, life).await {
            Ok((connection, running)) => {
                let endpoint = attached.map(|a| a.endpoint);
                self.tell_network(container, "connect", endpoint.as_ref());
                container.set_endpoint(endpoint);
                self.tell_mounts(container, "mount");
                self.begin_health(container);
                self.supervise(container.clone(), connection, running);
                slipway_fault::point("runtime.start.supervised");
                self.tell(container, "start", &[]);
                Ok(())
            }
            Err(error) => {
                if attached.is_some() {
                    self.0.netd.release(&container.id).await;
                }
                self.clean_up(container);
                // Before that it was not asked for, and nothing of it has changed.
                if container.record().starting {
                    ended_at_once(container, &error);
                }
                Err(error)
            }
        }
    }

    async fn attach(&self, container: &Container) -> Result<Option<Attached>, Error> {
        let record = container.record();
        if let Some(peer) = self.network_peer(&record)? {
            etc::share(&container.folder, &peer.folder)
                .tried(|| format!("cannot share the hosts file of {}", peer.name()))?;
            return Ok(None);
        }
        let mut config = record.spec.network.clone().unwrap_or_default();
        if config.publish_all {
            let more = ports::publish_all(&record.effective.exposed, &config.ports);
            config.ports.extend(more);
        }
        let attached = match config.mode.as_str() {
            "host" | "none" => None,
            _ => {
                let asked = match container.take_early() {
                    Some(early) => early.take().await,
                    None => None,
                };
                let (id, name) = (&record.id, &record.name);
                Some(match asked {
                    Some(answer) => answer?,
                    None => {
                        let hostname = &record.effective.hostname;
                        self.0.netd.attach(id, name, hostname, &config).await?
                    }
                })
            }
        };
        slipway_fault::point("runtime.start.endpoint");
        let endpoint = attached.as_ref().map(|a| &a.endpoint);
        let written = slipway_fault::fallible("runtime.start.etc").and_then(|()| {
            etc::write(
                &container.folder,
                &record.effective,
                &record.spec.domainname,
                &config,
                endpoint,
            )
        });
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
        life: Life,
    ) -> Result<(Connection, Running), Error> {
        let mut record = container.record();
        record.spec.terminal_size = size.or(record.spec.terminal_size);
        let what = || format!("cannot start container {}", record.name);
        self.bring_back_layers(&record).await?;
        let mut lower = self.lower(&record);
        if lower.is_empty() {
            lower.push(self.empty_layer().tried(what)?);
        }
        fs::create_dir_all(container.run_folder.join("rootfs")).tried(what)?;
        slipway_fault::point("runtime.start.run-folder");
        if record.spec.auto_remove {
            rootfs::forget_volatile(&container.folder.join("work")).tried(what)?;
        }
        let of_devices = self.open_sources(&record).await?;
        let volume = |name: &str| self.0.volumes.data(name);
        let layer = |id: &str| self.layer_folder(id);
        let places = Places {
            folder: &container.folder,
            run_folder: &container.run_folder,
            lower,
            volume: &volume,
            layer: &layer,
        };
        if let Some(peer) = self.network_peer(&record)? {
            record.effective.go_by(&peer.record().effective.hostname);
        }
        let mut plan = plan::plan(&record, &places, attached.is_some())?;
        if let Some(hold) = self.0.log_defaults.hold {
            plan.files.log_limits.hold = hold;
        }
        sources::keep_owners(&mut plan, &record, &of_devices);
        devices::grant(&mut plan, &record.spec)?;
        plan.process.label = confinement::label(&record.spec, &Modules::now())?;
        if let Some(resources) = &record.spec.resources {
            resources::add_devices(&mut plan.cgroup.limits, resources)?;
        }
        let peers = self.peers(&record).await?;
        let effective = record.effective.clone();
        let starting = |record: &mut Record| {
            record.starting = true;
            record.life = life;
            record.effective = effective;
        };
        slipway_fault::fallible("runtime.start.recorded").tried(what)?;
        container.update(starting).tried(what)?;
        // After that, so that at no instant it looks as if it had never been started: what a policy
        // brings back would stay away.
        match fs::remove_file(container.exit_file()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).tried(what),
            _ => {}
        }
        slipway_fault::point("runtime.start.forgotten");
        let socket = self.spawn(&plan, attached, &peers, &[]).tried(what)?;
        let connection = Connection::new(socket).tried(what)?;
        slipway_fault::point("runtime.start.asked");
        match connection.next().await.tried(what)? {
            Some((Event::Running(running), _)) => {
                slipway_fault::point("runtime.start.running");
                Ok((connection, running))
            }
            Some((Event::Failed(error), _)) => Err(error.into()),
            _ => Err(Error::NoMonitor(record.name)),
        }
    }

    /// Asks the spawner for a monitor; starts another spawner when it is gone.
    pub fn spawn(
        &self,
        plan: &crate::executor::plan::ContainerPlan,
        attached: Option<&Attached>,
        peers: &[OwnedFd],
        given: &[OwnedFd],
    ) -> io::Result<OwnedFd> {
        let mut spawner = self
            .0
            .spawner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let net = attached.map(|a| &a.namespace);
        match spawner.spawn(plan, net, peers, given) {
            Ok(socket) => Ok(socket),
            Err(error) if spawner.is_alive() => Err(error),
            Err(_) => {
                tracing::warn!("the spawner was gone: starting another");
                *spawner = Spawner::start(
                    std::path::Path::new("/proc/self/exe"),
                    &self.0.run.join("spawner.lock"),
                )?;
                spawner.spawn(plan, net, peers, given)
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
        container.holds.granted(None);
        container.set_status(Status::Running {
            running: running.clone(),
            paused: false,
        });
        if let Some(check) = container.record().effective.health {
            let looking = self.clone();
            tokio::spawn(looking.look_after(container.clone(), check, running.started));
        }
        let manager = self.clone();
        let keeping = logging::begin(&container);
        tokio::spawn(async move {
            let mut needed = container.holds.watch();
            needed.mark_changed();
            // Trouble here shows again when its events are read.
            let _ = connection.follow().await;
            let mut told = Told::default();
            let record = loop {
                let heard = tokio::select! {
                    heard = connection.next() => heard,
                    _ = needed.changed() => {
                        let position = *needed.borrow_and_update();
                        // One that ends needs to keep nothing.
                        let _ = connection.request(&Request::Hold(position), &[]).await;
                        continue;
                    }
                };
                match heard {
                    Ok(Some((Event::Grew(length), _))) => {
                        container.log_length.send_replace(length);
                    }
                    Ok(Some((Event::Held(position), _))) => container.holds.granted(position),
                    Ok(Some((Event::OutOfMemory, _))) => {
                        told.memory = true;
                        manager.tell(&container, "oom", &[]);
                    }
                    Ok(Some((Event::Rotated(_), _))) => logging::pack(&container),
                    Ok(Some((Event::Ended(record), _))) => {
                        let status = Status::Ending {
                            record: record.clone(),
                        };
                        container.set_status(status);
                        manager.tell_end(&container, &record, &mut told);
                    }
                    Ok(Some((Event::Exited(record), _))) => break Some(record),
                    Ok(Some(_)) => {}
                    // News that a later monitor tells and that we do not know.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                    Ok(None) | Err(_) => break None,
                }
            };
            // Its cgroups go after that: another start would find them half gone.
            if record.is_some() && !container.goes_with_its_end() {
                while let Ok(Some(_)) = connection.next().await {}
            }
            // It tells without waiting: who was too slow to listen finds the end where it was written.
            let record = record.or_else(|| ExitRecord::read(&container.exit_file()));
            // Or it was killed while it waited for room.
            let record = record.or_else(|| match container.status() {
                Status::Ending { record } => {
                    keep_end(&container, &record);
                    Some(record)
                }
                _ => None,
            });
            drop(keeping);
            let end = manager.ended(&container, &running, record, told);
            end.await;
        });
    }

    async fn ended(
        &self,
        container: &Arc<Container>,
        running: &Running,
        record: Option<ExitRecord>,
        mut told: Told,
    ) {
        slipway_fault::point("runtime.end.heard");
        let record = match record {
            Some(record) => record,
            None => {
                // The monitor was killed; its container dies with it, or now.
                tracing::error!(
                    container = container.id,
                    "the monitor was killed, its container ends"
                );
                let record = ExitRecord::without_monitor(running.started);
                keep_end(container, &record);
                record
            }
        };
        // Asked before anybody hears of the end: `restart` goes on from there.
        let goes = container.goes_with_its_end();
        if !goes || !record.error.is_empty() {
            let (manager, ended) = (self.clone(), container.clone());
            // It panicked at worst; what is left is found when the container is removed.
            let _ = tokio::task::spawn_blocking(move || manager.clean_up(&ended)).await;
        }
        slipway_fault::point("runtime.end.cleaned");
        let released = self.release(container);
        logging::finish(container).await;
        // Of one that is about to go nobody reads the record again, and what it had that nobody else can
        // ask for may come back a moment later.
        if !goes && let Err(e) = container.update(|r| r.starting = false) {
            tracing::warn!(container = container.id, error = %e, "its record was not updated");
        }
        slipway_fault::point("runtime.end.recorded");
        if !goes || has_something_of_its_own(container) {
            // It panicked at worst; netd finds what is left.
            let _ = released.await;
        }
        slipway_fault::point("runtime.end.released");
        self.tell_network(container, "disconnect", container.endpoint().as_ref());
        container.set_endpoint(None);
        let ran = Duration::from_nanos(record.finished.saturating_sub(record.started));
        let (policy, ending) = verdict(container, record.code);
        if policy.after_end(ending) {
            let delay = restart::delay(container.delay(), ran);
            self.bring_back(container, record.clone(), delay);
        } else {
            container.set_status(Status::Exited {
                record: record.clone(),
            });
        }
        slipway_fault::point("runtime.end.known");
        self.tell_end(container, &record, &mut told);
        self.tell_mounts(container, "unmount");
        if goes
            && let Err(error) = self.remove(container, true, true).await
            && !matches!(error, Error::NoSuchContainer(_))
        {
            tracing::warn!(container = container.id, %error, "could not be removed");
        }
    }

    /// Tells everybody that it has ended, once; it has the state that says so.
    fn tell_end(&self, container: &Container, record: &ExitRecord, told: &mut Told) {
        if std::mem::replace(&mut told.end, true) {
            return;
        }
        self.end_health(container);
        if record.oom_killed && !std::mem::replace(&mut told.memory, true) {
            self.tell(container, "oom", &[]);
        }
        let ran = Duration::from_nanos(record.finished.saturating_sub(record.started));
        let more = [
            ("exitCode", record.code.to_string()),
            ("execDuration", ran.as_secs().to_string()),
        ];
        self.tell(container, "die", &more);
        container.announce_end();
    }

    /// Gives its endpoint back, beside whatever else is done.
    fn release(&self, container: &Container) -> tokio::task::JoinHandle<()> {
        let mode = mode(container);
        let own = !matches!(mode.as_str(), "host" | "none") && peers::of(&mode).is_none();
        let has = container.endpoint().is_some() || own;
        let (netd, id) = (self.0.netd.clone(), container.id.clone());
        tokio::spawn(async move {
            if has {
                netd.release(&id).await;
            }
        })
    }

    /// Starts a container again after a while, unless somebody stops, starts or removes it before.
    pub(super) fn bring_back(
        &self,
        container: &Arc<Container>,
        record: ExitRecord,
        delay: Duration,
    ) {
        let wait = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let next = crate::monitor::now().saturating_add(wait);
        container.set_delay(Some(delay));
        container.set_status(Status::Restarting { record, next });
        slipway_fault::point("runtime.restart.waiting");
        let (manager, container) = (self.clone(), container.clone());
        tokio::spawn(async move { manager.come_back(container, next, delay).await });
    }

    async fn come_back(self, container: Arc<Container>, planned: u64, delay: Duration) {
        let waits = |s: &Status| matches!(s, Status::Restarting { next, .. } if *next == planned);
        let mut status = container.watch();
        let cancelled = status.wait_for(|s| !waits(s));
        if tokio::time::timeout(delay, cancelled).await.is_ok() {
            return;
        }
        let _turn = container.operation.lock().await;
        let now = container.status();
        let (true, Status::Restarting { mut record, .. }) = (waits(&now), now) else {
            return;
        };
        slipway_fault::point("runtime.restart.due");
        let (policy, ending) = verdict(&container, record.code);
        if policy == Policy::No {
            // It was taken away from it meanwhile.
            container.set_status(Status::Exited { record });
            return;
        }
        let life = Life {
            stopped_by_hand: false,
            restarts: ending.restarts + 1,
        };
        match self.begin(&container, None, life).await {
            Ok(()) => {}
            // What it needs may be away for a moment only.
            Err(error @ (Error::Network { .. } | Error::Io { .. })) => {
                tracing::warn!(container = container.id, %error, "not restarted yet");
                let delay = restart::delay(Some(delay), Duration::ZERO);
                record.error = error.to_string();
                self.bring_back(&container, record, delay);
            }
            Err(error) => {
                tracing::warn!(container = container.id, %error, "not restarted");
                if container.is_up() {
                    record.error = error.to_string();
                    container.set_status(Status::Exited { record });
                }
            }
        }
    }

    /// Ends the wait for a restart. True when there was one: the container has ended for good.
    pub(super) async fn stay_down(&self, container: &Container) -> bool {
        let _turn = container.operation.lock().await;
        match container.status() {
            Status::Restarting { record, .. } => {
                container.set_status(Status::Exited { record });
                true
            }
            _ => false,
        }
    }

    /// Takes away what a dead monitor left: processes, cgroups, its socket.
    pub(super) fn clean_up(&self, container: &Container) {
        self.clear_host(&container.record(), &container.run_folder);
        self.0.volumes.close_devices(&container.id);
    }

    /// What is left of a container that has ended, outside of its folder. Blocks.
    pub(super) fn clear_host(&self, record: &Record, run_folder: &Path) {
        let group = Group::open(&self.0.hierarchies, &record.cgroup());
        let killed = group.kill().and_then(|()| group.remove());
        if let Err(error) = killed {
            tracing::warn!(container = record.id, %error, "its cgroups could not be removed");
        }
        if let Err(error) = fs::remove_dir_all(run_folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(container = record.id, %error, "its run folder could not be removed");
        }
    }
}

/// What has been told of a container that runs.
#[derive(Debug, Default)]
struct Told {
    /// Something was killed for want of memory.
    memory: bool,
    /// It ended.
    end: bool,
}

/// As docker: what could not be started has ended with that.
fn ended_at_once(container: &Container, error: &Error) {
    let record = match error {
        Error::Start(start) => {
            let code = match start {
                StartError::NotFound(..) => 127,
                StartError::NotExecutable(..) => 126,
                StartError::Failed { .. } => 128,
            };
            ExitRecord::without_code(code, 0, start.to_string())
        }
        Error::NoMonitor(_) => ExitRecord::without_monitor(0),
        other => ExitRecord::without_code(128, 0, other.to_string()),
    };
    keep_end(container, &record);
    if let Err(error) = container.update(|r| r.starting = false) {
        tracing::warn!(container = container.id, %error, "its record was not updated");
    }
    container.set_status(Status::Exited { record });
}

/// Leaves the end of a container for the next instance, which is to know it as well.
pub(super) fn keep_end(container: &Container, record: &ExitRecord) {
    if let Err(error) = record.write(&container.exit_file()) {
        tracing::warn!(container = container.id, %error, "its end could not be recorded");
    }
}

/// It has ended and cannot be started yet.
pub(super) fn waits_for_room(container: &Container) -> Error {
    Error::Conflict(format!(
        "cannot start container {}: it has ended, and the last of its output waits for room on the disk",
        container.name()
    ))
}

/// What its policy has to judge.
pub(super) fn verdict(container: &Container, code: i32) -> (Policy, Ending) {
    let record = container.record();
    // It was checked when it was given.
    let policy = Policy::parse(record.spec.restart.as_ref()).unwrap_or(Policy::No);
    let ending = Ending {
        code,
        by_hand: record.life.stopped_by_hand,
        restarts: record.life.restarts,
    };
    (policy, ending)
}

/// Whether its endpoint has what the next container may want.
fn has_something_of_its_own(container: &Container) -> bool {
    let config = container.record().spec.network.unwrap_or_default();
    // More ports may have been published since.
    let ports = container.endpoint().is_some_and(|e| !e.ports.is_empty());
    !early::is_plain(&config) || ports
}

fn mode(container: &Container) -> String {
    container.record().spec.network.unwrap_or_default().mode
}
