//! Leases of builders, as calls.

use std::time::Duration;

use slipway_proto::{runtime::v1 as pb, types::v1::Platform};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Events;
use crate::{error::Error, usage, worker::Worker};

pub async fn lease(
    worker: &Worker,
    request: Request<pb::LeaseRequest>,
) -> Result<Response<pb::LeaseResponse>, Status> {
    let request = request.into_inner();
    let ttl = match request.ttl {
        None => None,
        Some(ttl) => Some(
            Duration::try_from(ttl)
                .map_err(|_| Error::Invalid("the time of a lease is negative".to_owned()))?,
        ),
    };
    let leases = &worker.leases;
    let (lease_id, expires) = match &*request.lease_id {
        "" => leases.begin(&request.holder, ttl)?,
        id => (id.to_owned(), leases.renew(id, ttl)?),
    };
    let mut response = pb::LeaseResponse {
        lease_id,
        expires: Some(expires.into()),
        ..pb::LeaseResponse::default()
    };
    if request.lease_id.is_empty() {
        let told = |p: slipway_image::Platform| Platform {
            os: p.os,
            architecture: p.architecture,
            variant: p.variant,
            os_version: p.os_version,
        };
        let all = crate::worker::platforms().into_iter();
        response.platforms = all.map(told).collect();
        let processors = std::thread::available_parallelism();
        response.processors = processors.map_or(0, |n| u32::try_from(n.get()).unwrap_or(0));
    }
    Ok(Response::new(response))
}

pub async fn hold_lease(
    worker: &Worker,
    shutdown: &CancellationToken,
    request: Request<pb::HoldLeaseRequest>,
) -> Result<Response<Events<pb::HoldLeaseEvent>>, Status> {
    let attached = worker.leases.attach(&request.into_inner().lease_id)?;
    let first = tokio_stream::iter([Ok(pb::HoldLeaseEvent {})]);
    let (shutdown, ended) = (shutdown.clone(), attached.ended.clone());
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let _attached = attached;
        tokio::select! {
            () = send.closed() => {}
            () = shutdown.cancelled() => {}
            () = ended.cancelled() => {}
        }
    });
    Ok(Response::new(Box::pin(
        first.chain(ReceiverStream::new(receive)),
    )))
}

pub async fn list_leases(
    worker: &Worker,
    _: Request<pb::ListLeasesRequest>,
) -> Result<Response<pb::ListLeasesResponse>, Status> {
    let leases = usage::leases(worker);
    let leases = leases.into_iter().map(crate::grpc::host::lease).collect();
    Ok(Response::new(pb::ListLeasesResponse { leases }))
}
