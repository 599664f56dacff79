//! `/v2/_catalog`, `/v2/<name>/tags/list`, `/v2/<name>/referrers/<digest>`

use std::sync::Arc;

use http::Response;
use serde_json::json;
use slipway_image::{Digest, manifest::MAX_SIZE, media_type};
use tokio::sync::Semaphore;

use super::{Query, body::Body, set, set_warning, traffic::Traffic};
use crate::{
    access::Permit,
    blobs::staging::blocking,
    error::{Error, Result},
    large::{Turn, hold},
    mirror::Wanted,
    names::{Repository, parse_digest},
    registry::Registry,
};

/// Largest page; also what is given when nothing is said.
const PAGE: usize = 1000;

/// Bytes of an index around its descriptors, at most.
const FRAME: usize = 256;

/// Walks through all repositories at once: each may take as long as there are repositories, for one who sees none.
static WALKS: Semaphore = Semaphore::const_new(2);

/// All repositories with something in them that the caller may pull from, the platform's own left out, in the order
/// of their names.
pub async fn catalog(
    registry: &Arc<Registry>,
    permit: &Permit,
    query: &Query,
    traffic: &Arc<Traffic>,
) -> Result<Response<Body>> {
    let limit = page(query)?;
    let last = query
        .get("last")
        .map(|last| registry.own.from_name(last))
        .transpose()?;
    let listing = registry.large.list(traffic.clone()).await?;
    let turn = WALKS.acquire().await.expect("nobody closes it");
    let (walked, permit) = (Arc::clone(registry), permit.clone());
    let (found, more) = blocking(move || {
        // Until it has ended, also when nobody waits for it any more.
        let _turn = turn;
        walk(&walked, &permit, last, limit)
    })
    .await?;
    let names: Vec<&str> = found.iter().map(Repository::familiar).collect();
    let mut response = list(&json!({ "repositories": names }), listing);
    if let (true, Some(last)) = (more, names.last()) {
        let pairs = [("n", &*limit.to_string()), ("last", last)];
        link(&mut response, "/v2/_catalog", pairs, query);
    }
    Ok(response)
}

/// A page of what a caller sees, and whether there is another one.
fn walk(
    registry: &Registry,
    permit: &Permit,
    last: Option<Repository>,
    limit: usize,
) -> Result<(Vec<Repository>, bool)> {
    let shown = |r: &Repository| !r.is_internal() && permit.sees(r);
    let seen = registry.index.catalog(last.as_ref());
    let seen = seen.filter(|r| r.as_ref().map_or(true, shown));
    // One more than asked for tells whether there is a next page.
    let mut found: Vec<Repository> = seen.take(limit + 1).collect::<Result<_>>()?;
    let more = found.len() > limit;
    found.truncate(limit);
    Ok((found, more))
}

/// Tags of a repository, in lexical order.
pub async fn tags(
    registry: &Arc<Registry>,
    repository: &Repository,
    name: &str,
    query: &Query,
    traffic: &Arc<Traffic>,
) -> Result<Response<Body>> {
    let limit = page(query)?;
    let turn = registry.large.list(traffic.clone()).await?;
    let found = registry
        .index
        .tags_of(repository, query.get("last"), limit + 1)?;
    if found.is_empty() && !registry.index.has_repository(repository)? {
        return Err(Error::RepositoryNotFound(repository.clone()));
    }
    let more = found.len() > limit;
    let tags: Vec<&str> = found
        .iter()
        .take(limit)
        .map(|(tag, _)| tag.as_str())
        .collect();
    let mut response = list(&json!({ "name": name, "tags": tags }), turn);
    if let (true, Some(last)) = (more, tags.last()) {
        let pairs = [("n", &*limit.to_string()), ("last", last)];
        let path = format!("/v2/{name}/tags/list");
        link(&mut response, &path, pairs, query);
    }
    Ok(response)
}

/// Manifests whose subject is this digest; an empty index when there are none, never 404. None is larger than a
/// manifest may be.
pub async fn referrers(
    registry: &Arc<Registry>,
    repository: &Repository,
    name: &str,
    subject: &Digest,
    query: &Query,
    traffic: &Arc<Traffic>,
) -> Result<Response<Body>> {
    let filter = query.get("artifactType");
    let wanted = Wanted {
        after: query.get("last").map(parse_digest).transpose()?,
        kind: filter.map(ToOwned::to_owned),
        most: MAX_SIZE - FRAME,
    };
    let client = traffic.clone();
    let page = registry
        .referrers(repository, subject, wanted, client)
        .await?;
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
        media_type::OCI_INDEX,
        page.descriptors.join(",")
    );
    let mut response = Response::new(Body::Whole(hold(index, page.turn)));
    set(&mut response, "content-type", media_type::OCI_INDEX);
    if filter.is_some() {
        set(&mut response, "oci-filters-applied", "artifactType");
    }
    if let Some(end) = page.more {
        let end = end.to_string();
        let path = format!("/v2/{name}/referrers/{subject}");
        let filter = filter.map(|filter| ("artifactType", filter));
        let pairs = filter.into_iter().chain([("last", &*end)]);
        link(&mut response, &path, pairs, query);
    }
    if let Some(reason) = page.trouble {
        set_warning(&mut response, &reason);
    }
    Ok(response)
}

fn page(query: &Query) -> Result<usize> {
    match query.get("n") {
        None => Ok(PAGE),
        Some(n) => n
            .parse::<usize>()
            .map(|n| n.min(PAGE))
            .map_err(|_| Error::InvalidArgument(format!("n={n:?} is no page size"))),
    }
}

/// RFC 5988, as the specification asks for.
fn link<'a>(
    response: &mut Response<Body>,
    path: &str,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    query: &Query,
) {
    let mut next = url::form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(pairs);
    if let Some(ns) = query.get("ns") {
        next.append_pair("ns", ns);
    }
    set(
        response,
        "link",
        format!("<{path}?{}>; rel=\"next\"", next.finish()),
    );
}

fn list(names: &serde_json::Value, turn: Turn) -> Response<Body> {
    let mut response = Response::new(Body::Whole(hold(names.to_string(), turn)));
    set(&mut response, "content-type", "application/json");
    response
}

/// A response of JSON.
pub fn json_response(media_type: &str, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::Whole(value.to_string().into()));
    set(&mut response, "content-type", media_type);
    response
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::{super::traffic::Requests, *};
    use crate::config::Config;

    #[test]
    fn a_few_catalogs_are_walked_at_once_and_no_worker_waits_for_them() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(walked_elsewhere());
    }

    async fn walked_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path(), Config::default())
            .await
            .unwrap();
        let (permit, query) = (Permit::open(), Query::parse(None));
        let traffic = Traffic::new([192, 0, 2, 1].into(), Requests::default());
        let (go_on, busy) = std::sync::mpsc::channel::<()>();
        let elsewhere = tokio::task::spawn_blocking(move || busy.recv());
        let mut first = Box::pin(catalog(&registry, &permit, &query, &traffic));
        assert!(poll!(&mut first).is_pending(), "it is walked elsewhere");
        drop(go_on);
        let _ = elsewhere.await.unwrap();
        first.await.unwrap();
        let walking = WALKS.acquire_many(2).await.unwrap();
        let mut next = Box::pin(catalog(&registry, &permit, &query, &traffic));
        assert!(poll!(&mut next).is_pending());
        assert_eq!(WALKS.available_permits(), 0);
        drop(walking);
        next.await.unwrap();
    }
}
