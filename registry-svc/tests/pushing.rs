//! Pushes to a registry that lets in by tokens, and is slow.

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, Response, header},
};
use futures_util::StreamExt as _;
use registry_svc::{
    config::UpstreamConfig,
    images::{
        pull::Phase,
        push::{PushEvent, PushRequest},
    },
};
use support::{Site, TestImage};
use tokio::sync::mpsc;

/// As docker's registry judges scopes (distribution, registry/handlers/app.go): a mount needs one of the other
/// repository, too.
#[derive(Default)]
struct Remote {
    /// Scopes that nobody gets.
    denied: Option<&'static str>,
    /// How long it takes for each piece that it reads; nothing = it reads no more than the first.
    pace: Option<Duration>,
    /// Methods, paths and queries.
    asked: Mutex<Vec<String>>,
}

async fn start(remote: Remote) -> (SocketAddr, Arc<Remote>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, remote) = (listener.local_addr().unwrap(), Arc::new(remote));
    let app = Router::new()
        .fallback(answer)
        .with_state((address, Arc::clone(&remote)));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, remote)
}

fn plain(status: u16) -> axum::http::response::Builder {
    Response::builder().status(status)
}

fn scopes_of(query: &str) -> Vec<String> {
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| key == "scope")
        .map(|(_, value)| value.into_owned())
        .collect()
}

async fn answer(
    State((address, remote)): State<(SocketAddr, Arc<Remote>)>,
    request: Request,
) -> Response<Body> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if path == "/token" {
        let mut scopes = scopes_of(query);
        scopes.retain(|scope| remote.denied != Some(scope));
        let given = serde_json::json!({ "token": scopes.join("|"), "expires_in": 300 });
        return Response::new(given.to_string().into());
    }
    remote.asked.lock().unwrap().push(format!("{method} {uri}"));
    let from = url::form_urlencoded::parse(query.as_bytes())
        .find_map(|(key, value)| (key == "from").then(|| format!("repository:{value}:pull")));
    let granted = granted(request.headers());
    let has = |scope: &str| granted.iter().any(|granted| granted == scope);
    if !has("repository:team/app:pull,push") || from.as_deref().is_some_and(|from| !has(from)) {
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"s\"");
        return plain(401)
            .header(header::WWW_AUTHENTICATE, challenge)
            .body(Body::empty())
            .unwrap();
    }
    let created = || plain(201).body(Body::empty()).unwrap();
    match method {
        Method::POST if from.is_some() => created(),
        Method::POST => plain(202)
            .header(header::LOCATION, "/v2/team/app/blobs/uploads/1")
            .body(Body::empty())
            .unwrap(),
        Method::PUT if path.contains("/blobs/uploads/") => {
            let mut pieces = request.into_body().into_data_stream();
            while let Some(Ok(_)) = pieces.next().await {
                match remote.pace {
                    Some(pace) => tokio::time::sleep(pace).await,
                    None => std::future::pending().await,
                }
            }
            created()
        }
        Method::PUT => created(),
        _ => plain(404).body(Body::empty()).unwrap(),
    }
}

fn granted(headers: &HeaderMap) -> Vec<String> {
    let value = headers.get(header::AUTHORIZATION);
    let token = value.and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
    token
        .unwrap_or_default()
        .split('|')
        .map(str::to_owned)
        .collect()
}

