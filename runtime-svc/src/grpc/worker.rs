//! The `Worker` service.

use std::{io, pin::Pin};

use slipway_proto::{
    runtime::v1::{self as pb, worker_server::Worker as Service},
    types::v1::{Descriptor, Progress, progress::Phase},
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    streams::{self, CopyWriter, blocking},
    view,
};
use crate::{
    error::Error,
    registry::Layer,
    worker::{Found, Step, Target, Worker},
};

/// Messages that wait for a client.
const QUEUE: usize = 16;

/// Translates calls to the worker.
pub struct WorkerService {
    worker: Worker,
}

impl WorkerService {
    /// Over this host's worker.
    pub const fn new(worker: Worker) -> Self {
        Self { worker }
    }
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn layer(layer: pb::Layer) -> Result<Layer, Error> {
    let invalid = |e: slipway_image::digest::DigestError| Error::Invalid(e.to_string());
    let descriptor = layer.descriptor.unwrap_or_default();
    Ok(Layer {
        digest: descriptor.digest.parse().map_err(invalid)?,
        size: descriptor.size,
        media_type: descriptor.media_type,
        diff_id: layer.diff_id.parse().map_err(invalid)?,
        repository: layer.repository,
    })
}

#[tonic::async_trait]
impl Service for WorkerService {
    async fn lease(
        &self,
        request: Request<pb::LeaseRequest>,
    ) -> Result<Response<pb::LeaseResponse>, Status> {
        let request = request.into_inner();
        let ttl = request.ttl.and_then(|ttl| ttl.try_into().ok());
        let lease_id = self.worker.lease(&request.lease_id, ttl)?;
        Ok(Response::new(pb::LeaseResponse { lease_id }))
    }

    async fn end_lease(
        &self,
        request: Request<pb::EndLeaseRequest>,
    ) -> Result<Response<pb::EndLeaseResponse>, Status> {
        self.worker.end_lease(&request.into_inner().lease_id).await;
        Ok(Response::new(pb::EndLeaseResponse {}))
    }

