//! The `Host` service.

use std::{pin::Pin, time::SystemTime};

use slipway_proto::{
    runtime::v1::{
        self as pb, DiskUsageRequest, DiskUsageResponse, EventsRequest, HostInfo, InfoRequest,
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
    usage::{self, DiskUsage},
    worker::Worker,
};

/// Tells about this host.
pub struct HostService {
    manager: Manager,
    worker: Worker,
    started: SystemTime,
}

impl HostService {
    /// Over the host's containers and what builds have here.
    pub const fn new(manager: Manager, worker: Worker, started: SystemTime) -> Self {
        Self {
            manager,
            worker,
            started,
        }
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
        request: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        let verbose = request.into_inner().verbose;
        let (manager, worker) = (self.manager.clone(), self.worker.clone());
        let usage = disk::measure(move || DiskUsage::of(&manager, &worker))
            .await
            .tried(|| "cannot measure what is on disk".to_owned())?;
        Ok(Response::new(disk_usage(usage, verbose)))
    }

    async fn prune_layers(
        &self,
        request: Request<PruneLayersRequest>,
    ) -> Result<Response<PruneLayersResponse>, Status> {
        let done = collect::collect(&self.manager, request.into_inner().all).await?;
        Ok(Response::new(PruneLayersResponse {
            removed: done.layers.len() as u32,
            reclaimed: done.bytes,
            diff_ids: done.layers.iter().map(ToString::to_string).collect(),
        }))
    }
}

/// A lease as a message.
pub fn lease(lease: usage::Lease) -> pb::WorkLease {
    let snapshot = |s: usage::Snapshot| pb::work_lease::Snapshot {
        id: s.id,
        created: Some(s.created.into()),
        parent: s.parent,
        size: s.bytes,
    };
    pb::WorkLease {
        id: lease.id,
        holder: lease.holder,
        created: Some(lease.created.into()),
        expires: lease.until.map(Into::into),
        attached: lease.attached,
        layers: lease.layers.iter().map(ToString::to_string).collect(),
        snapshots: lease.snapshots.into_iter().map(snapshot).collect(),
    }
}

fn disk_usage(usage: DiskUsage, verbose: bool) -> DiskUsageResponse {
    /// Sums up: bytes, and whether it is in use.
    fn sum(parts: impl Iterator<Item = (u64, bool)>) -> Option<Usage> {
        let mut sum = Usage::default();
        for (bytes, active) in parts {
            sum.total += 1;
            sum.size += bytes;
            match active {
                true => sum.active += 1,
                false => sum.reclaimable += bytes,
            }
        }
        Some(sum)
    }
    let snapshots = usage.leases.iter().flat_map(|l| &l.snapshots);
    let mut told = DiskUsageResponse {
        containers: sum(usage.containers.iter().map(|c| (c.bytes(), c.running))),
        volumes: sum(usage.volumes.iter().map(|v| (v.bytes, v.links > 0))),
        layers: sum(usage
            .layers
            .iter()
            .map(|l| (l.bytes, l.containers > 0 || l.held))),
        snapshots: sum(snapshots.map(|s| (s.bytes, true))),
        cache_mounts: sum(usage.caches.iter().copied()),
        temporary: usage.temporary,
        other: usage.other,
        foreign: usage.foreign,
        ..DiskUsageResponse::default()
    };
    if !verbose {
        return told;
    }
    told.leases = usage.leases.into_iter().map(lease).collect();
    let containers = usage.containers.into_iter().map(|c| pb::ContainerUsage {
        id: c.id,
        writable: c.writable,
        logs: c.logs,
        other: c.other,
        running: c.running,
    });
    told.each_container = containers.collect();
    let volumes = usage.volumes.into_iter().map(|v| pb::VolumeUsage {
        name: v.name,
        size: v.bytes,
        links: v.links,
    });
    told.each_volume = volumes.collect();
    let layers = usage.layers.into_iter().map(|l| pb::LayerUsage {
        diff_id: l.present.layer.to_string(),
        size: l.bytes,
        content: l.present.content,
        containers: l.containers,
        held: l.held,
        built: l.present.built,
        last_used: Some(l.present.last_use.into()),
    });
    told.each_layer = layers.collect();
    told
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
