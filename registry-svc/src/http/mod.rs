//! The OCI Distribution API 1.1 over HTTP, for docker, podman, skopeo and every other foreign client:
//! translates requests to the domain and answers, nothing else.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    error::Result,
    names::{Repository, parse_digest},
    registry::Registry,
};

mod blobs;
mod body;
mod conditions;
mod errors;
mod lists;
mod manifests;
mod route;
mod uploads;

use body::{Body, Upload};
use route::{Query, Route};

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 1024;

/// How long a client may take to send the head of a request; also how long an idle connection stays.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// A listener that may not be opened, or could not be.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Plain HTTP off loopback.
    #[error(
        "refusing to serve plain http on {0}: whoever reaches it can push and delete images; say \
         --allow-plain-http if that network is trusted"
    )]
    Plain(SocketAddr),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Binds a listener of the API.
pub async fn bind(address: SocketAddr, allow_plain: bool) -> Result<TcpListener, ListenError> {
    if !address.ip().is_loopback() && !allow_plain {
        return Err(ListenError::Plain(address));
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Bind { address, source })
}

/// Serves until `stop`, then lets requests end.
pub async fn serve(registry: Arc<Registry>, listener: TcpListener, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving the distribution api");
    }
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(512 * 1024)
        .writev(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)));
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors: better to wait for one than to spin.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        // Answers are written whole; delaying the last segment helps nobody. Failing is harmless.
        let _ = stream.set_nodelay(true);
        let registry = Arc::clone(&registry);
        let service = service_fn(move |request| {
            let registry = Arc::clone(&registry);
            async move { Ok::<_, Infallible>(answer(registry, request).await) }
        });
        let connection = server
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let stop = stop.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
    connections.close();
    // Whoever is in the middle of something gets a moment, and is cut off after it.
    let _ = tokio::time::timeout(Duration::from_secs(4), connections.wait()).await;
}

/// Answers one request.
async fn answer(registry: Arc<Registry>, request: Request<Incoming>) -> Response<Body> {
    let mut response = match dispatch(&registry, request).await {
        Ok(response) => response,
        Err(error) => errors::response(&error),
    };
    response.headers_mut().insert(
        "docker-distribution-api-version",
        HeaderValue::from_static("registry/2.0"),
    );
    response
}

async fn dispatch(registry: &Arc<Registry>, request: Request<Incoming>) -> Result<Response<Body>> {
    let (head, incoming) = request.into_parts();
    let Some(route) = Route::parse(head.uri.path()) else {
        return Ok(errors::plain(
            StatusCode::NOT_FOUND,
            "NAME_INVALID",
            "there is nothing here: the API is below /v2/",
        ));
    };
    let query = Query::parse(head.uri.query());
    let body = Upload::new(incoming);
    let (method, headers) = (head.method, head.headers);
    let repository =
        |name: &str| -> Result<Repository> { registry.own.from_http(name, query.get("ns")) };
    let allowed = methods(&route);
    if !allowed.split(", ").any(|m| m == method.as_str()) {
        return Ok(not_allowed(allowed));
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
        (Route::Catalog, _) => lists::catalog(registry, &query),
        (Route::Tags(name), _) => lists::tags(registry, &repository(&name)?, &name, &query),
        (Route::Referrers(name, digest), _) => {
            let (repository, subject) = (repository(&name)?, parse_digest(&digest)?);
            lists::referrers(registry, &repository, &name, &subject, &query).await
        }
        (Route::Manifest(name, reference), method) => {
            let place = manifests::Place::new(repository(&name)?, &name, &reference)?;
            match method {
                Method::PUT => manifests::put(registry, place, &headers, body).await,
                Method::DELETE => manifests::delete(registry, place).await,
                _ => manifests::get(registry, place, &headers).await,
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
            uploads::start(registry, &repository, &name, &query, body).await
        }
        (Route::Upload(name, id), method) => {
            let repository = repository(&name)?;
            match method {
                Method::PATCH => {
                    uploads::append(registry, &repository, &name, &id, &headers, body).await
                }
                Method::PUT => {
                    uploads::finish(registry, &repository, &name, &id, &query, &headers, body).await
                }
                Method::DELETE => uploads::cancel(registry, &repository, &id).await,
                _ => uploads::status(registry, &repository, &name, &id).await,
            }
        }
    }
}

/// What may be done with a path, as `Allow` says it.
fn methods(route: &Route) -> &'static str {
    match route {
        Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
    }
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