    type PrepareStream = Events<pb::PrepareEvent>;
    async fn prepare(
        &self,
        request: Request<pb::PrepareRequest>,
    ) -> Result<Response<Self::PrepareStream>, Status> {
        let request = request.into_inner();
        let layers = request
            .layers
            .into_iter()
            .map(layer)
            .collect::<Result<Vec<_>, _>>()?;
        let worker = self.worker.clone();
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            for layer in &layers {
                let progress = Progress {
                    id: layer.digest.to_string(),
                    phase: Phase::Waiting.into(),
                    current: 0,
                    total: layer.size,
                };
                streams::send(
                    &send,
                    pb::PrepareEvent {
                        event: Some(pb::prepare_event::Event::Progress(progress)),
                    },
                )
                .await;
            }
            let prepared = worker.prepare(&request.lease_id, &layers).await;
            let event = prepared.map(|id| pb::PrepareEvent {
                event: Some(pb::prepare_event::Event::SnapshotId(id)),
            });
            // The client is gone: its lease takes the snapshot back.
            let _ = send.send(event.map_err(Status::from)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type RunStepStream = Events<pb::RunStepEvent>;
    async fn run_step(
        &self,
        request: Request<pb::RunStepRequest>,
    ) -> Result<Response<Self::RunStepStream>, Status> {
        let request = request.into_inner();
        if !request.mounts.is_empty() {
            return Err(Error::Unsupported("RUN --mount".to_owned()).into());
        }
        let snapshot = self.worker.find(&request.snapshot_id)?;
        let step = Step {
            args: request.args,
            env: request.env,
            working_dir: request.working_dir,
            user: request.user,
            network: request.network,
            extra_hosts: request.extra_hosts,
            shm_size: request.shm_size,
            hostname: request.hostname,
        };
        let worker = self.worker.clone();
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let (output, mut pieces) = mpsc::channel(QUEUE);
            let forward = async {
                while let Some(piece) = pieces.recv().await {
                    let event = pb::run_step_event::Event::Output(streams::output(piece));
                    if !streams::send(&send, pb::RunStepEvent { event: Some(event) }).await {
                        return;
                    }
                }
            };
            let work = async { tokio::join!(worker.run(&snapshot, step, output), forward).0 };
            // Dropping the work kills the step.
            tokio::select! {
                () = send.closed() => {}
                ended = work => {
                    let event = ended.map(|record| pb::RunStepEvent {
                        event: Some(pb::run_step_event::Event::Exited(view::exited(&record, ""))),
                    });
                    // The client is gone: nobody is to be told.
                    let _ = send.send(event.map_err(Status::from)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn apply(
        &self,
        request: Request<Streaming<pb::ApplyRequest>>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|r| r.part);
        let Some(pb::apply_request::Part::Start(start)) = first else {
            return Err(Error::Invalid(
                "the first message of an apply must be its start".to_owned(),
            )
            .into());
        };
        let snapshot = self.worker.find(&start.snapshot_id)?;
        let turn = snapshot.busy.clone().lock_owned().await;
        let target = Target {
            path: start.path,
            owner: start.owner,
            mode: start.mode,
            archive: start.archive,
            keep_kinds: false,
            ids: None,
        };
        let (send, receive) = mpsc::channel(QUEUE);
        let work = {
            let snapshot = snapshot.clone();
            blocking(move || {
                // The call may end before the work does: the snapshot stays taken until then.
                let _turn = turn;
                let root = snapshot.open()?;
                crate::worker::apply(
                    &root,
                    &target,
                    slipway_service::chunks::ChunkReader::new(receive),
                )
            })
        };
        let feed = async {
            while let Some(request) = requests.message().await? {
                if let Some(pb::apply_request::Part::Data(data)) = request.part
                    && send.send(data).await.is_err()
                {
                    break;
                }
            }
            drop(send);
            Ok::<_, Status>(())
        };
        let (applied, fed) = tokio::join!(work, feed);
        fed?;
        let applied = applied?;
        Ok(Response::new(pb::ApplyResponse {
            bytes: applied.bytes,
            entries: applied.entries,
        }))
    }

    type ReadPathStream = Events<pb::CopyChunk>;
    async fn read_path(
        &self,
        request: Request<pb::ReadPathRequest>,
    ) -> Result<Response<Self::ReadPathStream>, Status> {
        let request = request.into_inner();
        let snapshot = self.worker.find(&request.snapshot_id)?;
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let turn = snapshot.busy.clone().lock_owned().await;
            let (snapshot, chunks) = (snapshot.clone(), send.clone());
            let read = blocking(move || {
                let _turn = turn;
                let root = snapshot.open()?;
                let writer =
                    io::BufWriter::with_capacity(slipway_service::CHUNK_SIZE, CopyWriter(chunks));
                crate::worker::read_path(&root, &request.path, request.follow_links, writer)
            });
            if let Err(error) = read.await {
                // The client is gone: nobody is to be told.
                let _ = send.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn resolve(
        &self,
        request: Request<pb::ResolvePathRequest>,
    ) -> Result<Response<pb::ResolvePathResponse>, Status> {
        let request = request.into_inner();
        let snapshot = self.worker.find(&request.snapshot_id)?;
        let answer = blocking(move || {
            let root = snapshot.open()?;
            if slipway_pattern::has_wildcards(&request.path) {
                let matches = crate::worker::expand(&root, &request.path)?;
                return Ok(pb::ResolvePathResponse {
                    exists: !matches.is_empty(),
                    matches,
                    ..Default::default()
                });
            }
            let found = crate::worker::find_path(&root, &request.path, request.follow)?;
            Ok(found.map(found_message).unwrap_or_default())
        });
        Ok(Response::new(answer.await?))
    }

    async fn commit_snapshot(
        &self,
        request: Request<pb::CommitSnapshotRequest>,
    ) -> Result<Response<pb::CommitSnapshotResponse>, Status> {
        let request = request.into_inner();
        if !matches!(&*request.compression, "" | "gzip") {
            return Err(Error::Unsupported(format!("compression {}", request.compression)).into());
        }
        let level = match request.level {
            0 => 6,
            level => u32::try_from(level).unwrap_or(6).min(9),
        };
        let committed = self
            .worker
            .commit(
                &request.snapshot_id,
                &request.repository,
                level,
                request.source_date_epoch,
            )
            .await?;
        let Some(packed) = committed.packed else {
            return Ok(Response::new(pb::CommitSnapshotResponse::default()));
        };
        let descriptor = Descriptor {
            media_type: slipway_image::media_type::OCI_LAYER_GZIP.to_owned(),
            digest: packed.digest.to_string(),
            size: packed.compressed_size,
            ..Descriptor::default()
        };
        let layer = pb::Layer {
            descriptor: Some(descriptor),
            diff_id: packed.diff_id.to_string(),
            repository: request.repository,
        };
        Ok(Response::new(pb::CommitSnapshotResponse {
            layer: Some(layer),
            uncompressed_size: packed.size,
        }))
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        self.worker.release(&request.into_inner().snapshot_id).await;
        Ok(Response::new(pb::ReleaseResponse {}))
    }
}

fn found_message(found: Found) -> pb::ResolvePathResponse {
    let name = found.path.rsplit('/').next().unwrap_or_default().to_owned();
    let modified = prost_types::Timestamp {
        seconds: found.stat.st_mtime,
        nanos: found.stat.st_mtime_nsec as i32,
    };
    pb::ResolvePathResponse {
        exists: true,
        path: found.path,
        stat: Some(pb::PathStat {
            name,
            size: u64::try_from(found.stat.st_size).unwrap_or_default(),
            mode: found.stat.st_mode,
            modified: Some(modified),
            link_target: found.link_target,
        }),
        matches: Vec::new(),
    }
}
