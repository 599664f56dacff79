//! The `Host` service.

use std::{pin::Pin, time::SystemTime};

use slipway_proto::{
    runtime::v1::{
        DiskUsageRequest, DiskUsageResponse, EventsRequest, HostInfo, InfoRequest,
        PruneLayersRequest, PruneLayersResponse, host_server::Host,
    },
    types::v1::{Event, ServiceInfo},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};
use tonic::{Code, Request, Response, Status};

use super::view;
use crate::container::{manager::Manager, state::Status as State};

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
            security_options: vec![
                "name=seccomp,profile=builtin".into(),
                "name=cgroupns".into(),
            ],
            ..HostInfo::default()
        }))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;
    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        if request.since.is_some() || request.until.is_some() || !request.filters.is_empty() {
            let sentence = "events with --since, --until or --filter is not supported yet";
            return Err(slipway_service::error::status(
                Code::Unimplemented,
                "OPTION_UNSUPPORTED",
                sentence,
            ));
        }
        // A listener that is too slow misses events rather than memory.
        let events = BroadcastStream::new(self.manager.events())
            .filter_map(Result::ok)
            .map(|happening| {
                Ok(Event {
                    time: view::time(happening.time),
                    r#type: happening.kind.to_owned(),
                    action: happening.action,
                    actor_id: happening.id,
                    attributes: happening.attributes,
                })
            });
        Ok(Response::new(Box::pin(events)))
    }

    async fn disk_usage(
        &self,
        _: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        unsupported("system df of a runtime")
    }

    async fn prune_layers(
        &self,
        _: Request<PruneLayersRequest>,
    ) -> Result<Response<PruneLayersResponse>, Status> {
        unsupported("pruning of unpacked layers")
    }
}

fn unsupported<T>(what: &str) -> Result<T, Status> {
    let sentence = format!("{what} is not supported yet");
    Err(slipway_service::error::status(
        Code::Unimplemented,
        "OPTION_UNSUPPORTED",
        sentence,
    ))
}
