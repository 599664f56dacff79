//! The worker interface of runtime-svc, as a builder uses it.

use std::time::Duration;

use slipway_image::layer::{
    Entry,
    pack::{Plain, Sink as _},
};
use slipway_proto::{
    registry::v1::ResolveRequest,
    runtime::v1::{
        self as pb, ApplyRequest, ImportLayerRequest, KnownFile, apply_request::Part,
        import_layer_request, prepare_event, run_step_event, worker_client::WorkerClient,
    },
};
use tonic::{Status, transport::Channel};

use crate::Site;

/// A lease at a site's worker, and calls under it.
#[derive(Clone)]
pub struct Build {
    /// The client.
    pub client: WorkerClient<Channel>,
    /// The lease.
    pub lease: String,
}

/// The reason in a status.
pub fn reason(status: &Status) -> String {
    slipway_service::error::reason(status)
}

/// A tar stream.
pub fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Plain::new(Vec::new());
    for (entry, content) in entries {
        tar.append(entry, &mut &content[..]).unwrap();
    }
    tar.finish().unwrap()
}

/// The first message of an apply.
pub fn start(snapshot: &str, path: &str) -> ApplyRequest {
    let start = pb::apply_request::Start {
        snapshot_id: snapshot.to_owned(),
        path: path.to_owned(),
        ..Default::default()
    };
    ApplyRequest {
        part: Some(Part::Start(start)),
    }
}

/// A further one.
pub fn data(bytes: &[u8]) -> ApplyRequest {
    ApplyRequest {
        part: Some(Part::Data(bytes::Bytes::copy_from_slice(bytes))),
    }
}

/// A part of a layer that a builder gives: bytes of its archive.
pub fn given(bytes: &[u8]) -> import_layer_request::Part {
    import_layer_request::Part::Data(bytes::Bytes::copy_from_slice(bytes))
}

/// The same: a file that the worker has in another layer.
pub fn known(layer: &str, path: &str, size: u64) -> import_layer_request::Part {
    import_layer_request::Part::KnownFile(KnownFile {
        diff_id: layer.to_owned(),
        path: path.to_owned(),
        size,
    })
}

impl Site {
    /// The layers of an image, as a worker wants them.
    pub async fn layers_of(&self, image: &str) -> Vec<pb::Layer> {
        let request = ResolveRequest {
            reference: image.to_owned(),
            platform: None,
        };
        let image = self.registry().resolve(request).await.unwrap().into_inner();
        let layers = image.layers.into_iter().zip(image.diff_ids);
        layers
            .map(|(descriptor, diff_id)| pb::Layer {
                descriptor: Some(descriptor),
                diff_id,
                repository: image.repository.clone(),
            })
            .collect()
    }

    /// Begins a lease.
    pub async fn begin_build(&self, holder: &str, ttl: Duration) -> Build {
        let mut client = self.worker();
        let request = pb::LeaseRequest {
            lease_id: String::new(),
            ttl: Some(ttl.try_into().unwrap()),
            holder: holder.to_owned(),
        };
        let lease = client.lease(request).await.unwrap().into_inner().lease_id;
        Build { client, lease }
    }

    /// All leases.
    pub async fn leases(&self) -> Vec<pb::WorkLease> {
        let answer = self.worker().list_leases(pb::ListLeasesRequest {}).await;
        answer.unwrap().into_inner().leases
    }
}

impl Build {
    /// Prepares a snapshot.
    pub async fn prepare(&self, layers: &[pb::Layer]) -> Result<String, Status> {
        self.prepared(pb::PrepareRequest {
            lease_id: self.lease.clone(),
            layers: layers.to_vec(),
            ..Default::default()
        })
        .await
    }

    /// Prepares a snapshot upon another.
    pub async fn upon(&self, parent: &str) -> Result<String, Status> {
        self.prepared(pb::PrepareRequest {
            lease_id: self.lease.clone(),
            parent_snapshot_id: parent.to_owned(),
            ..Default::default()
        })
        .await
    }

