//! `/v2/<name>/manifests/<reference>`

use std::sync::Arc;

use http::{HeaderMap, Method, Response, StatusCode, header};
use slipway_image::manifest::MAX_SIZE;

use super::{Upload, bare, body::Body, conditions, route::Written, set, set_warning};
use crate::{
    blobs::Range,
    error::{Error, Result},
    large::LARGE,
    manifests::{Put, Require},
    mirror::Freshness,
    names::{ImageName, Pointer, Repository},
    registry::Registry,
    store::Origin,
};

/// What a path names.
pub struct Place {
    name: ImageName,
    /// The repository as the client wrote it, for `Location`.
    written: Written,
}

impl Place {
    /// Parses the reference.
    pub fn new(repository: Repository, written: Written, reference: &str) -> Result<Self> {
        Ok(Self {
            name: ImageName {
                repository,
                pointer: Pointer::parse(reference)?,
            },
            written,
        })
    }
}

/// GET and HEAD: hyper leaves the body of a HEAD out and keeps its length.
pub async fn get(
    registry: &Arc<Registry>,
    place: Place,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let found = registry
        .find_manifest(&place.name, Freshness::Ttl, None)
        .await
        .map_err(|error| match error.root() {
            // To a client that looks before it pushes, an upstream that cannot be reached, or wants to be
            // left in peace, means "not here": 404 lets it go on, anything else would stop it.
            Error::UpstreamUnavailable { .. } | Error::RateLimited { .. } => {
                Error::ManifestNotFound(format!("{} ({error})", place.name.familiar()))
            }
            _ => error,
        })?;
    let stored = found.stored;
    registry.uses.note(&place.name.repository, &stored.digest);
    if let (&Method::HEAD, Pointer::Digest(digest), Origin::Local) =
        (method, &place.name.pointer, stored.record.origin)
    {
        // Who looks before he pushes an index counts on it.
        registry
            .promise_manifest(&place.name.repository, digest)
            .await?;
        if registry.lookup(&place.name)?.is_none() {
            return Err(Error::ManifestNotFound(place.name.familiar()));
        }
    }
    let mut response = match conditions::not_modified(headers, &stored.digest) {
        Some(known) => known,
        None => {
            let body = match stored.content.len() > LARGE {
                // Whoever reads slowly has no copy of his own in memory meanwhile.
                true => {
                    drop(stored.content);
                    let repository = &place.name.repository;
                    let whole = Range::default();
                    let reader = registry.open_blob(repository, &stored.digest, whole);
                    Body::from(reader.await?)
                }
                false => Body::Whole(stored.content),
            };
            let mut response = Response::new(body);
            set(&mut response, "content-type", &stored.record.media_type);
            let digest = stored.digest.to_string();
            set(&mut response, "docker-content-digest", digest);
            set(&mut response, "etag", conditions::etag(&stored.digest));
            response
        }
    };
    if let Some(reason) = found.stale {
        set_warning(&mut response, &reason);
    }
    Ok(response)
}

/// PUT
pub async fn put(
    registry: &Arc<Registry>,
    place: Place,
    headers: &HeaderMap,
    body: Upload,
) -> Result<Response<Body>> {
    let (content, _turn) = body
        .whole("the manifest", MAX_SIZE, Some(&registry.large))
        .await?;
    let media_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => value.to_str().ok().map(ToOwned::to_owned),
        // Clients should send it (distribution-spec, "Pushing Manifests"), not must.
        None => media_type_in(&content),
    };
    let media_type = media_type.ok_or_else(|| {
        Error::ManifestInvalid("neither Content-Type nor mediaType says what it is".to_owned())
    })?;
    let (tags, expected) = match &place.name.pointer {
        Pointer::Tag(tag) => (vec![tag.clone()], None),
        Pointer::Digest(digest) => (Vec::new(), Some(digest.clone())),
    };
    let repository = place.name.repository.clone();
    let (digest, subject) = registry
        .put_with_subject(Put {
            repository,
            tags,
            media_type,
            content,
            expected,
            origin: Origin::Local,
            by_digest: false,
            require: Require::Repository,
        })
        .await?;
    if let Pointer::Tag(_) = place.name.pointer {
        registry
            .events
            .tell("tag", digest.to_string(), place.name.familiar());
    }
    if let Pointer::Digest(_) = place.name.pointer {
        // An index that names it is to come.
        registry
            .promise_manifest(&place.name.repository, &digest)
            .await?;
    }
    let mut response = bare(StatusCode::CREATED);
    let location = place.written.place(&format!("manifests/{digest}"));
    set(&mut response, "location", location);
    set(&mut response, "docker-content-digest", digest.to_string());
    if let Some(subject) = subject {
        set(&mut response, "oci-subject", subject.to_string());
    }
    Ok(response)
}

