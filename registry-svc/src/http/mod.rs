//! The OCI Distribution API 1.1 over HTTP, for docker, podman, skopeo and every other foreign client:
//! translates requests to the domain and answers, nothing else.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::{
    access::{Permit, policy::Action},
    error::{Error, Result},
    names::{Repository, parse_digest},
    registry::Registry,
};

mod auth;
mod blobs;
mod body;
mod conditions;
mod connections;
mod errors;
mod limits;
mod lists;
mod manifests;
mod needs;
mod pages;
mod proxies;
pub mod ranges;
mod route;
mod serve;
mod tls;
mod token;
mod traffic;
mod uploads;

pub use limits::Limits;
pub use proxies::Proxies;
pub use serve::{Front, ListenError, bind, serve};
pub use tls::{Tls, TlsError, TlsFiles};

use auth::Peer;
use body::{Body, Upload};
use needs::Needs;
use route::{Query, Route, Written};
use traffic::{Metered, Traffic};

/// Answers one request.
async fn answer(
    registry: &Arc<Registry>,
    front: &Front,
    traffic: &Arc<Traffic>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Response<Metered> {
    let busy = traffic.begin();
    let asked = Asked {
        registry,
        front,
        traffic,
        peer,
    };
    let mut response = match busy.is_one_too_many(&front.limits) {
        true => errors::response(&Error::Busy),
        false => match asked.dispatch(request).await {
            Ok(response) => response,
            Err(error) => errors::response(&error),
        },
    };
    response.headers_mut().insert(
        "docker-distribution-api-version",
        HeaderValue::from_static("registry/2.0"),
    );
    response.map(|body| Metered::new(body, traffic, busy))
}

/// Where a request came in.
struct Asked<'a> {
    registry: &'a Arc<Registry>,
    front: &'a Front,
    traffic: &'a Arc<Traffic>,
    peer: &'a Peer,
}

impl Asked<'_> {
    /// What a request is, whether it is allowed, and only then the handler.
    async fn dispatch(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (head, incoming) = request.into_parts();
        let target = head.uri.path_and_query().map_or(0, |t| t.as_str().len());
        if target > limits::TARGET {
            let message = "the path and query are too long";
            return Ok(errors::plain(
                StatusCode::URI_TOO_LONG,
                "NAME_INVALID",
                message,
            ));
        }
        let own = &self.registry.own;
        let open = self.front.access.is_none();
        if let Some(refusal) = pages::refusal(&head.uri, &head.headers, own, open) {
            return Ok(refusal);
        }
        let Some(route) = Route::parse(head.uri.path()) else {
            return Ok(nothing_here());
        };
        let mut query = Query::parse(head.uri.query());
        let body = Upload::new(incoming, self.traffic);
        let allowed = methods(&route);
        if !allowed.split(", ").any(|m| m == head.method.as_str()) {
            return Ok(not_allowed(allowed));
        }
        let needs = needs::required(&route, &head.method, &query, own)?;
        let peer = &self.front.behind(self.peer, &head.headers);
        let permit = match &self.front.access {
            None if route == Route::Token => return Ok(nothing_here()),
            None => Permit::open(),
            Some(access) if route == Route::Token => {
                let (method, headers) = (&head.method, &head.headers);
                return token::answer(access, own, peer, method, headers, &query, body).await;
            }
            Some(access) => {
                let url = auth::url_of(peer, &head.uri, &head.headers);
                let permit = match auth::identify(access, peer, &head.headers).await {
                    Ok(permit) => permit,
                    Err(why) => return Ok(auth::not_in(&why, &needs, &url)),
                };
                if let Some(refusal) = auth::refusal(&permit, &needs, &url) {
                    return Ok(refusal);
                }
                permit
            }
        };
        if let Needs::Mount(_, from) = &needs
            && permit.check(from, Action::Pull).is_err()
        {
            // As if it had nothing to mount.
            query.remove("mount");
        }
        let caller = Caller {
            permit: &permit,
            traffic: self.traffic,
        };
        handle(self.registry, route, head, &query, caller, body).await
    }
}

/// Who asks for something that is allowed.
struct Caller<'a> {
    permit: &'a Permit,
    traffic: &'a Arc<Traffic>,
}

