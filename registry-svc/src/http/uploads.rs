//! `/v2/<name>/blobs/uploads/`: monolithic, streamed and chunked uploads, mounts, resume.

use std::sync::Arc;

use futures_util::FutureExt as _;
use http::{HeaderMap, Response, StatusCode, header};
use slipway_image::Digest;
use tokio::sync::mpsc;

use super::{
    Query, Upload, bare,
    body::{Batch, Body},
    errors,
    ranges::content_range,
    route::Written,
    set,
};
use crate::{
    access::{Permit, policy::Action},
    blobs::Staged,
    error::{Error, Result},
    names::{Repository, parse_digest},
    registry::Registry,
    unfinished::Room,
    uploads::Session,
};

/// POST: a session, a whole blob (`digest=`), or a mount (`mount=`, `from=`).
pub async fn start(
    registry: &Arc<Registry>,
    permit: &Permit,
    repository: &Repository,
    name: &Written,
    query: &Query,
    mut body: Upload,
) -> Result<Response<Body>> {
    if let Some(digest) = mount(registry, permit, repository, query).await? {
        return Ok(created(name, &digest));
    }
    let digest = query.get("digest").map(parse_digest).transpose()?;
    let Some(digest) = digest else {
        let session = registry.uploads.start(repository, permit.caller()).await?;
        let (id, written) = (&session.id, session.written());
        return Ok(accepted(name, id, written, StatusCode::ACCEPTED));
    };
    // Nobody can come back for it.
    let whole = registry.uploads.unfinished.begin_whole(permit.caller())?;
    let staged = Staged::create(&registry.staging, digest.algorithm()).await?;
    receive(&staged, whole.room(), None, &mut body).await?;
    let verified = staged.finish(Some(&digest), None).await?;
    registry.admit(repository, verified).await?;
    Ok(created(name, &digest))
}

/// The blob that was mounted. What cannot be, whatever the reason, becomes an ordinary upload (distribution-spec,
/// "Mounting a blob from another repository").
async fn mount(
    registry: &Arc<Registry>,
    permit: &Permit,
    repository: &Repository,
    query: &Query,
) -> Result<Option<Digest>> {
    let Some(Ok(digest)) = query.get("mount").map(parse_digest) else {
        return Ok(None);
    };
    let readable = match query.get("from") {
        Some(from) => match registry.own.from_http(from, query.get("ns")) {
            Ok(from) => registry.index.is_linked(&from, &digest)?,
            Err(_) => false,
        },
        None => is_seen(registry, permit, &digest)?,
    };
    let _lease = registry.leases.hold(&digest).await;
    if !readable || registry.blobs.stat(&digest).await?.is_none() {
        return Ok(None);
    }
    match registry.share(repository, &digest).await {
        Err(Error::BlobNotFound(_)) => Ok(None),
        shared => shared.map(|()| Some(digest)),
    }
}

