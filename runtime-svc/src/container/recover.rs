//! Finding every container again, whatever the last instance was doing when it ended.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use slipway_proto::netd::v1::Endpoint;
use tokio::task::JoinSet;

use super::{
    come_back, durable, end, logging,
    manager::Manager,
    record::Record,
    remove::REMOVED_WITH_VOLUMES,
    restart,
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    disk::remove_tree,
    ids,
    monitor::{
        client::{self, Connection},
        protocol::{Event, ExitRecord, Running},
    },
};

/// How long a monitor has for its greeting. One that waits for room on the disk may take longer.
const GREETING: Duration = Duration::from_secs(3);
/// How often one that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// How many that have ended are cleared up after at the same time, after a reboot all of them.
const SETTLED_AT_ONCE: usize = 32;

/// What a monitor said.
enum Heard {
    /// The container runs.
    Running(Connection, Running),
    /// There is no monitor: the container has ended, or never began.
    Gone,
    /// It is there and says nothing.
    Silence,
}

impl Manager {
    /// Finds every container again.
    pub(super) async fn recover(&self) -> anyhow::Result<()> {
        let mut asked = JoinSet::new();
        let mut live = Vec::new();
        let mut ended = Vec::new();
        let mut silent = Vec::new();
        let mut half_done = Vec::new();
        for entry in fs::read_dir(self.0.state.join("containers"))? {
            let folder = entry?.path();
            // `<id>.new` was never acknowledged, `<id>.removed` is being removed.
            if folder.extension().is_some() {
                half_done.push(folder);
                continue;
            }
            let id = entry_id(&folder);
            if !ids::is_id(&id) {
                tracing::warn!(folder = %folder.display(), "is no container's: it is left alone");
                continue;
            }
            let record = match Record::read(&folder) {
                Ok(record) => record,
                // As good as never acknowledged.
                Err(_) if durable::never_came(&folder) => {
                    tracing::warn!(folder = %folder.display(), "a container was not on the disk yet when the host went down: what is left of it is removed");
                    let gone = folder.with_extension("removed");
                    fs::rename(folder, &gone)?;
                    half_done.push(gone);
                    continue;
                }
                // Somebody's files are in there: they stay, for whoever can read the record.
                Err(error) => {
                    tracing::error!(folder = %folder.display(), %error, "a container's record cannot be read: it is left alone, with all that it may use");
                    live.push((id.clone(), 0));
                    self.lock_unreadable().insert(id);
                    continue;
                }
            };
            let run_folder = self.0.run.join("containers").join(&record.id);
            self.lock_names()
                .insert(record.name.clone(), record.id.clone());
            let container = Arc::new(Container::new(record, folder, run_folder));
            self.insert(container.clone());
            inherit_life(&container, false);
            // What the last instance did not come to.
            container.sync_soon();
            // All at once: those that stand still are waited for together.
            asked.spawn(async move {
                let heard = hear(&container).await;
                (container, heard)
            });
        }
        while let Some(answer) = asked.join_next().await {
            let (container, heard) = answer?;
            match heard {
                Heard::Running(connection, running) => {
                    inherit_life(&container, true);
                    self.resume_health(&container);
                    live.push((container.id.clone(), running.pid));
                    let group = Group::open(&self.0.hierarchies, &container.record().cgroup());
                    let mut paused = group.is_frozen();
                    if container.commit_mark().exists() {
                        // Frozen for a commit that was cut off, not because somebody wants it so.
                        match group.freeze(false) {
                            Ok(()) => paused = false,
                            Err(error) => {
                                tracing::warn!(container = container.id, %error, "it stays frozen");
                            }
                        }
                        // Not there any more is fine.
                        let _ = fs::remove_file(container.commit_mark());
                    }
                    self.finish_update(&container).await;
                    self.supervise(container.clone(), connection, running.clone());
                    if paused {
                        // Unless it has said meanwhile that it has ended.
                        container.set_paused(true);
                    }
                }
                Heard::Gone => ended.push(container),
                Heard::Silence => {
                    // netd must not take its endpoint back.
                    live.push((container.id.clone(), 0));
                    // As far as anybody knows it runs: nothing may be done that needs it not to.
                    container.set_status(Status::Running {
                        running: Running {
                            pid: 0,
                            monitor_pid: 0,
                            started: 0,
                            log_start: 0,
                        },
                        paused: false,
                    });
                    silent.push(container);
                }
            }
        }
        slipway_fault::point("runtime.recover.read");
        let running = live.len();
        if self.0.netd.sync(live).await {
            self.learn_endpoints().await;
        } else {
            let manager = self.clone();
            tokio::spawn(async move {
                manager.0.netd.settled().await;
                manager.learn_endpoints().await;
            });
        }
        slipway_fault::point("runtime.recover.synced");
        for container in self.all().iter().filter(|c| c.running().is_some()) {
            let record = container.record();
            let volumes = record.spec.mounts.iter().filter(|m| m.r#type == "volume");
            let names = volumes.map(|m| m.source.as_str());
            self.0.volumes.keep_devices(names, &container.id);
        }
        self.0.volumes.close_forgotten();
        // Each may wait for its log driver.
        let mut settling = JoinSet::new();
        for container in ended {
            if settling.len() >= SETTLED_AT_ONCE {
                settling.join_next().await;
            }
            let manager = self.clone();
            settling.spawn(async move {
                manager.settle_ended(&container).await;
                slipway_fault::point("runtime.recover.settled");
            });
        }
        settling.join_all().await;
        for folder in half_done {
            self.remove_half_done(folder).await;
        }
        for container in silent {
            tracing::warn!(container = container.id, "its monitor does not answer");
            tokio::spawn(self.clone().ask_again(container));
        }
        slipway_fault::point("runtime.recover.done");
        tracing::info!(running, "recovered");
        Ok(())
    }

    /// Asks netd for the endpoints of containers that outlived us.
    async fn learn_endpoints(&self) {
        let mut by_container: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for endpoint in self.0.netd.endpoints().await {
            let of_it = by_container.entry(endpoint.container_id.clone());
            of_it.or_default().push(endpoint);
        }
        for (id, endpoints) in by_container {
            let Ok(container) = self.find(&id) else {
                continue;
            };
            // Renamed when we ended.
            let name = container.name();
            if !endpoints.iter().all(|e| e.dns_names.contains(&name)) {
                self.0.netd.rename(&container.id, &name).await;
            }
            // One that was started meanwhile knows its own, and one that has ended has given it back.
            if container.endpoints().is_empty() && container.running().is_some() {
                container.set_endpoints(endpoints);
            }
        }
        self.finish_changes().await;
        self.finish_ports().await;
    }

    /// Finishes a removal that was cut off, and takes back what was made for a container that was not.
    async fn remove_half_done(&self, folder: PathBuf) {
        if let Ok(record) = Record::read(&folder) {
            let extension = folder.extension().unwrap_or_default();
            // Nobody else has these, or will ever ask for them.
            if extension == "new" || extension == REMOVED_WITH_VOLUMES || record.spec.auto_remove {
                self.remove_own_volumes(&record.own_volumes).await;
            }
            let run_folder = self.0.run.join("containers").join(&record.id);
            self.clear_host(&record.id, &record.cgroup(), &run_folder);
            self.0.volumes.close_devices(&record.id);
        }
        // Last: as long as it is there, all that it names can still be found.
        let removing = tokio::task::spawn_blocking(move || {
            if let Err(error) = remove_tree(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "could not be removed");
            }
        });
        // A panic there has told of itself.
        let _ = removing.await;
    }

