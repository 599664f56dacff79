//! The `Volumes` service.

use std::path::PathBuf;

use slipway_proto::{
    runtime::v1::{self as pb, volumes_server::Volumes},
    types::v1::Filter,
};
use tonic::{Request, Response, Status};

use super::view;
use crate::{
    container::manager::Manager,
    disk,
    error::{Error, Tried as _},
    volumes::Name,
    volumes::Volume,
};

/// Translates calls to the host's volumes.
pub struct VolumesService {
    manager: Manager,
}

impl VolumesService {
    /// Over the host's volumes.
    pub const fn new(manager: Manager) -> Self {
        Self { manager }
    }

    /// Bytes on disk of a volume's data. What a volume of a device holds is not the volume's.
    async fn size(&self, volume: &Volume) -> Result<u64, Error> {
        match volume.options.is_empty() {
            true => {
                let data = self.manager.volumes().data(&volume.name);
                measure(&volume.name, data).await
            }
            false => Ok(0),
        }
    }

    /// Bytes on disk that its removal gives back: of its data and its record.
    async fn whole_size(&self, volume: &Volume) -> Result<u64, Error> {
        let mut folder = self.manager.volumes().data(&volume.name);
        folder.pop();
        measure(&volume.name, folder).await
    }

    fn view(&self, volume: Volume, size: u64) -> pb::Volume {
        pb::Volume {
            mountpoint: self
                .manager
                .volumes()
                .data(&volume.name)
                .display()
                .to_string(),
            driver: "local".to_owned(),
            created: view::time(volume.created),
            labels: volume.labels.into_iter().collect(),
            options: volume.options.into_iter().collect(),
            scope: "local".to_owned(),
            size,
            used_by: self.manager.users_of_volume(&volume.name).len() as u32,
            anonymous: volume.anonymous,
            name: volume.name,
        }
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        let (manager, volume) = (self.manager.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || {
            let users = || manager.users_of_volume(&volume);
            manager.volumes().remove(&volume, users)
        })
        .await
        .map_err(std::io::Error::other)
        .tried(|| format!("cannot remove volume {name}"))??;
        self.manager.tell_volume(name, "destroy");
        Ok(())
    }
}

async fn measure(name: &str, folder: PathBuf) -> Result<u64, Error> {
    disk::measure(move || disk::usage(&folder))
        .await
        .tried(|| format!("cannot measure volume {name}"))
}

/// Whether a volume passes docker's filters.
fn passes(volume: &Volume, used: bool, filters: &[Filter]) -> Result<bool, Error> {
    for filter in filters {
        let any = |test: &dyn Fn(&str) -> bool| filter.values.iter().any(|v| test(v));
        let holds = match filter.key.as_str() {
            "name" => any(&|v| volume.name.contains(v)),
            "driver" => any(&|v| v == "local"),
            "dangling" => any(&|v| matches!(v, "true" | "1") != used),
            // docker: all labels that are named, but none of those behind "label!".
            "label" => filter.values.iter().all(|v| has_label(volume, v)),
            "label!" => !any(&|v| has_label(volume, v)),
            other => return Err(Error::Invalid(format!("invalid filter '{other}'"))),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_label(volume: &Volume, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => volume.labels.get(key).is_some_and(|l| l == value),
        None => volume.labels.contains_key(wanted),
    }
}

#[tonic::async_trait]
impl Volumes for VolumesService {
    async fn create_volume(
        &self,
        request: Request<pb::CreateVolumeRequest>,
    ) -> Result<Response<pb::Volume>, Status> {
        let request = request.into_inner();
        if !matches!(&*request.driver, "" | "local") {
            return Err(Error::Unsupported(format!("the volume driver {}", request.driver)).into());
        }
        let labels = request.labels.into_iter().collect();
        let options = request.options.into_iter().collect();
        let id = crate::ids::new_id();
        let name = match request.name.as_str() {
            "" => Name::Anonymous(&id),
            given => Name::Given(given),
        };
        let pin = self.manager.volumes().create(name, labels, options)?;
        let name = pin.name().to_owned();
        pin.keep();
        self.manager.tell_volume(&name, "create");
        let volume = self.manager.volumes().find(&name)?;
        Ok(Response::new(self.view(volume, 0)))
    }

    async fn inspect_volume(
        &self,
        request: Request<pb::InspectVolumeRequest>,
    ) -> Result<Response<pb::Volume>, Status> {
        let volume = self.manager.volumes().find(&request.into_inner().name)?;
        Ok(Response::new(self.view(volume, 0)))
    }

    async fn list_volumes(
        &self,
        request: Request<pb::ListVolumesRequest>,
    ) -> Result<Response<pb::ListVolumesResponse>, Status> {
        let request = request.into_inner();
        let mut volumes = Vec::new();
        for volume in self.manager.volumes().list()? {
            let used = !self.manager.users_of_volume(&volume.name).is_empty();
            if passes(&volume, used, &request.filters)? {
                let size = match request.size {
                    true => self.size(&volume).await?,
                    false => 0,
                };
                volumes.push(self.view(volume, size));
            }
        }
        Ok(Response::new(pb::ListVolumesResponse {
            volumes,
            next_page_token: String::new(),
        }))
    }

    async fn remove_volume(
        &self,
        request: Request<pb::RemoveVolumeRequest>,
    ) -> Result<Response<pb::RemoveVolumeResponse>, Status> {
        let request = request.into_inner();
        match self.remove(&request.name).await {
            // docker: force means that it may be gone already, nothing else.
            Err(Error::NoSuchVolume(_)) if request.force => {}
            done => done?,
        }
        Ok(Response::new(pb::RemoveVolumeResponse {}))
    }

    async fn prune_volumes(
        &self,
        request: Request<pb::PruneVolumesRequest>,
    ) -> Result<Response<pb::PruneVolumesResponse>, Status> {
        let mut request = request.into_inner();
        // docker's older way to say it.
        request.filters.retain(|filter| {
            let all = filter.key == "all";
            request.all |= all && filter.values.iter().any(|v| matches!(&**v, "1" | "true"));
            !all
        });
        let mut pruned = pb::PruneVolumesResponse::default();
        for volume in self.manager.volumes().list()? {
            let used = !self.manager.users_of_volume(&volume.name).is_empty();
            if used
                || !(request.all || volume.anonymous)
                || !passes(&volume, used, &request.filters)?
            {
                continue;
            }
            let size = self.whole_size(&volume).await?;
            match self.remove(&volume.name).await {
                Ok(()) => {
                    pruned.removed.push(volume.name);
                    pruned.reclaimed += size;
                }
                // Somebody began to use it, or removed it.
                Err(Error::VolumeInUse { .. } | Error::NoSuchVolume(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Response::new(pruned))
    }
}
