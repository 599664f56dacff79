//! `/v2/<name>/blobs/uploads/`: monolithic, streamed and chunked uploads, mounts, resume.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, header};
use slipway_image::Digest;

use super::{Query, Upload, bare, body::Body, set};
use crate::{
    error::{Error, Result},
    names::{Repository, parse_digest},
    registry::Registry,
    uploads::Session,
};

/// POST: a session, a whole blob (`digest=`), or a mount (`mount=`, `from=`).
pub async fn start(
    registry: &Arc<Registry>,
    repository: &Repository,
    name: &str,
    query: &Query,
    mut body: Upload,
) -> Result<Response<Body>> {
    if let (Some(mount), Some(from)) = (query.get("mount"), query.get("from")) {
        let digest = parse_digest(mount)?;
        let from = registry.own.from_http(from, query.get("ns"))?;
        if registry.index.is_linked(&from, &digest)? {
            let _lease = registry.leases.hold(&digest);
            if registry.blobs.stat(&digest).await?.is_some() {
                registry.received(repository, &digest)?;
                return Ok(created(name, &digest));
            }
        }
        // The specification: what cannot be mounted becomes an ordinary upload.
    }
    let session = registry.uploads.start(repository).await?;
    let Some(digest) = query.get("digest") else {
        return Ok(accepted(name, &session, StatusCode::ACCEPTED));
    };
    let digest = parse_digest(digest)?;
    receive(&session, &mut body).await?;
    session.finish(registry, repository, &digest).await?;
    Ok(created(name, &digest))
}

/// GET: how far a session is.
pub async fn status(
    registry: &Arc<Registry>,
    repository: &Repository,
    name: &str,
    id: &str,
) -> Result<Response<Body>> {
    let session = registry.uploads.take(repository, id).await?;
    Ok(accepted(name, &session, StatusCode::NO_CONTENT))
}

/// PATCH: one chunk, or a stream of any length.
pub async fn append(
    registry: &Arc<Registry>,
    repository: &Repository,
    name: &str,
    id: &str,
    headers: &HeaderMap,
    mut body: Upload,
) -> Result<Response<Body>> {
    let session = registry.uploads.take(repository, id).await?;
    check_range(&session, headers)?;
    receive(&session, &mut body).await?;
    Ok(accepted(name, &session, StatusCode::ACCEPTED))
}

/// PUT: the end, perhaps with the last chunk.
pub async fn finish(
    registry: &Arc<Registry>,
    repository: &Repository,
    name: &str,
    id: &str,
    query: &Query,
    headers: &HeaderMap,
    mut body: Upload,
) -> Result<Response<Body>> {
    let digest = query
        .get("digest")
        .ok_or_else(|| Error::InvalidDigest(String::new()))?;
    let digest = parse_digest(digest)?;
    let session = registry.uploads.take(repository, id).await?;
    check_range(&session, headers)?;
    receive(&session, &mut body).await?;
    session.finish(registry, repository, &digest).await?;
    Ok(created(name, &digest))
}

/// DELETE: the session is given up.
pub async fn cancel(
    registry: &Arc<Registry>,
    repository: &Repository,
    id: &str,
) -> Result<Response<Body>> {
    registry.uploads.cancel(repository, id).await?;
    Ok(bare(StatusCode::NO_CONTENT))
}

async fn receive(session: &Session<'_>, body: &mut Upload) -> Result<()> {
    loop {
        let batch = body.batch().await?;
        if batch.is_empty() {
            return Ok(());
        }
        session.write(batch).await?;
    }
}

/// `Content-Range: <first>-<last>`; docker also writes `bytes <first>-<last>/<total>`.
fn check_range(session: &Session<'_>, headers: &HeaderMap) -> Result<()> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else {
        return Ok(());
    };
    let text = range.to_str().unwrap_or_default();
    let invalid = || Error::InvalidArgument(format!("Content-Range {text:?} is no range"));
    let range = text
        .trim_start_matches("bytes")
        .trim_start_matches([' ', '=']);
    let range = range.split('/').next().unwrap_or_default();
    let (first, last) = range.split_once('-').ok_or_else(invalid)?;
    let first: u64 = first.trim().parse().map_err(|_| invalid())?;
    let last: u64 = last.trim().parse().map_err(|_| invalid())?;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let fits = length.is_none_or(|length| last.checked_sub(first).is_some_and(|n| n + 1 == length));
    if !fits && length != Some(0) {
        return Err(Error::InvalidArgument(format!(
            "Content-Range {text:?} does not fit the body's length"
        )));
    }
    session.expect_offset(first)
}

fn accepted(name: &str, session: &Session<'_>, status: StatusCode) -> Response<Body> {
    let mut response = bare(status);
    set(
        &mut response,
        "location",
        format!("/v2/{name}/blobs/uploads/{}", session.id),
    );
    set(&mut response, "docker-upload-uuid", &session.id);
    let last = session.written().saturating_sub(1);
    set(&mut response, "range", format!("0-{last}"));
    response
}

fn created(name: &str, digest: &Digest) -> Response<Body> {
    let mut response = bare(StatusCode::CREATED);
    set(
        &mut response,
        "location",
        format!("/v2/{name}/blobs/{digest}"),
    );
    set(&mut response, "docker-content-digest", digest.to_string());
    response
}
