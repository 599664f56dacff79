//! The `Worker` service: its calls, by what they are about.

mod caches;
mod files;
mod leases;
mod snapshots;
mod steps;

use std::pin::Pin;

use slipway_proto::runtime::v1::{self as pb, worker_server::Worker as Service};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::step::Questions;
use crate::{error::Error, registry::Layer, worker::Worker};

/// Messages that wait for a client.
const QUEUE: usize = 16;

/// Translates calls to the worker.
pub struct WorkerService {
    worker: Worker,
    /// Ends calls that would stay open.
    shutdown: CancellationToken,
    questions: Questions,
}

impl WorkerService {
    /// Over this host's worker.
    pub fn new(worker: Worker, shutdown: CancellationToken) -> Self {
        Self {
            worker,
            shutdown,
            questions: Questions::default(),
        }
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
        leases::lease(&self.worker, request).await
    }

    type HoldLeaseStream = Events<pb::HoldLeaseEvent>;
    async fn hold_lease(
        &self,
        request: Request<pb::HoldLeaseRequest>,
    ) -> Result<Response<Self::HoldLeaseStream>, Status> {
        leases::hold_lease(&self.worker, &self.shutdown, request).await
    }

    async fn end_lease(
        &self,
        request: Request<pb::EndLeaseRequest>,
    ) -> Result<Response<pb::EndLeaseResponse>, Status> {
        self.worker.leases.end(&request.into_inner().lease_id);
        Ok(Response::new(pb::EndLeaseResponse {}))
    }

    async fn list_leases(
        &self,
        request: Request<pb::ListLeasesRequest>,
    ) -> Result<Response<pb::ListLeasesResponse>, Status> {
        leases::list_leases(&self.worker, request).await
    }

    type PrepareStream = Events<pb::PrepareEvent>;
    async fn prepare(
        &self,
        request: Request<pb::PrepareRequest>,
    ) -> Result<Response<Self::PrepareStream>, Status> {
        snapshots::prepare(&self.worker, request).await
    }

    type RunStepStream = Events<pb::RunStepEvent>;
    async fn run_step(
        &self,
        request: Request<pb::RunStepRequest>,
    ) -> Result<Response<Self::RunStepStream>, Status> {
        steps::run_step(&self.worker, &self.questions, request).await
    }

    async fn apply(
        &self,
        request: Request<Streaming<pb::ApplyRequest>>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        files::apply(&self.worker, request).await
    }

    type ReadPathStream = Events<pb::CopyChunk>;
    async fn read_path(
        &self,
        request: Request<pb::ReadPathRequest>,
    ) -> Result<Response<Self::ReadPathStream>, Status> {
        files::read_path(&self.worker, request).await
    }

    async fn resolve(
        &self,
        request: Request<pb::ResolvePathRequest>,
    ) -> Result<Response<pb::ResolvePathResponse>, Status> {
        files::resolve(&self.worker, request).await
    }

    async fn survey(
        &self,
        request: Request<pb::SurveyRequest>,
    ) -> Result<Response<pb::SurveyResponse>, Status> {
        files::survey(&self.worker, request).await
    }

    async fn import_layer(
        &self,
        request: Request<Streaming<pb::ImportLayerRequest>>,
    ) -> Result<Response<pb::ImportLayerResponse>, Status> {
        snapshots::import_layer(&self.worker, request).await
    }

    type DiffStream = Events<pb::DiffSnapshotEvent>;
    async fn diff(
        &self,
        request: Request<pb::DiffSnapshotRequest>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        snapshots::diff(&self.worker, request).await
    }

    async fn commit_snapshot(
        &self,
        request: Request<pb::CommitSnapshotRequest>,
    ) -> Result<Response<pb::CommitSnapshotResponse>, Status> {
        snapshots::commit_snapshot(&self.worker, request).await
    }

    async fn answer_agent(
        &self,
        request: Request<pb::AnswerAgentRequest>,
    ) -> Result<Response<pb::AnswerAgentResponse>, Status> {
        self.questions.answer(request.into_inner());
        Ok(Response::new(pb::AnswerAgentResponse {}))
    }

    async fn list_caches(
        &self,
        request: Request<pb::ListCachesRequest>,
    ) -> Result<Response<pb::ListCachesResponse>, Status> {
        caches::list_caches(&self.worker, request).await
    }

    async fn remove_caches(
        &self,
        request: Request<pb::RemoveCachesRequest>,
    ) -> Result<Response<pb::RemoveCachesResponse>, Status> {
        caches::remove_caches(&self.worker, request).await
    }

    async fn export_cache(
        &self,
        request: Request<pb::ExportCacheRequest>,
    ) -> Result<Response<pb::ExportCacheResponse>, Status> {
        caches::export_cache(&self.worker, request).await
    }

    async fn import_cache(
        &self,
        request: Request<pb::ImportCacheRequest>,
    ) -> Result<Response<pb::ImportCacheResponse>, Status> {
        caches::import_cache(&self.worker, request).await
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        self.worker.release(&request.into_inner().snapshot_id);
        Ok(Response::new(pb::ReleaseResponse {}))
    }
}