    /// Asks a monitor that said nothing until it says something or has gone.
    async fn ask_again(self, container: Arc<Container>) {
        loop {
            tokio::time::sleep(AGAIN).await;
            match hear(&container).await {
                Heard::Silence => {}
                Heard::Gone => {
                    self.0.netd.release(&container.id).await;
                    container.set_status(Status::Created);
                    self.settle_ended(&container).await;
                    container.announce_end();
                    return;
                }
                Heard::Running(connection, running) => {
                    self.resume_health(&container);
                    return self.supervise(container, connection, running);
                }
            }
        }
    }

    /// A container whose monitor is gone: it ended while we were away, or never began.
    async fn settle_ended(&self, container: &Arc<Container>) {
        let record = match container.recorded_end() {
            Some(record) => record,
            None if container.was_started() => ExitRecord::without_monitor(0),
            // Nobody is about to any more; but somebody may have begun to.
            None => {
                self.clean_up(container);
                return self.remove_unstarted(container).await;
            }
        };
        if !container.has_recorded_end() {
            end::keep(container, &record);
        }
        container.sync_soon();
        self.clean_up(container);
        logging::finish(container).await;
        self.resume_health(container);
        self.end_health(container);
        let (policy, ending) = come_back::verdict(container, record.code);
        if policy.at_service_start(ending) {
            let delay = restart::delay(None, Duration::ZERO);
            self.bring_back(container, record, delay);
            return;
        }
        container.set_status(Status::Exited { record });
        if container.record().spec.auto_remove
            && let Err(error) = self.remove(container, true, true).await
        {
            tracing::warn!(container = container.id, %error, "could not be removed");
        }
    }
}

/// Of versions before this one.
fn inherit_life(container: &Container, runs: bool) {
    if let Err(error) = container.inherit_life(runs) {
        tracing::warn!(container = container.id, %error, "what an earlier version knew of it is not recorded");
    }
}

fn entry_id(folder: &std::path::Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

async fn hear(container: &Container) -> Heard {
    let connection = match Connection::open(&container.socket()) {
        Ok(connection) => connection,
        Err(e) if client::is_none(&e) => return Heard::Gone,
        Err(_) => return Heard::Silence,
    };
    match tokio::time::timeout(GREETING, connection.next()).await {
        Ok(Ok(Some((Event::Running(running), _)))) => Heard::Running(connection, running),
        // It left while we looked.
        Ok(Ok(None)) => Heard::Gone,
        Ok(Ok(Some(_)) | Err(_)) | Err(_) => Heard::Silence,
    }
}
