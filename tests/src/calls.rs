//! What tests ask of a site over gRPC.

use std::sync::LazyLock;

use slipway_proto::{
    builder::v1::builder_client::BuilderClient,
    netd::v1::network_client::NetworkClient,
    registry::v1::registry_client::RegistryClient,
    runtime::v1::{
        ContainerSpec, ContainerSummary, Exited, ListRequest, LogsRequest, RemoveRequest,
        RunRequest, StreamInput, StreamOutput, containers_client::ContainersClient,
        host_client::HostClient, run_event, run_request, volumes_client::VolumesClient,
        worker_client::WorkerClient,
    },
};
use slipway_service::{Address, client};
use tokio_stream::StreamExt as _;
use tonic::{Status, transport::Channel};

use crate::Site;

/// What a finished `run` gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its id.
    pub id: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Where connections live: beside the tests, whose own runtimes stand still while a test blocks. A service
/// that is asked to end waits for connections that nobody closes.
static CONNECTIONS: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
});

impl Site {
    fn channel(&self, service: &str) -> Channel {
        let _there = CONNECTIONS.enter();
        client::connect(&Address::Unix(self.socket(service)), None).unwrap()
    }

    /// registry-svc.
    pub fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel("registry"))
    }

    /// runtime-svc.
    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel("runtime"))
    }

    /// runtime-svc's host.
    pub fn host(&self) -> HostClient<Channel> {
        HostClient::new(self.channel("runtime"))
    }

    /// runtime-svc's volumes.
    pub fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel("runtime"))
    }

    /// runtime-svc as a builder sees it, by a connection of its own.
    pub fn worker(&self) -> WorkerClient<Channel> {
        WorkerClient::new(self.channel("runtime"))
    }

    /// netd.
    pub fn networks(&self) -> NetworkClient<Channel> {
        NetworkClient::new(self.channel("netd"))
    }

    /// builder-svc.
    pub fn builder(&self) -> BuilderClient<Channel> {
        BuilderClient::new(self.channel("builder"))
    }

    /// Starts a container in the background; returns its id.
    pub async fn run_detached(&self, spec: ContainerSpec) -> Result<String, Status> {
        let start = run_request::Start {
            spec: Some(spec),
            detach: true,
            ..run_request::Start::default()
        };
        let first = RunRequest {
            part: Some(run_request::Part::Start(start)),
        };
        let mut events = self
            .containers()
            .run(tokio_stream::iter([first]))
            .await?
            .into_inner();
        let mut id = String::new();
        while let Some(event) = events.message().await? {
            if let Some(run_event::Event::Created(created)) = event.event {
                id = created.id;
            }
        }
        Ok(id)
    }

    /// Runs a container attached, with this input, to its end.
    pub async fn run(&self, spec: ContainerSpec, input: Vec<StreamInput>) -> Result<Ran, Status> {
        let start = run_request::Start {
            spec: Some(spec),
            ..run_request::Start::default()
        };
        let first = RunRequest {
            part: Some(run_request::Part::Start(start)),
        };
        let rest = input.into_iter().map(|i| RunRequest {
            part: Some(run_request::Part::Input(i)),
        });
        // The call stays open behind the input, as ctl keeps it.
        let requests =
            tokio_stream::iter(std::iter::once(first).chain(rest)).chain(tokio_stream::pending());
        let mut events = self.containers().run(requests).await?.into_inner();
        let (mut ran, mut out, mut err) = (Ran::default(), Vec::new(), Vec::new());
        while let Some(event) = events.message().await? {
            match event.event {
                Some(run_event::Event::Created(created)) => ran.id = created.id,
                Some(run_event::Event::Output(StreamOutput { stream: 3, data })) => {
                    err.extend(data)
                }
                Some(run_event::Event::Output(StreamOutput { data, .. })) => out.extend(data),
                Some(run_event::Event::Exited(Exited { exit_code, .. })) => {
                    ran.code = exit_code;
                    break;
                }
                _ => {}
            }
        }
        ran.stdout = String::from_utf8_lossy(&out).into_owned();
        ran.stderr = String::from_utf8_lossy(&err).into_owned();
        Ok(ran)
    }

    /// All containers.
    pub async fn list(&self) -> Vec<ContainerSummary> {
        let request = ListRequest {
            all: true,
            ..ListRequest::default()
        };
        self.containers()
            .list(request)
            .await
            .unwrap()
            .into_inner()
            .containers
    }

    /// What a container has written so far.
    pub async fn logs(&self, container: &str) -> String {
        let request = LogsRequest {
            container: container.to_owned(),
            tail: -1,
            ..LogsRequest::default()
        };
        let mut entries = self.containers().logs(request).await.unwrap().into_inner();
        let mut text = Vec::new();
        while let Some(batch) = entries.message().await.unwrap() {
            batch
                .entries
                .iter()
                .for_each(|entry| text.extend(&entry.data));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Removes a container, running or not.
    pub async fn remove(&self, container: &str) {
        let request = RemoveRequest {
            container: container.to_owned(),
            force: true,
            volumes: true,
        };
        self.containers().remove(request).await.unwrap();
    }
}