fn media_type_in(content: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    let manifest: Typed = serde_json::from_slice(content).ok()?;
    Some(manifest.media_type)
}

/// DELETE: of a tag, or of a manifest with all tags that name it.
pub async fn delete(registry: &Arc<Registry>, place: Place) -> Result<Response<Body>> {
    let missing = || Error::ManifestNotFound(place.name.familiar());
    match &place.name.pointer {
        Pointer::Tag(tag) => {
            if !registry.untag(&place.name.repository, tag).await? {
                return Err(missing());
            }
        }
        Pointer::Digest(digest) => {
            let repository = &place.name.repository;
            if registry.lookup(&place.name)?.is_none()
                && !registry.index.is_damaged_at(repository, digest)?
            {
                return Err(missing());
            }
            registry
                .remove_manifest(&place.name.repository, digest)
                .await?;
        }
    }
    registry.events.tell(
        "delete",
        place.name.pointer.to_string(),
        place.name.familiar(),
    );
    Ok(bare(StatusCode::ACCEPTED))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use slipway_image::{Digest, media_type};

    use super::{super::Query, *};
    use crate::{config::Config, large::READERS};

    #[tokio::test]
    async fn who_reads_a_large_manifest_slowly_has_none_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path(), Config::default());
        let registry = registry.await.unwrap();
        let repository = Repository::new("docker.io", "team/app").unwrap();
        let get = async |filler: usize| {
            let (kind, named) = (media_type::OCI_CONFIG, Digest::of("{}"));
            let content = format!(
                r#"{{"schemaVersion":2,"annotations":{{"x":"{}"}},"config":{{"mediaType":"{kind}","digest":"{named}","size":2}}}}"#,
                "x".repeat(filler),
            );
            let put = registry.put_manifest(Put {
                repository: repository.clone(),
                tags: Vec::new(),
                media_type: media_type::OCI_MANIFEST.to_owned(),
                content: content.into(),
                expected: None,
                origin: Origin::Local,
                by_digest: true,
                require: Require::Nothing,
            });
            let digest = put.await.unwrap().to_string();
            let written = Written::new("team/app", &Query::default());
            let place = Place::new(repository.clone(), written, &digest).unwrap();
            get(&registry, place, &Method::GET, &HeaderMap::new())
                .await
                .unwrap()
        };
        let small = get(10).await.into_body();
        assert!(matches!(small, Body::Whole(_)));
        let large = get(1 << 20).await.into_body();
        let Body::Stream { left, .. } = large else {
            panic!("it is in memory")
        };
        assert!(left > 1 << 20);
        // Neither have many who come at once.
        let mut turns = Vec::new();
        for _ in 0..READERS {
            turns.push(registry.large.read().await);
        }
        let mut waits = Box::pin(get(2 << 20));
        let moment = Duration::from_millis(500);
        assert!(tokio::time::timeout(moment, &mut waits).await.is_err());
        drop(get(20).await);
        turns.pop();
        assert!(matches!(waits.await.into_body(), Body::Stream { .. }));
    }
}
