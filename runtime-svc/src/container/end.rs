//! A container that runs is followed to its end, which is told once and recorded; then it is cleared up after.

use std::{io, path::Path, sync::Arc, time::Duration};

use super::{
    come_back::verdict,
    early, exit, logging,
    manager::Manager,
    restart,
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    error::Error,
    monitor::{
        client::Connection,
        protocol::{Event, ExitRecord, Request, Running},
    },
    network::networks,
};

impl Manager {
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
                        // Nothing of it runs any more: others may have its address and ports.
                        manager.leave_network(&container).await;
                        manager.tell_unmounted(&container, &mut told);
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
            // Or it was killed while it waited for room.
            let record = record.or_else(|| container.recorded_end());
            let record = record.or_else(|| match container.status() {
                Status::Ending { record } => Some(record),
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
                ExitRecord::without_monitor(running.started)
            }
        };
        // Asked before anybody hears of the end: `restart` goes on from there.
        let goes = container.goes_with_its_end();
        if !goes || !record.error.is_empty() {
            let (manager, ended) = (self.clone(), container.clone());
            // It panicked at worst; what is left is found when the container is removed.
            let end = record.clone();
            let _ = tokio::task::spawn_blocking(move || {
                // Its monitor may have been killed before, or have had no room.
                if !ended.has_recorded_end() {
                    keep(&ended, &end);
                }
                manager.clean_up(&ended);
            })
            .await;
        }
        slipway_fault::point("runtime.end.cleaned");
        let released = self.release(container);
        logging::finish(container).await;
        if !goes {
            if let Err(error) = container.write_life() {
                tracing::warn!(container = container.id, %error, "that it was stopped could not be recorded");
            }
            container.sync_soon();
        }
        // Of one that is about to go, what it had that nobody else can ask for may come back a moment later.
        slipway_fault::point("runtime.end.recorded");
        if !goes || has_something_of_its_own(container) {
            // It panicked at worst; netd finds what is left.
            let _ = released.await;
        }
        slipway_fault::point("runtime.end.released");
        self.tell_networks(container, "disconnect", &container.endpoints());
        container.set_endpoints(Vec::new());
        self.tell_unmounted(container, &mut told);
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

    /// Tells everybody that its volumes are free, once, before the end is known: who waits for that goes on then, and
    /// tells of its own (moby's order as well: network, volumes, `die`, `stop`).
    fn tell_unmounted(&self, container: &Container, told: &mut Told) {
        if !std::mem::replace(&mut told.unmounted, true) {
            self.tell_mounts(container, "unmount");
        }
    }

    /// Gives its endpoint back before it has ended for good.
    async fn leave_network(&self, container: &Container) {
        // It panicked at worst; it is given back once more at the end.
        let _ = self.release(container).await;
        self.tell_networks(container, "disconnect", &container.endpoints());
        container.set_endpoints(Vec::new());
    }

    /// Gives its endpoint back, beside whatever else is done.
    fn release(&self, container: &Container) -> tokio::task::JoinHandle<()> {
        let config = container.record().spec.network.unwrap_or_default();
        let has = !container.endpoints().is_empty() || !networks(&config).is_empty();
        let (netd, id) = (self.0.netd.clone(), container.id.clone());
        tokio::spawn(async move {
            if has {
                netd.release(&id).await;
            }
        })
    }

    /// Takes away what a dead monitor left: processes, cgroups, its socket; but not how it ended, where that is
    /// nowhere else.
    pub(super) fn clean_up(&self, container: &Container) {
        self.clear_cgroups(&container.id, &container.record().cgroup());
        tell_left(&container.id, container.clear_run_folder());
        self.0.volumes.close_devices(&container.id);
    }

    /// What is left of a container that is removed, outside of its folder. Blocks.
    pub(super) fn clear_host(&self, id: &str, cgroup: &str, run_folder: &Path) {
        self.clear_cgroups(id, cgroup);
        tell_left(id, exit::remove_all(run_folder));
    }

    fn clear_cgroups(&self, id: &str, path: &str) {
        let group = Group::open(&self.0.hierarchies, path);
        let killed = group.kill().and_then(|()| group.remove());
        if let Err(error) = killed {
            tracing::warn!(container = id, %error, "its cgroups could not be removed");
        }
    }
}

fn tell_left(id: &str, cleared: io::Result<()>) {
    if let Err(error) = cleared {
        tracing::warn!(container = id, %error, "its run folder could not be removed");
    }
}

/// What has been told of a container that runs.
#[derive(Debug, Default)]
struct Told {
    /// Something was killed for want of memory.
    memory: bool,
    /// Its volumes are free.
    unmounted: bool,
    /// It ended.
    end: bool,
}

/// Leaves the end of a container for the next instance, which is to know it as well.
pub(super) fn keep(container: &Container, record: &ExitRecord) {
    if let Err(error) = container.record_end(record) {
        tracing::warn!(container = container.id, %error, "its end could not be recorded");
    }
}

/// Whether its endpoint has what the next container may want.
fn has_something_of_its_own(container: &Container) -> bool {
    let config = container.record().spec.network.unwrap_or_default();
    // More ports may have been published since.
    let ports = container.endpoints().iter().any(|e| !e.ports.is_empty());
    !early::is_plain(&config) || ports
}
