//! Blobs and manifests.

use std::sync::Arc;

use futures_util::StreamExt as _;
use slipway_image::{Algorithm, Descriptor, Digest};
use slipway_proto::registry::v1::{stat_blobs_response::Present, write_blob_request::Part, *};
use tonic::{Response, Status, Streaming};

use super::{Answer, Boxed, convert};
use crate::{
    blobs::{Range, Staged, assembly::Assembly},
    error::Error,
    manifests::{Put, Require},
    mirror::Freshness,
    names::{ImageName, Pointer, Repository, Tag, parse_digest},
    registry::Registry,
    store::Origin,
};

/// Most digests of one StatBlobs: an image has 127 layers at most, a build cache asks for more.
const STATS: usize = 10_000;

/// Bytes gathered before they are written.
const BATCH: usize = 512 * 1024;

pub async fn read_blob(
    registry: &Arc<Registry>,
    request: ReadBlobRequest,
) -> Answer<Boxed<BlobChunk>> {
    let repository = registry.own.from_name(&request.repository)?;
    let digest = parse_digest(&request.digest)?;
    let range = Range {
        offset: request.offset,
        length: (request.length > 0).then_some(request.length),
    };
    let reader = registry.open_blob_for(&repository, &digest, range).await?;
    let mut total = reader.total;
    if reader.length == 0 {
        // The size is told even when there is nothing to send.
        let chunk = BlobChunk {
            data: bytes::Bytes::new(),
            total,
        };
        return Ok(Response::new(
            futures_util::stream::iter([Ok(chunk)]).boxed(),
        ));
    }
    let stream = reader.stream.map(move |piece| {
        let data = piece?;
        Ok(BlobChunk {
            data,
            total: std::mem::take(&mut total),
        })
    });
    Ok(Response::new(stream.boxed()))
}

pub async fn write_blob(
    registry: &Arc<Registry>,
    mut parts: Streaming<WriteBlobRequest>,
) -> Answer<WriteBlobResponse> {
    let first = parts.message().await?.and_then(|m| m.part);
    let Some(Part::Header(header)) = first else {
        return Err(Error::InvalidArgument("the first message must be the header".into()).into());
    };
    let repository = registry.own.from_name(&header.repository)?;
    let expected = match header.digest.as_str() {
        "" => None,
        text => Some(parse_digest(text)?),
    };
    let size = (header.size > 0).then_some(header.size);
    let _lease = match &expected {
        Some(digest) => Some(registry.leases.hold(digest).await),
        None => None,
    };
    if let Some(digest) = &expected
        && let Some(here) = registry.blobs.stat(digest).await?
        && size.is_none_or(|size| size == here)
    {
        // The caller may go on sending; nobody needs it.
        registry.share(&repository, digest).await?;
        return Ok(Response::new(WriteBlobResponse {
            digest: digest.to_string(),
            size: here,
            existed: true,
            parts: Vec::new(),
        }));
    }
    if header.in_parts {
        return write_parts(registry, parts, &repository, expected.as_ref(), size).await;
    }
    let algorithm = expected
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let staged = Staged::create(&registry.staging, algorithm).await?;
    let (mut batch, mut pending) = (Vec::new(), 0);
    while let Some(message) = parts.message().await? {
        let Some(Part::Data(data)) = message.part else {
            return Err(Error::InvalidArgument("there is one header only".into()).into());
        };
        pending += data.len();
        batch.push(data);
        if pending >= BATCH {
            let written = staged.write(std::mem::take(&mut batch)).await?;
            pending = 0;
            if let Some(expected) = size.filter(|size| written > *size) {
                return Err(Error::SizeMismatch {
                    expected,
                    actual: written,
                }
                .into());
            }
        }
    }
    staged.write(batch).await?;
    let verified = staged.finish(expected.as_ref(), size).await?;
    let (digest, size) = (verified.digest().clone(), verified.size());
    let stored = registry.admit(&repository, verified).await?;
    Ok(Response::new(WriteBlobResponse {
        digest: digest.to_string(),
        size,
        existed: !stored,
        parts: Vec::new(),
    }))
}