/// The handler of a request that is allowed.
async fn handle(
    registry: &Arc<Registry>,
    route: Route,
    head: http::request::Parts,
    query: &Query,
    Caller { permit, traffic }: Caller<'_>,
    body: Upload,
) -> Result<Response<Body>> {
    let (method, headers) = (head.method, head.headers);
    // The same that was judged: one name has one key.
    let repository =
        |name: &str| -> Result<Repository> { registry.own.from_http(name, query.get("ns")) };
    let written = |name: &str| Written::new(name, query);
    if route != Route::Base {
        // What another process was told counts.
        registry.ledger.refresh().await?;
    }
    match (route, method) {
        (Route::Base, _) => {
            let mut response = Response::new(Body::Whole("{}".into()));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            Ok(response)
        }
        (Route::Token, _) => Ok(nothing_here()),
        (Route::Catalog, _) => lists::catalog(registry, permit, query, traffic).await,
        (Route::Tags(name), _) => {
            lists::tags(registry, &repository(&name)?, &name, query, traffic).await
        }
        (Route::Referrers(name, digest), _) => {
            let (repository, subject) = (repository(&name)?, parse_digest(&digest)?);
            lists::referrers(registry, &repository, &name, &subject, query, traffic).await
        }
        (Route::Manifest(name, reference), method) => {
            let place = manifests::Place::new(repository(&name)?, written(&name), &reference)?;
            match method {
                Method::PUT => manifests::put(registry, place, &headers, body).await,
                Method::DELETE => manifests::delete(registry, place).await,
                _ => manifests::get(registry, place, &method, &headers).await,
            }
        }
        (Route::Blob(name, digest), method) => {
            let (repository, digest) = (repository(&name)?, parse_digest(&digest)?);
            match method {
                Method::HEAD => blobs::head(registry, &repository, &digest, &headers).await,
                Method::DELETE => blobs::delete(registry, &repository, &digest).await,
                _ => blobs::get(registry, &repository, &digest, &headers).await,
            }
        }
        (Route::Uploads(name), _) => {
            let repository = repository(&name)?;
            uploads::start(registry, permit, &repository, &written(&name), query, body).await
        }
        (Route::Upload(name, id), method) => {
            let (repository, name) = (repository(&name)?, written(&name));
            match method {
                Method::PATCH => {
                    uploads::append(registry, permit, &repository, &name, &id, &headers, body).await
                }
                Method::PUT => {
                    uploads::finish(
                        registry,
                        permit,
                        &repository,
                        &name,
                        &id,
                        query,
                        &headers,
                        body,
                    )
                    .await
                }
                Method::DELETE => uploads::cancel(registry, permit, &repository, &id).await,
                _ => uploads::status(registry, permit, &repository, &name, &id).await,
            }
        }
    }
}

/// What may be done with a path, as `Allow` says it.
fn methods(route: &Route) -> &'static str {
    match route {
        Route::Token => "GET, POST",
        Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
    }
}

fn nothing_here() -> Response<Body> {
    errors::plain(
        StatusCode::NOT_FOUND,
        "NAME_INVALID",
        "there is nothing here: the API is below /v2/",
    )
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = errors::plain(
        StatusCode::METHOD_NOT_ALLOWED,
        "UNSUPPORTED",
        "this method is not supported here",
    );
    set(&mut response, "allow", allowed);
    response
}

/// A response without a body.
fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Most bytes of the reason in a warning (distribution-spec, "Warnings": 4096 in all).
const REASON: usize = 4000;

/// Says what people should know of an answer (RFC 7234, 5.5, in the form that distribution-spec asks for).
fn set_warning(response: &mut Response<Body>, reason: &str) {
    let plain = |c: &char| (c.is_ascii_graphic() || *c == ' ') && !matches!(c, '"' | '\\');
    let reason: String = reason.chars().filter(plain).take(REASON).collect();
    set(response, "warning", format!("299 - \"{reason}\""));
}

/// Sets a header whose value was made here.
fn set(response: &mut Response<Body>, name: &'static str, value: impl AsRef<str>) {
    // Values come from checked names; one that is no header value is left out.
    if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
        response.headers_mut().insert(name, value);
    }
}