/// What became of the blobs, and whether it went well.
async fn push(address: SocketAddr, bytes: usize) -> (Vec<Phase>, Result<(), String>) {
    let remote = UpstreamConfig {
        timeout: Duration::from_secs(2),
        ..UpstreamConfig::at("docker.io", format!("http://{address}").parse().unwrap())
    };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let site = Site::mirroring(dir, remote).await;
    // The same in another repository of that host, as what an image was built upon is.
    let image = TestImage::new("pushed", bytes);
    for name in ["team/base", "team/app"] {
        site.push_image(&format!("docker.io/{name}"), "v1", &image)
            .await;
    }
    let (sender, mut events) = mpsc::channel(4096);
    let request = PushRequest {
        reference: "team/app:v1".into(),
        ..PushRequest::default()
    };
    let pushed = site.registry.push(request, &sender).await;
    drop(sender);
    let mut phases = Vec::new();
    while let Some(event) = events.recv().await {
        if let PushEvent::Progress(progress) = event
            && [Phase::Mounted, Phase::Done].contains(&progress.phase)
        {
            phases.push(progress.phase);
        }
    }
    (phases, pushed.map_err(|error| error.to_string()))
}

#[tokio::test]
async fn a_mount_asks_to_be_let_into_the_other_repository() {
    let (address, remote) = start(Remote::default()).await;
    let (phases, pushed) = push(address, 1000).await;
    assert_eq!(pushed, Ok(()));
    assert_eq!(phases, [Phase::Mounted; 2]);
    let asked = remote.asked.lock().unwrap();
    assert!(
        !asked
            .iter()
            .any(|line| line.contains("PUT /v2/team/app/blobs"))
    );
}

#[tokio::test]
async fn what_may_not_be_mounted_is_sent() {
    let (address, _remote) = start(Remote {
        denied: Some("repository:team/base:pull"),
        pace: Some(Duration::ZERO),
        ..Remote::default()
    })
    .await;
    let (phases, pushed) = push(address, 1000).await;
    assert_eq!(pushed, Ok(()));
    assert_eq!(phases, [Phase::Done; 2]);
}

#[tokio::test]
async fn a_blob_may_take_longer_than_its_registry_may_be_silent() {
    let (address, _remote) = start(Remote {
        denied: Some("repository:team/base:pull"),
        pace: Some(Duration::from_millis(50)),
        ..Remote::default()
    })
    .await;
    let begun = std::time::Instant::now();
    let (phases, pushed) = push(address, 48 << 20).await;
    assert_eq!(pushed, Ok(()));
    assert_eq!(phases, [Phase::Done; 2]);
    assert!(begun.elapsed() > Duration::from_secs(2), "it was not slow");
}

#[tokio::test]
async fn a_registry_that_takes_no_more_of_a_blob_is_given_up() {
    let (address, _remote) = start(Remote {
        denied: Some("repository:team/base:pull"),
        ..Remote::default()
    })
    .await;
    let (_, pushed) = push(address, 48 << 20).await;
    let error = pushed.unwrap_err();
    assert!(error.contains("it stopped taking"), "{error}");
}

#[tokio::test]
async fn a_manifest_of_an_unknown_kind_takes_its_blobs_along() {
    let (address, remote) = start(Remote {
        pace: Some(Duration::ZERO),
        ..Remote::default()
    })
    .await;
    let upstream = UpstreamConfig::at("docker.io", format!("http://{address}").parse().unwrap());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let site = Site::mirroring(dir, upstream).await;
    let digest = site.push_blob("docker.io/team/app", b"content").await;
    let kind = "application/vnd.oci.artifact.manifest.v1+json";
    let manifest = serde_json::json!({
        "mediaType": kind,
        "blobs": [{ "mediaType": "text/plain", "digest": digest, "size": 7 }],
    });
    let put = support::client()
        .put(site.url("docker.io/team/app/manifests/v1"))
        .header(header::CONTENT_TYPE, kind)
        .body(manifest.to_string());
    assert_eq!(put.send().await.unwrap().status(), 201);
    let (sender, _events) = mpsc::channel(4096);
    let request = PushRequest {
        reference: "team/app:v1".into(),
        ..PushRequest::default()
    };
    site.registry.push(request, &sender).await.unwrap();
    let asked = remote.asked.lock().unwrap();
    let sent =
        format!("PUT /v2/team/app/blobs/uploads/1?digest={digest}").replace("sha256:", "sha256%3A");
    assert!(asked.contains(&sent), "{asked:?}");
}