/// The same for a blob that comes with parts.
async fn write_parts(
    registry: &Arc<Registry>,
    mut parts: Streaming<WriteBlobRequest>,
    repository: &Repository,
    expected: Option<&Digest>,
    size: Option<u64>,
) -> Answer<WriteBlobResponse> {
    let mut blob = Assembly::begin(Arc::clone(&registry.blobs), &registry.staging).await?;
    let mut new = Vec::new();
    let (mut batch, mut pending) = (Vec::new(), 0);
    while let Some(message) = parts.message().await? {
        if let Some(expected) = size.filter(|size| blob.size() > *size) {
            let actual = blob.size();
            return Err(Error::SizeMismatch { expected, actual }.into());
        }
        if let Some(Part::Data(data)) = message.part {
            pending += data.len();
            batch.push(data);
            if pending >= BATCH {
                blob.write(std::mem::take(&mut batch)).await?;
                pending = 0;
            }
            continue;
        }
        blob.write(std::mem::take(&mut batch)).await?;
        pending = 0;
        match message.part {
            Some(Part::BeginPart(_)) => blob.begin_part().await?,
            Some(Part::EndPart(_)) => {
                let (digest, size) = blob.end_part().await?;
                new.push(write_blob_request::PartName {
                    digest: digest.to_string(),
                    size,
                });
            }
            Some(Part::KnownPart(part)) => {
                let digest = parse_digest(&part.digest)?;
                if !blob.known(&digest, part.size).await? {
                    return Err(Error::PartUnknown(digest).into());
                }
            }
            _ => return Err(Error::InvalidArgument("there is one header only".into()).into()),
        }
    }
    blob.write(batch).await?;
    let assembled = blob.finish(expected, size).await?;
    let (digest, size) = (assembled.digest.clone(), assembled.recipe.size);
    let stored = registry.admit_parts(repository, assembled).await?;
    Ok(Response::new(WriteBlobResponse {
        digest: digest.to_string(),
        size,
        existed: !stored,
        parts: new,
    }))
}

pub async fn stat_blobs(
    registry: &Arc<Registry>,
    request: StatBlobsRequest,
) -> Answer<StatBlobsResponse> {
    if request.digests.len() > STATS {
        return Err(Error::InvalidArgument(format!("at most {STATS} digests at once")).into());
    }
    let repository = match &*request.repository {
        "" => None,
        name => Some(registry.own.from_name(name)?),
    };
    let mut present = Vec::new();
    for text in request.digests {
        let digest = parse_digest(&text)?;
        // Leased before looking: what is told to be here stays until the caller used it.
        let lease = registry.leases.hold(&digest).await;
        if let Some(size) = registry.blobs.stat(&digest).await? {
            registry.promise(&digest, repository.as_ref()).await?;
            // Another process may have removed it before that was promised.
            let removed =
                registry.ledger.is_shared() && registry.blobs.stat(&digest).await?.is_none();
            if !removed {
                present.push(Present { digest: text, size });
            }
        }
        drop(lease);
    }
    Ok(Response::new(StatBlobsResponse { present }))
}

pub async fn get_manifest(
    registry: &Arc<Registry>,
    request: GetManifestRequest,
) -> Answer<GetManifestResponse> {
    let name = ImageName {
        repository: registry.own.from_name(&request.repository)?,
        pointer: Pointer::parse(&request.reference)?,
    };
    let stored = registry
        .find_manifest(&name, Freshness::Any, None)
        .await?
        .stored;
    registry.uses.note(&name.repository, &stored.digest);
    let descriptor = Descriptor::new(
        stored.record.media_type.clone(),
        stored.digest.clone(),
        stored.record.size,
    );
    Ok(Response::new(GetManifestResponse {
        descriptor: Some(convert::descriptor(&descriptor)),
        content: stored.content,
    }))
}

pub async fn put_manifest(
    registry: &Arc<Registry>,
    request: PutManifestRequest,
) -> Answer<PutManifestResponse> {
    let repository = registry.own.from_name(&request.repository)?;
    let tags = request
        .tags
        .iter()
        .map(|tag| Tag::parse(tag))
        .collect::<Result<Vec<_>, _>>()?;
    let fetched: Result<(), Status> = registry
        .fetch_missing(&request.media_type, &request.content)
        .await
        .map_err(Status::from);
    fetched?;
    let digest = registry
        .put_manifest(Put {
            repository: repository.clone(),
            tags: tags.clone(),
            media_type: request.media_type,
            content: request.content,
            expected: None,
            origin: Origin::Local,
            by_digest: false,
            require: Require::Site,
        })
        .await?;
    if !repository.is_internal() {
        for tag in tags {
            let name = format!("{}:{tag}", repository.familiar());
            registry.events.tell("tag", digest.to_string(), name);
        }
    }
    Ok(Response::new(PutManifestResponse {
        digest: digest.to_string(),
    }))
}
