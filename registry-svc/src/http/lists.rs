//! `/v2/_catalog`, `/v2/<name>/tags/list`, `/v2/<name>/referrers/<digest>`

use std::sync::Arc;

use http::Response;
use serde_json::json;
use slipway_image::{Digest, media_type};

use super::{Query, body::Body, set};
use crate::{
    error::{Error, Result},
    names::Repository,
    registry::Registry,
};

/// Largest page; also what is given when nothing is said.
const PAGE: usize = 1000;

/// All repositories with something in them, the platform's own left out.
pub fn catalog(registry: &Arc<Registry>, query: &Query) -> Result<Response<Body>> {
    let limit = page(query)?;
    let last = query
        .get("last")
        .map(|last| registry.own.from_name(last))
        .transpose()?;
    let mut found = Vec::new();
    let mut after = last.map(|last| last.as_str().to_owned());
    // One more than asked for tells whether there is a next page.
    while found.len() <= limit {
        let batch = registry
            .index
            .repositories(after.as_deref(), limit + 1 - found.len())?;
        let Some(end) = batch.last() else { break };
        after = Some(end.as_str().to_owned());
        found.extend(batch.into_iter().filter(|r| !r.is_internal()));
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let names: Vec<&str> = found.iter().map(Repository::familiar).collect();
    let mut response = json_response("application/json", &json!({ "repositories": names }));
    if let (true, Some(last)) = (more, names.last()) {
        link(&mut response, "/v2/_catalog", limit, last, query);
    }
    Ok(response)
}

/// Tags of a repository, in lexical order.
pub fn tags(
    registry: &Arc<Registry>,
    repository: &Repository,
    name: &str,
    query: &Query,
) -> Result<Response<Body>> {
    let limit = page(query)?;
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
    let mut response = json_response("application/json", &json!({ "name": name, "tags": tags }));
    if let (true, Some(last)) = (more, tags.last()) {
        link(
            &mut response,
            &format!("/v2/{name}/tags/list"),
            limit,
            last,
            query,
        );
    }
    Ok(response)
}

/// Manifests whose subject is this digest; an empty index when there are none, never 404.
pub fn referrers(
    registry: &Arc<Registry>,
    repository: &Repository,
    subject: &Digest,
    query: &Query,
) -> Result<Response<Body>> {
    let mut manifests = registry.index.referrers(repository, subject)?;
    let filter = query.get("artifactType");
    if let Some(wanted) = filter {
        manifests.retain(|m| m["artifactType"] == wanted);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": manifests,
    });
    let mut response = json_response(media_type::OCI_INDEX, &index);
    if filter.is_some() {
        set(&mut response, "oci-filters-applied", "artifactType");
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
fn link(response: &mut Response<Body>, path: &str, n: usize, last: &str, query: &Query) {
    let mut next = url::form_urlencoded::Serializer::new(String::new());
    next.append_pair("n", &n.to_string())
        .append_pair("last", last);
    if let Some(ns) = query.get("ns") {
        next.append_pair("ns", ns);
    }
    set(
        response,
        "link",
        format!("<{path}?{}>; rel=\"next\"", next.finish()),
    );
}

fn json_response(media_type: &str, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::Whole(value.to_string().into()));
    set(&mut response, "content-type", media_type);
    response
}