/// Some repository that the caller, with the token that he shows, may pull from over HTTP has this blob.
fn is_seen(registry: &Registry, permit: &Permit, digest: &Digest) -> Result<bool> {
    for repository in registry.index.linked_in(digest) {
        let repository = repository?;
        if !repository.is_internal() && permit.check(&repository, Action::Pull).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// GET: how far a session is.
pub async fn status(
    registry: &Arc<Registry>,
    permit: &Permit,
    repository: &Repository,
    name: &Written,
    id: &str,
) -> Result<Response<Body>> {
    let written = registry
        .uploads
        .written(repository, permit.caller(), id)
        .await?;
    Ok(accepted(name, id, written, StatusCode::NO_CONTENT))
}

/// PATCH: one chunk, or a stream of any length.
pub async fn append(
    registry: &Arc<Registry>,
    permit: &Permit,
    repository: &Repository,
    name: &Written,
    id: &str,
    headers: &HeaderMap,
    mut body: Upload,
) -> Result<Response<Body>> {
    let session = registry
        .uploads
        .take(repository, permit.caller(), id)
        .await?;
    match chunk(&session, headers, &mut body).await {
        Err(error @ Error::UploadRange { .. }) => Ok(refused(name, &session, &error)),
        other => other.map(|()| accepted(name, id, session.written(), StatusCode::ACCEPTED)),
    }
}

/// PUT: the end, perhaps with the last chunk.
pub async fn finish(
    registry: &Arc<Registry>,
    permit: &Permit,
    repository: &Repository,
    name: &Written,
    id: &str,
    query: &Query,
    headers: &HeaderMap,
    mut body: Upload,
) -> Result<Response<Body>> {
    let digest = query
        .get("digest")
        .ok_or_else(|| Error::InvalidDigest(String::new()))?;
    let digest = parse_digest(digest)?;
    let session = registry
        .uploads
        .take(repository, permit.caller(), id)
        .await?;
    // The end without a last chunk: clients leave the header of the one before there.
    if length_of(headers) != Some(0) {
        match chunk(&session, headers, &mut body).await {
            Err(error @ Error::UploadRange { .. }) => return Ok(refused(name, &session, &error)),
            other => other?,
        }
    }
    session.finish(registry, repository, &digest).await?;
    Ok(created(name, &digest))
}

/// DELETE: the session is given up.
pub async fn cancel(
    registry: &Arc<Registry>,
    permit: &Permit,
    repository: &Repository,
    id: &str,
) -> Result<Response<Body>> {
    registry
        .uploads
        .cancel(repository, permit.caller(), id)
        .await?;
    Ok(bare(StatusCode::NO_CONTENT))
}

/// `Content-Length`, bytes.
fn length_of(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Takes a chunk, if it is the next one and as long as it says.
async fn chunk(session: &Session, headers: &HeaderMap, body: &mut Upload) -> Result<()> {
    let announced = match headers.get(header::CONTENT_RANGE) {
        None => None,
        Some(range) => {
            let text = range.to_str().unwrap_or_default();
            let wrong = || session.wrong_range(format!("Content-Range {text:?} is no range"));
            let (first, last) = content_range(text).ok_or_else(wrong)?;
            session.expect_offset(first)?;
            Some(last - first + 1)
        }
    };
    match (announced, length_of(headers)) {
        (Some(announced), Some(length)) if announced != length => Err(Error::SizeMismatch {
            expected: announced,
            actual: length,
        }),
        _ => receive(session.staged(), &session.room, announced, body).await,
    }
}

/// Takes a body, of so many bytes where that is known. One batch is written, another one is ready, the next one comes:
/// the network and the disk wait for each other only when one of them is slower for long.
async fn receive(
    staged: &Staged,
    room: &Room,
    announced: Option<u64>,
    body: &mut Upload,
) -> Result<()> {
    let (sender, mut batches) = mpsc::channel::<Batch>(1);
    let receiving = async move {
        let mut actual = 0;
        loop {
            let batch = body.batch().await?;
            let more = batch.pieces.iter().map(|b| b.len() as u64).sum::<u64>();
            actual += more;
            let ended = batch.pieces.is_empty();
            if let Some(expected) = announced
                && (actual > expected || ended && actual < expected)
            {
                return Err(Error::SizeMismatch { expected, actual });
            }
            if ended {
                return Ok(());
            }
            room.grow(more)?;
            sender.send(batch).await.map_err(|_| Error::Stopping)?;
        }
    };
    let writing = async move {
        while let Some(Batch { pieces, in_hand }) = batches.recv().await {
            staged.write(pieces).await?;
            drop(in_hand);
            slipway_fault::point("registry.upload.written");
        }
        Ok::<_, Error>(())
    };
    // What came is written, however it ended: the client goes on from there. What cannot be written ends it at once.
    let (received, ()) = tokio::try_join!(receiving.map(Ok), writing)?;
    received
}

/// 416: where the next chunk must begin, and where it is to be sent.
fn refused(name: &Written, session: &Session, error: &Error) -> Response<Body> {
    let mut response = errors::response(error);
    place(&mut response, name, &session.id);
    response
}

fn accepted(name: &Written, id: &str, written: u64, status: StatusCode) -> Response<Body> {
    let mut response = bare(status);
    place(&mut response, name, id);
    let last = written.saturating_sub(1);
    set(&mut response, "range", format!("0-{last}"));
    response
}

fn place(response: &mut Response<Body>, name: &Written, id: &str) {
    set(
        response,
        "location",
        name.place(&format!("blobs/uploads/{id}")),
    );
    set(response, "docker-upload-uuid", id);
}

fn created(name: &Written, digest: &Digest) -> Response<Body> {
    let mut response = bare(StatusCode::CREATED);
    let location = name.place(&format!("blobs/{digest}"));
    set(&mut response, "location", location);
    set(&mut response, "docker-content-digest", digest.to_string());
    response
}
