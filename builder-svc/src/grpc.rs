//! The gRPC edge.

use std::{pin::Pin, time::SystemTime};

use slipway_proto::{
    builder::v1::{
        BuildEvent, BuildRequest, DiskUsageRequest, DiskUsageResponse, InfoRequest,
        ListBuildsRequest, ListBuildsResponse, PruneRequest, PruneResponse,
        builder_server::Builder,
    },
    types::v1::ServiceInfo,
};
use slipway_service::error::status;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Answers what can be answered without building.
pub struct BuilderService {
    started: SystemTime,
}

impl BuilderService {
    /// Since when it runs.
    pub const fn new(started: SystemTime) -> Self {
        Self { started }
    }
}

fn refused<T>() -> Result<T, Status> {
    let sentence =
        "building is not supported yet: build with another tool and push the image to registry-svc";
    Err(status(Code::Unimplemented, "OPTION_UNSUPPORTED", sentence))
}

#[tonic::async_trait]
impl Builder for BuilderService {
    type BuildStream = Pin<Box<dyn Stream<Item = Result<BuildEvent, Status>> + Send>>;
    async fn build(
        &self,
        _: Request<Streaming<BuildRequest>>,
    ) -> Result<Response<Self::BuildStream>, Status> {
        refused()
    }

    async fn list_builds(
        &self,
        _: Request<ListBuildsRequest>,
    ) -> Result<Response<ListBuildsResponse>, Status> {
        Ok(Response::new(ListBuildsResponse::default()))
    }

    async fn prune(&self, _: Request<PruneRequest>) -> Result<Response<PruneResponse>, Status> {
        Ok(Response::new(PruneResponse::default()))
    }

    async fn disk_usage(
        &self,
        _: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        Ok(Response::new(DiskUsageResponse::default()))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<ServiceInfo>, Status> {
        Ok(Response::new(ServiceInfo {
            name: "builder-svc".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: Some(self.started.into()),
            warnings: vec!["building is not supported yet".into()],
            ..ServiceInfo::default()
        }))
    }
}
