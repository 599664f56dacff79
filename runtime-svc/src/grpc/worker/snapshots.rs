//! Snapshots of builders, as calls: from layers, and to layers.

use slipway_image::Digest;
use slipway_proto::{
    runtime::v1 as pb,
    types::v1::{Descriptor, Progress, progress::Phase},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Events, QUEUE, layer};
use crate::{
    error::Error,
    grpc::streams::{self, blocking},
    layers::Piece,
    worker::Worker,
};

/// Changes in one message.
const CHANGES: usize = 1000;

pub async fn prepare(
    worker: &Worker,
    request: Request<pb::PrepareRequest>,
) -> Result<Response<Events<pb::PrepareEvent>>, Status> {
    let request = request.into_inner();
    let layers = request
        .layers
        .into_iter()
        .map(layer)
        .collect::<Result<Vec<_>, _>>()?;
    let worker = worker.clone();
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
        let parent = &request.parent_snapshot_id;
        let prepared = match (&**parent, &*layers) {
            ("", _) => worker.prepare(&request.lease_id, &layers).await,
            (parent, []) => worker.prepare_upon(&request.lease_id, parent).await,
            _ => Err(Error::Invalid(
                "a snapshot is based upon layers or upon another snapshot, not upon both"
                    .to_owned(),
            )),
        };
        let event = prepared.map(|id| pb::PrepareEvent {
            event: Some(pb::prepare_event::Event::SnapshotId(id)),
        });
        // The client is gone: its lease takes the snapshot back.
        let _ = send.send(event.map_err(Status::from)).await;
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

pub async fn diff(
    worker: &Worker,
    request: Request<pb::DiffSnapshotRequest>,
) -> Result<Response<Events<pb::DiffSnapshotEvent>>, Status> {
    let snapshot = worker.find(&request.into_inner().snapshot_id)?;
    let turn = snapshot.turn().await?;
    let changes = blocking(move || {
        let _turn = turn;
        let changes = snapshot.changes();
        slipway_fault::point("runtime.diff.read");
        changes
    });
    let mut changes = changes.await?.into_iter().map(|(path, change)| {
        let kind = crate::grpc::copy::letter(change).to_owned();
        pb::diff_snapshot_event::Change { kind, path }
    });
    let events = std::iter::from_fn(move || {
        let changes: Vec<_> = changes.by_ref().take(CHANGES).collect();
        (!changes.is_empty()).then_some(Ok(pb::DiffSnapshotEvent { changes }))
    });
    Ok(Response::new(Box::pin(tokio_stream::iter(events))))
}

pub async fn commit_snapshot(
    worker: &Worker,
    request: Request<pb::CommitSnapshotRequest>,
) -> Result<Response<pb::CommitSnapshotResponse>, Status> {
    let request = request.into_inner();
    if !matches!(&*request.compression, "" | "gzip") {
        return Err(Error::Unsupported(format!("compression {}", request.compression)).into());
    }
    let level = match request.level {
        0 => slipway_image::layer::gzip::LEVEL,
        level @ 1..=9 => level.unsigned_abs(),
        level => {
            let sentence = format!("{level} is no level of gzip: they go from 1 to 9");
            return Err(Error::Invalid(sentence).into());
        }
    };
    let committed = worker
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

pub async fn import_layer(
    worker: &Worker,
    request: Request<Streaming<pb::ImportLayerRequest>>,
) -> Result<Response<pb::ImportLayerResponse>, Status> {
    use pb::import_layer_request::Part;
    let mut requests = request.into_inner();
    let first = requests.message().await?.and_then(|r| r.part);
    let Some(Part::LeaseId(lease)) = first else {
        let sentence = "the first message of an import must name a lease";
        return Err(Error::Invalid(sentence.to_owned()).into());
    };
    let import = worker.import(&lease)?;
    let feed = async {
        while let Some(request) = requests.message().await? {
            let piece = match request.part {
                Some(Part::Data(data)) => Piece::Data(data),
                Some(Part::KnownFile(file)) => Piece::Known {
                    layer: digest(&file.diff_id)?,
                    path: file.path,
                    size: file.size,
                },
                Some(Part::DiffId(text)) => return Ok(Some(digest(&text)?)),
                Some(Part::LeaseId(_)) | None => continue,
            };
            if !import.push(piece).await? {
                return Ok(None);
            }
        }
        let sentence = "an import ends with the digest of what was sent";
        Err(Status::from(Error::Invalid(sentence.to_owned())))
    };
    let diff_id = import.while_there(feed).await?;
    import.finish(diff_id.as_ref()).await?;
    Ok(Response::new(pb::ImportLayerResponse {}))
}

fn digest(text: &str) -> Result<Digest, Error> {
    let parsed = text.parse();
    parsed.map_err(|e| Error::Invalid(format!("{text:?} is no digest: {e}")))
}
