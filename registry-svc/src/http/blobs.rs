//! `/v2/<name>/blobs/<digest>`

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use slipway_image::Digest;

use super::{bare, body::Body, conditions, errors, ranges::ByteRange, set};
use crate::{
    blobs::Range,
    error::{Error, Result},
    ledger::Change,
    names::Repository,
    registry::Registry,
    store::Index,
};

/// GET, whole or one range.
pub async fn get(
    registry: &Arc<Registry>,
    repository: &Repository,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let readable = registry.may_read(repository, digest).await?;
    let wanted = conditions::wanted_range(headers, digest).and_then(ByteRange::parse);
    let known = conditions::not_modified(headers, digest);
    if known.is_none()
        && readable
        && let Some(address) = registry.blobs.address(digest).await?
    {
        // Whoever follows takes his range along.
        let mut response = bare(StatusCode::TEMPORARY_REDIRECT);
        set(&mut response, "location", address.as_str());
        set(&mut response, "docker-content-digest", digest.to_string());
        // The address is good for a while only.
        set(&mut response, "cache-control", "no-store");
        return Ok(response);
    }
    let range = match (wanted, known) {
        (None, None) => Range::default(),
        (_, Some(known)) => {
            size_of(registry, repository, digest).await?;
            return Ok(known);
        }
        (Some(range), None) => {
            let total = size_of(registry, repository, digest).await?;
            match range.within(total) {
                Some(range) => range,
                None => return Ok(not_satisfiable(total)),
            }
        }
    };
    let reader = registry
        .open_blob_through(repository, digest, range)
        .await?;
    let (total, length) = (reader.total, reader.length);
    let mut response = Response::new(Body::from(reader));
    if range != Range::default() {
        let Some(part) = content_range(range.offset, length, total) else {
            return Ok(not_satisfiable(total));
        };
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut response, "content-range", part);
    }
    describe(&mut response, digest);
    Ok(response)
}

/// HEAD
pub async fn head(
    registry: &Arc<Registry>,
    repository: &Repository,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let _lease = registry.leases.hold(digest).await;
    registry.may_read(repository, digest).await?;
    let mut size = size_of(registry, repository, digest).await?;
    // The client will rely on it when it pushes the manifest, whatever is deleted meanwhile.
    registry.promise(digest, Some(repository)).await?;
    // The manifest that made it visible may have gone just before it was in hand.
    if !registry.is_visible(repository, digest)? {
        return Err(Error::BlobNotFound(digest.clone()));
    }
    if registry.ledger.is_shared() {
        // Another process may have removed it before that was promised.
        size = size_of(registry, repository, digest).await?;
    }
    if let Some(known) = conditions::not_modified(headers, digest) {
        return Ok(known);
    }
    let mut response = bare(StatusCode::OK);
    set(&mut response, "content-length", size.to_string());
    describe(&mut response, digest);
    Ok(response)
}

/// DELETE
pub async fn delete(
    registry: &Arc<Registry>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Response<Body>> {
    if !registry.is_visible(repository, digest)? {
        return Err(Error::BlobNotFound(digest.clone()));
    }
    let (repo, named) = (repository.clone(), digest.clone());
    let unlink = move |index: &Index| match index.is_held_in(&repo, &named)? {
        true => Err(Error::Conflict(format!(
            "{named} is part of a manifest of {repo}: delete that first"
        ))),
        false => {
            let (repository, digest) = (repo.clone(), named.clone());
            Ok((vec![Change::Unlink { repository, digest }], ()))
        }
    };
    registry.change(repository, unlink).await?;
    registry.leases.end_grace(digest, repository);
    registry.release(vec![digest.clone()]).await?;
    Ok(bare(StatusCode::ACCEPTED))
}

/// Size of a blob that is here, or that a mirrored manifest promises.
async fn size_of(registry: &Registry, repository: &Repository, digest: &Digest) -> Result<u64> {
    if registry.index.is_linked(repository, digest)?
        && let Some(size) = registry.blobs.stat(digest).await?
    {
        return Ok(size);
    }
    registry
        .source_of(repository, digest)
        .await?
        .and_then(|(_, size)| size)
        .ok_or_else(|| Error::BlobNotFound(digest.clone()))
}

/// What a part of a blob is called; `None` when it has no byte: whoever promised its size may have been wrong.
fn content_range(offset: u64, length: u64, total: u64) -> Option<String> {
    let last = offset + length.checked_sub(1)?;
    Some(format!("bytes {offset}-{last}/{total}"))
}

fn not_satisfiable(total: u64) -> Response<Body> {
    let message = format!("the blob has {total} bytes");
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    let mut response = errors::plain(status, "SIZE_INVALID", &message);
    set(&mut response, "content-range", format!("bytes */{total}"));
    response
}

fn describe(response: &mut Response<Body>, digest: &Digest) {
    let text = digest.to_string();
    set(response, "content-type", "application/octet-stream");
    set(response, "docker-content-digest", &text);
    set(response, "etag", conditions::etag(digest));
    set(response, "accept-ranges", "bytes");
    // Content never changes under its digest.
    set(response, "cache-control", "max-age=31536000, immutable");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_without_a_byte_is_no_part() {
        let told = Some("bytes 5-9/10".to_owned());
        assert_eq!(content_range(5, 5, 10), told);
        // The manifest promised more than there is.
        assert_eq!(content_range(0, 0, 0), None);
        assert_eq!(content_range(5, 0, 3), None);
        assert_eq!(not_satisfiable(3).status(), 416);
    }
}
