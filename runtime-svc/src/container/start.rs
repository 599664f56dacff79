//! A container's first process: what it needs is made, its monitor asked for, and heard whether it runs.

use std::{
    fs, io,
    os::fd::OwnedFd,
    sync::{Arc, PoisonError},
};

use slipway_proto::runtime::v1::TerminalSize;

use super::{
    confinement::{self, Modules},
    devices, end, etc,
    life::Life,
    manager::Manager,
    plan::{self, Places},
    ports, resources, sources,
    state::{Container, Status},
};
use crate::{
    error::{Error, Tried as _},
    executor::{StartError, plan::ContainerPlan, rootfs},
    monitor::{
        client::Connection,
        protocol::{Event, ExitRecord, Running},
        spawner::Spawner,
    },
    network::Attached,
};

/// What a start needs.
struct Prepared {
    plan: ContainerPlan,
    /// First processes of the containers whose namespaces it joins.
    peers: Vec<OwnedFd>,
}

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
        let begun = self.begin(container, size, Life::default()).await;
        // It was made for that, and nobody has to wait for the disk.
        container.sync_soon();
        begun.map(|()| true)
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
        let prepared = self.prepare(container, attached.as_ref(), size).await;
        let recorded = prepared.and_then(|prepared| {
            let what = || format!("cannot start container {}", container.name());
            slipway_fault::fallible("runtime.start.recorded").tried(what)?;
            container.begin_life(life).tried(what)?;
            Ok(prepared)
        });
        // Before that it was not asked for, and nothing of it has changed.
        let asked = recorded.is_ok();
        let launched = match recorded {
            Ok(prepared) => self.launch(container, attached.as_ref(), &prepared).await,
            Err(error) => Err(error),
        };
        match launched {
            Ok((connection, running)) => {
                let endpoints = attached.map_or_else(Vec::new, |a| a.endpoints);
                self.tell_networks(container, "connect", &endpoints);
                container.set_endpoints(endpoints);
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
                if asked {
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
        config.ports = ports::asked(&record);
        let asked = match container.take_early() {
            Some(early) => early.take().await,
            None => None,
        };
        let attached = match asked {
            Some(answer) => answer?,
            None => self.0.netd.attach(record.who(), &config).await?,
        };
        slipway_fault::point("runtime.start.endpoint");
        let endpoints = attached.as_ref().map_or(&[][..], |a| &a.endpoints);
        let written = slipway_fault::fallible("runtime.start.etc").and_then(|()| {
            etc::write(
                &container.folder,
                &record.effective,
                &record.spec.domainname,
                &config,
                endpoints,
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

    /// All that a start needs, before anything says that it was started.
    async fn prepare(
        &self,
        container: &Container,
        attached: Option<&Attached>,
        size: Option<TerminalSize>,
    ) -> Result<Prepared, Error> {
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
            volatile: record.spec.auto_remove,
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
        // Only where the container whose network it shares was not there when it was made.
        if record.effective != container.record().effective {
            let effective = record.effective.clone();
            let updated = container.update(|record| record.effective = effective);
            updated.await.tried(what)?;
        }
        Ok(Prepared { plan, peers })
    }

    /// Asks for the monitor of a container whose record says that it was started, and hears whether it runs.
    async fn launch(
        &self,
        container: &Container,
        attached: Option<&Attached>,
        prepared: &Prepared,
    ) -> Result<(Connection, Running), Error> {
        let what = || format!("cannot start container {}", container.name());
        // After the record, so that at no instant it looks as if it had never been started: what a policy
        // brings back would stay away.
        container.forget_end().tried(what)?;
        slipway_fault::point("runtime.start.forgotten");
        let socket = self
            .spawn(&prepared.plan, attached, &prepared.peers, &[])
            .tried(what)?;
        let connection = Connection::new(socket).tried(what)?;
        slipway_fault::point("runtime.start.asked");
        match connection.next().await.tried(what)? {
            Some((Event::Running(running), _)) => {
                slipway_fault::point("runtime.start.running");
                Ok((connection, running))
            }
            Some((Event::Failed(error), _)) => Err(error.into()),
            _ => Err(Error::NoMonitor(container.name())),
        }
    }

    /// Asks the spawner for a monitor; starts another spawner when it is gone.
    pub fn spawn(
        &self,
        plan: &ContainerPlan,
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
    end::keep(container, &record);
    container.set_status(Status::Exited { record });
}

/// It has ended and cannot be started yet.
pub(super) fn waits_for_room(container: &Container) -> Error {
    Error::Conflict(format!(
        "cannot start container {}: it has ended, and the last of its output waits for room on the disk",
        container.name()
    ))
}
