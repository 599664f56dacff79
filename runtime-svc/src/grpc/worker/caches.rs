//! Cache mounts, as calls.

use slipway_proto::{runtime::v1 as pb, types::v1::Descriptor};
use tonic::{Request, Response, Status};

use super::layer;
use crate::{
    grpc::step,
    worker::{Owner, Sharing, Wanted, Worker},
};

pub async fn list_caches(
    worker: &Worker,
    _: Request<pb::ListCachesRequest>,
) -> Result<Response<pb::ListCachesResponse>, Status> {
    let caches = worker.caches.list();
    let caches = caches.into_iter().map(step::cache).collect();
    Ok(Response::new(pb::ListCachesResponse { caches }))
}

pub async fn remove_caches(
    worker: &Worker,
    request: Request<pb::RemoveCachesRequest>,
) -> Result<Response<pb::RemoveCachesResponse>, Status> {
    let names = request.into_inner().names;
    let gone = worker.caches.remove(&names);
    let gone = gone.into_iter().map(|(name, size)| pb::CacheMount {
        name,
        size,
        ..Default::default()
    });
    Ok(Response::new(pb::RemoveCachesResponse {
        removed: gone.collect(),
    }))
}

pub async fn export_cache(
    worker: &Worker,
    request: Request<pb::ExportCacheRequest>,
) -> Result<Response<pb::ExportCacheResponse>, Status> {
    let request = request.into_inner();
    let exporting = worker.export_cache(&request.name, &request.repository);
    let packed = exporting.await?;
    Ok(Response::new(pb::ExportCacheResponse {
        layer: Some(pb::Layer {
            descriptor: Some(Descriptor {
                media_type: slipway_image::media_type::OCI_LAYER_GZIP.to_owned(),
                digest: packed.digest.to_string(),
                size: packed.compressed_size,
                ..Descriptor::default()
            }),
            diff_id: packed.diff_id.to_string(),
            repository: request.repository,
        }),
    }))
}

pub async fn import_cache(
    worker: &Worker,
    request: Request<pb::ImportCacheRequest>,
) -> Result<Response<pb::ImportCacheResponse>, Status> {
    let request = request.into_inner();
    let wanted = Wanted {
        id: request.id,
        base: request.base,
        sharing: Sharing::Shared,
    };
    let owner = Owner {
        uid: request.uid,
        gid: request.gid,
        mode: match request.mode {
            0 => 0o755,
            mode => mode & 0o7777,
        },
    };
    let layer = layer(request.layer.unwrap_or_default())?;
    let importing = worker.import_cache(&wanted, &layer, owner, request.replace);
    let bytes = importing.await?;
    Ok(Response::new(pb::ImportCacheResponse {
        imported: bytes.is_some(),
        bytes: bytes.unwrap_or(0),
    }))
}
