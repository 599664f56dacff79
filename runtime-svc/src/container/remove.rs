//! Taking a container away, and what belongs to nobody else.

use std::{fs, io, sync::Arc};

use super::{
    manager::Manager,
    state::{Container, Status},
};
use crate::{
    disk::remove_tree,
    error::{Error, Tried as _},
};

/// What the folder of a container ends with that goes with its own volumes.
pub(super) const REMOVED_WITH_VOLUMES: &str = "removed-with-volumes";

impl Manager {
    /// Removes a container; a running one only with `force`.
    pub async fn remove(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        if container.is_up() {
            if !force {
                let advice = match container.status() {
                    Status::Running { paused: true, .. } => "paused and must be unpaused first",
                    Status::Restarting { .. } => {
                        "restarting: stop the container before removing or force remove"
                    }
                    _ => "running: stop the container before removing or force remove",
                };
                return Err(Error::Conflict(format!(
                    "cannot remove container \"/{}\": container is {advice}",
                    container.name()
                )));
            }
            self.end_for_good(container).await?;
        }
        if matches!(container.status(), Status::Ending { .. }) {
            self.give_up_output(container).await?;
        }
        let _opened = container.opening.write().await;
        let _turn = container.operation.lock().await;
        match container.status() {
            Status::Removed => return Err(Error::NoSuchContainer(container.id.clone())),
            Status::Running { .. } | Status::Ending { .. } | Status::Restarting { .. } => {
                return Err(Error::Conflict(format!(
                    "container {} was started meanwhile",
                    container.name()
                )));
            }
            Status::Created | Status::Exited { .. } => {}
        }
        let record = container.record();
        // Out of the way under another name first: a removal that is cut off is finished at the next start.
        let gone = container.folder.with_extension(match volumes {
            true => REMOVED_WITH_VOLUMES,
            false => "removed",
        });
        let what = || format!("cannot remove container {}", record.name);
        fs::rename(&container.folder, &gone).tried(what)?;
        slipway_fault::point("runtime.rm.renamed");
        self.0.volumes.close_devices(&container.id);
        self.forget(container);
        slipway_fault::point("runtime.rm.forgotten");
        if volumes {
            self.remove_own_volumes(&record.own_volumes).await;
        }
        slipway_fault::point("runtime.rm.volumes");
        // Name and volumes are free: who waits for that need not wait for the disk.
        container.set_status(Status::Removed);
        self.tell(container, "destroy", &[]);
        let (manager, run_folder) = (self.clone(), container.run_folder.clone());
        let name = record.name.clone();
        tokio::task::spawn_blocking(move || {
            manager.clear_host(&record.id, &record.cgroup(), &run_folder);
            slipway_fault::point("runtime.rm.cleaned");
            // Last: by it the next start finds what was not done.
            remove_tree(&gone)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot remove container {name}"))?;
        slipway_fault::point("runtime.rm.gone");
        Ok(())
    }

    /// One of `--rm` that could not be started goes at once, as docker's does. Its caller must not hold
    /// `opening`.
    pub async fn remove_unstarted(&self, container: &Arc<Container>) {
        if container.record().spec.auto_remove
            && !container.is_up()
            && let Err(error) = self.remove(container, true, true).await
        {
            tracing::warn!(container = container.id, %error, "could not be removed");
        }
    }

    /// Removes the volumes that were made for a container alone, unless another one shares them.
    pub(super) async fn remove_own_volumes(&self, names: &[String]) {
        for name in names {
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
}
