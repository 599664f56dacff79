//! The `Host` service.

use std::{pin::Pin, time::SystemTime};

use slipway_proto::{
    runtime::v1::{
        DiskUsageRequest, DiskUsageResponse, EventsRequest, HostInfo, InfoRequest,
        PruneLayersRequest, PruneLayersResponse, disk_usage_response::Usage, host_server::Host,
    },
    types::v1::{Event, ServiceInfo},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};
use tonic::{Request, Response, Status};

use super::{until::Until, view};
use crate::{
    collect,
    container::{manager::Manager, state::Status as State},
    disk,
    error::Tried as _,
    events::{Filters, Happening},
};

/// Tells about this host.
pub struct HostService {
    manager: Manager,
    started: SystemTime,
}

impl HostService {
    /// Over the host's containers.
    pub const fn new(manager: Manager, started: SystemTime) -> Self {
        Self { manager, started }
    }
}

#[tonic::async_trait]
impl Host for HostService {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<HostInfo>, Status> {
        let all = self.manager.all();
        let count =
            |test: fn(&State) -> bool| all.iter().filter(|c| test(&c.status())).count() as u32;
        let running = count(|s| matches!(s, State::Running { paused: false, .. }));
        let paused = count(|s| matches!(s, State::Running { paused: true, .. }));
        let system = rustix::system::uname();
        let text = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = release
            .lines()
            .find_map(|l| l.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux");
        Ok(Response::new(HostInfo {
            service: Some(ServiceInfo {
                name: "runtime-svc".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                started: Some(self.started.into()),
                ..ServiceInfo::default()
            }),
            containers: all.len() as u32,
            running,
            paused,
            stopped: all.len() as u32 - running - paused,
            kernel: text(system.release()),
            operating_system: name.trim_matches('"').to_owned(),
            architecture: text(system.machine()),
            cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
            memory: rustix::system::sysinfo().totalram as u64,
            cgroup_version: self.manager.hierarchies().version().to_owned(),
            hostname: text(system.nodename()),
            state_dir: self.manager.state_folder().display().to_string(),
            security_options: {
                let mut options = vec![
                    "name=seccomp,profile=builtin".to_owned(),
                    "name=cgroupns".to_owned(),
                ];
                if self.manager.remaps_ids() {
                    options.push("name=userns".to_owned());
                }
                options
            },
            ..HostInfo::default()
        }))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;
    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let filters = Filters::new(view::filters(request.filters))?;
        let since = request.since.as_ref().map(view::nanoseconds);
        let until = request.until.as_ref().map(view::nanoseconds);
        let (past, future) = self.manager.events().subscribe();
        // As docker: the past is only told to who asks for it.
        let past = past.into_iter().filter(move |h| {
            (since.is_some() || until.is_some()) && since.is_none_or(|s| h.time >= s)
        });
        // A listener that is too slow misses events rather than memory.
        let future = BroadcastStream::new(future).filter_map(Result::ok);
        let events = tokio_stream::iter(past)
            .chain(future)
            .take_while(move |h| until.is_none_or(|u| h.time <= u))
            .filter(move |h| filters.pass(h))
            .map(|h| Ok(event(&h)));
        Ok(Response::new(match until {
            None => Box::pin(events),
            Some(until) => Box::pin(Until::new(events, until)),
        }))
    }

    async fn disk_usage(
        &self,
        _: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        let manager = self.manager.clone();
        let measured = tokio::task::spawn_blocking(move || measure(&manager))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .tried(|| "cannot measure what is on disk".to_owned())?;
        Ok(Response::new(measured))
    }

    async fn prune_layers(
        &self,
        request: Request<PruneLayersRequest>,
    ) -> Result<Response<PruneLayersResponse>, Status> {
        let done = collect::collect(&self.manager, request.into_inner().all).await?;
        Ok(Response::new(PruneLayersResponse {
            removed: done.layers,
            reclaimed: done.bytes,
        }))
    }
}

fn event(happening: &Happening) -> Event {
    Event {
        time: view::time(happening.time),
        r#type: happening.kind.to_owned(),
        action: happening.action.clone(),
        actor_id: happening.id.clone(),
        attributes: happening.attributes.clone(),
    }
}

/// Bytes on disk of everything that is this service's. Blocks.
fn measure(manager: &Manager) -> std::io::Result<DiskUsageResponse> {
    let mut containers = Usage::default();
    for container in manager.all() {
        let bytes = disk::usage(&container.folder)?;
        containers.total += 1;
        containers.size += bytes;
        if container.running().is_some() {
            containers.active += 1;
        } else {
            containers.reclaimable += bytes;
        }
    }
    let mut volumes = Usage::default();
    for volume in manager.volumes().list().map_err(std::io::Error::other)? {
        // What a volume of a device holds is not the volume's.
        let bytes = match volume.options.is_empty() {
            true => disk::usage(&manager.volumes().data(&volume.name))?,
            false => 0,
        };
        volumes.total += 1;
        volumes.size += bytes;
        if manager.users_of_volume(&volume.name).is_empty() {
            volumes.reclaimable += bytes;
        } else {
            volumes.active += 1;
        }
    }
    let [(total, size), (active, used)] = manager.layers().usage(&collect::in_use(manager))?;
    Ok(DiskUsageResponse {
        containers: Some(containers),
        volumes: Some(volumes),
        layers: Some(Usage {
            total,
            active,
            size,
            reclaimable: size - used,
        }),
    })
}