    async fn prepared(&self, request: pb::PrepareRequest) -> Result<String, Status> {
        let mut events = self.client.clone().prepare(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            if let Some(prepare_event::Event::SnapshotId(id)) = event.event {
                return Ok(id);
            }
        }
        panic!("no snapshot was prepared");
    }

    /// Applies a tar stream, in pieces.
    pub async fn apply(
        &self,
        snapshot: &str,
        path: &str,
        tar: &[u8],
    ) -> Result<pb::ApplyResponse, Status> {
        let mut requests = vec![start(snapshot, path)];
        requests.extend(tar.chunks(100_000).map(data));
        let answer = self
            .client
            .clone()
            .apply(tokio_stream::iter(requests))
            .await;
        answer.map(tonic::Response::into_inner)
    }

    /// Runs a script of busybox; its exit code and output.
    pub async fn run(&self, snapshot: &str, script: &str) -> Result<(i32, String), Status> {
        let args = ["/bin/busybox", "sh", "-c", script].map(str::to_owned);
        let request = pb::RunStepRequest {
            snapshot_id: snapshot.to_owned(),
            args: args.to_vec(),
            network: "none".to_owned(),
            env: vec!["PATH=/bin".to_owned()],
            ..Default::default()
        };
        let mut events = self.client.clone().run_step(request).await?.into_inner();
        let mut text = Vec::new();
        while let Some(event) = events.message().await? {
            match event.event {
                Some(run_step_event::Event::Output(output)) => text.extend(&output.data),
                Some(run_step_event::Event::Exited(exited)) => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return Ok((exited.exit_code, text));
                }
                Some(run_step_event::Event::Agent(_)) | None => {}
            }
        }
        panic!("the step did not end");
    }

    /// What a snapshot changes: `A /file`. A step touches /etc: its hosts file stands there meanwhile.
    pub async fn diff(&self, snapshot: &str) -> Result<Vec<String>, Status> {
        let request = pb::DiffSnapshotRequest {
            snapshot_id: snapshot.to_owned(),
        };
        let mut events = self.client.clone().diff(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(event) = events.message().await? {
            let changes = event.changes.iter();
            all.extend(changes.map(|c| format!("{} {}", c.kind, c.path)));
        }
        all.retain(|change| change != "C /etc");
        all.sort();
        Ok(all)
    }

    /// Commits a snapshot to a repository for tests.
    pub async fn commit(&self, snapshot: &str) -> Result<pb::CommitSnapshotResponse, Status> {
        let request = pb::CommitSnapshotRequest {
            snapshot_id: snapshot.to_owned(),
            repository: "docker.io/library/committed".to_owned(),
            ..Default::default()
        };
        let answer = self.client.clone().commit_snapshot(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Gives a layer in these parts, with its digest at the end if there is one.
    pub async fn import(
        &self,
        parts: Vec<import_layer_request::Part>,
        diff_id: Option<&str>,
    ) -> Result<(), Status> {
        use import_layer_request::Part;
        let lease = Part::LeaseId(self.lease.clone());
        let diff_id = diff_id.map(|id| Part::DiffId(id.to_owned()));
        let parts = [lease].into_iter().chain(parts).chain(diff_id);
        let requests = parts.map(|part| ImportLayerRequest { part: Some(part) });
        let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
        self.client.clone().import_layer(requests).await.map(drop)
    }

    /// Whether there is something at a path.
    pub async fn has(&self, snapshot: &str, path: &str) -> Result<bool, Status> {
        let request = pb::ResolvePathRequest {
            snapshot_id: snapshot.to_owned(),
            path: path.to_owned(),
            follow: false,
        };
        let answer = self.client.clone().resolve(request).await?;
        Ok(answer.into_inner().exists)
    }

    /// Releases a snapshot.
    pub async fn release(&self, snapshot: &str) {
        let request = pb::ReleaseRequest {
            snapshot_id: snapshot.to_owned(),
        };
        self.client.clone().release(request).await.unwrap();
    }

    /// Ends the lease.
    pub async fn end(&self) {
        let request = pb::EndLeaseRequest {
            lease_id: self.lease.clone(),
        };
        self.client.clone().end_lease(request).await.unwrap();
    }
}
