//! A registry in this process, an upstream that counts and misbehaves on demand, and images to move.

#![allow(dead_code)] // each test file uses its part

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use bytes::Bytes;
use registry_svc::{
    Registry,
    config::{Config, UpstreamConfig},
    http,
    names::OwnNames,
    unfinished::UploadLimits,
};
use slipway_image::{Digest, media_type};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Whose turn nobody takes away.
pub struct Patient;

impl registry_svc::large::Client for Patient {
    fn network(&self) -> std::net::IpAddr {
        [192, 0, 2, 1].into()
    }

    fn drag(&self) -> u128 {
        0
    }

    fn cut(&self) {}
}

/// A registry with its HTTP listener on an ephemeral port.
pub struct Site {
    pub registry: Arc<Registry>,
    pub address: SocketAddr,
    pub dir: Arc<TempDir>,
    stop: CancellationToken,
}

impl Site {
    pub async fn start() -> Self {
        Self::with_upstream(None, 0).await
    }

    /// `upstream` plays docker.io.
    pub async fn with_upstream(upstream: Option<&Upstream>, ttl_seconds: u64) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::reopen(dir, upstream.map(|u| u.address), ttl_seconds).await
    }

    /// With further settings.
    pub async fn with_config(config: Config) -> Self {
        Self::with(config, Arc::new(tempfile::tempdir().unwrap()), None, 0).await
    }

    pub async fn reopen(dir: Arc<TempDir>, upstream: Option<SocketAddr>, ttl: u64) -> Self {
        Self::with(Config::default(), dir, upstream, ttl).await
    }

    pub async fn with(
        config: Config,
        dir: Arc<TempDir>,
        upstream: Option<SocketAddr>,
        ttl: u64,
    ) -> Self {
        let upstreams = vec![docker_io(upstream, ttl)];
        Self::open(config, dir, upstreams, |_| http::Front::default()).await
    }

    /// With this upstream.
    pub async fn mirroring(dir: Arc<TempDir>, upstream: UpstreamConfig) -> Self {
        Self::of_upstreams(dir, vec![upstream]).await
    }

    /// With these upstreams.
    pub async fn of_upstreams(dir: Arc<TempDir>, upstreams: Vec<UpstreamConfig>) -> Self {
        Self::open(Config::default(), dir, upstreams, |_| {
            http::Front::default()
        })
        .await
    }

    /// With something of its own between the network and the API.
    pub async fn behind(
        dir: Arc<TempDir>,
        upstream: Option<SocketAddr>,
        ttl: u64,
        front: impl FnOnce(&OwnNames) -> http::Front,
    ) -> Self {
        let upstreams = vec![docker_io(upstream, ttl)];
        Self::open(Config::default(), dir, upstreams, front).await
    }

    /// With limits of what is under way.
    pub async fn limited(
        dir: Arc<TempDir>,
        uploads: UploadLimits,
        front: impl FnOnce(&OwnNames) -> http::Front,
    ) -> Self {
        let config = Config {
            uploads,
            ..Config::default()
        };
        Self::open(config, dir, vec![docker_io(None, 0)], front).await
    }

    async fn open(
        config: Config,
        dir: Arc<TempDir>,
        upstreams: Vec<UpstreamConfig>,
        front: impl FnOnce(&OwnNames) -> http::Front,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = http::bind("127.0.0.1:0".parse().unwrap(), false, false)
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let own = OwnNames::new(&[address], &[]);
        let front = Arc::new(front(&own));
        let config = Config {
            own,
            upstreams,
            ..config
        };
        let registry = Registry::open(dir.path(), config).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(http::serve(
            Arc::clone(&registry),
            listener,
            front,
            stop.clone(),
        ));
        Self {
            registry,
            address,
            dir,
            stop,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Ends it as kill -9 would: nothing is written out. (sled keeps its file locked as long as it
    /// lives, so the files are copied to a new place.)
    pub async fn crash(self) -> Arc<TempDir> {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(self.dir.path(), copy.path());
        self.stop.cancel();
        Arc::new(copy)
    }

    /// Bytes of all blobs on disk.
    pub fn blob_bytes(&self) -> u64 {
        files_below(&self.dir.path().join("blobs"))
            .iter()
            // One that goes meanwhile has none.
            .filter_map(|p| Some(p.metadata().ok()?.len()))
            .sum()
    }

    /// Pushes content over HTTP in one request.
    pub async fn push_blob(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let response = client()
            .post(self.url(&format!("{name}/blobs/uploads/?digest={digest}")))
            .body(content.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 201);
        digest
    }

    /// Pushes an image over HTTP; returns the manifest's digest.
    pub async fn push_image(&self, name: &str, tag: &str, image: &TestImage) -> Digest {
        for blob in [&image.config, &image.layer] {
            self.push_blob(name, blob).await;
        }
        let response = client()
            .put(self.url(&format!("{name}/manifests/{tag}")))
            .header("content-type", media_type::OCI_MANIFEST)
            .body(image.manifest.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
        image.digest()
    }
}

/// docker.io. Without one it is a port where nobody listens: no test goes out.
fn nowhere_or(upstream: Option<SocketAddr>, ttl_seconds: u64) -> UpstreamConfig {
    let upstream = upstream.unwrap_or_else(|| "127.0.0.1:1".parse().unwrap());
    UpstreamConfig {
        tag_ttl: std::time::Duration::from_secs(ttl_seconds),
        ..UpstreamConfig::at("docker.io", format!("http://{upstream}").parse().unwrap())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Without one, docker.io is a port where nobody listens: no test goes out.
fn docker_io(upstream: Option<SocketAddr>, ttl_seconds: u64) -> UpstreamConfig {
    let upstream = upstream.unwrap_or_else(|| "127.0.0.1:1".parse().unwrap());
    UpstreamConfig {
        tag_ttl: std::time::Duration::from_secs(ttl_seconds),
        ..UpstreamConfig::at("docker.io", format!("http://{upstream}").parse().unwrap())
    }
}

pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

pub fn files_below(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

pub fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// A config, a layer and a manifest.
#[derive(Clone)]
pub struct TestImage {
    pub config: Bytes,
    pub layer: Bytes,
    pub manifest: Bytes,
}

impl TestImage {
    pub fn new(seed: &str, layer_size: usize) -> Self {
        let layer: Bytes = seed
            .bytes()
            .chain((0..layer_size).map(|i| (i * 7 % 251) as u8))
            .collect();
        let config = serde_json::json!({
            "created": "2024-01-02T03:04:05Z", "architecture": "amd64", "os": "linux",
            "config": { "Labels": { "seed": seed } },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).to_string()] },
        });
        let config = Bytes::from(config.to_string());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": {
                "mediaType": media_type::OCI_CONFIG,
                "digest": Digest::of(&config).to_string(), "size": config.len(),
            },
            "layers": [{
                "mediaType": media_type::OCI_LAYER_GZIP,
                "digest": Digest::of(&layer).to_string(), "size": layer.len(),
            }],
        });
        Self {
            config,
            layer,
            manifest: manifest.to_string().into(),
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub fn layer_digest(&self) -> Digest {
        Digest::of(&self.layer)
    }
}

/// An upstream registry: holds content, counts requests, and misbehaves on demand.
pub struct Upstream {
    pub address: SocketAddr,
    pub state: Arc<UpstreamState>,
}

#[derive(Default)]
pub struct UpstreamState {
    tags: Mutex<HashMap<String, Bytes>>,
    manifests: Mutex<HashMap<String, Bytes>>,
    pub blobs: Mutex<HashMap<String, Bytes>>,
    /// Pages of what the referrers API answers; none = it does not know that.
    pub referrers: Mutex<Vec<Bytes>>,
    /// Questions to that.
    pub referrers_requests: AtomicU64,
    /// GETs of blobs, as (digest, Range).
    pub blob_requests: Mutex<Vec<(String, Option<String>)>>,
    /// HEADs and GETs of manifests.
    pub manifest_requests: AtomicU64,
    /// Break blob transfers after so many bytes, once each time it is set; 0 = don't.
    pub break_after: AtomicU64,
    /// Answer everything with this status; 0 = don't.
    pub answer: AtomicU64,
    /// Further headers of every answer about a manifest, and of all that are refused.
    pub headers: Mutex<HeaderMap>,
    /// Blob bodies come a byte at a time, for ever.
    pub trickle: AtomicBool,
    /// Whoever asks for a blob is sent there.
    pub redirect: Mutex<Option<String>>,
    /// Blob bodies wait until this is set.
    pub hold: AtomicBool,
    pub released: tokio::sync::Notify,
}

impl Upstream {
    pub async fn start() -> Self {
        let state = Arc::new(UpstreamState::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route(
                "/v2/{a}/{b}/manifests/{reference}",
                axum::routing::any(manifest),
            )
            .route("/v2/{a}/{b}/blobs/{digest}", axum::routing::any(blob))
            .route(
                "/v2/{a}/{b}/referrers/{digest}",
                axum::routing::any(referrers),
            )
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, state }
    }

    pub fn add(&self, name: &str, image: &TestImage) {
        let s = &self.state;
        let put = |map: &Mutex<HashMap<String, Bytes>>, key: String, value: &Bytes| {
            map.lock().unwrap().insert(key, value.clone());
        };
        put(&s.tags, name.to_owned(), &image.manifest);
        put(&s.manifests, image.digest().to_string(), &image.manifest);
        put(&s.blobs, image.layer_digest().to_string(), &image.layer);
        put(&s.blobs, image.id().to_string(), &image.config);
    }

    /// Puts a manifest of any kind under a tag and its digest.
    pub fn add_manifest(&self, name: &str, content: Bytes) {
        let digest = Digest::of(&content).to_string();
        let mut tags = self.state.tags.lock().unwrap();
        tags.insert(name.to_owned(), content.clone());
        let mut manifests = self.state.manifests.lock().unwrap();
        manifests.insert(digest, content);
    }

    /// Puts other content under a blob's digest.
    pub fn corrupt(&self, digest: &Digest) {
        let mut blobs = self.state.blobs.lock().unwrap();
        let content = blobs.get_mut(&digest.to_string()).unwrap();
        let mut bytes = content.to_vec();
        bytes[0] ^= 1;
        *content = bytes.into();
    }

    pub fn requests_of(&self, digest: &Digest) -> Vec<Option<String>> {
        let wanted = digest.to_string();
        let all = self.state.blob_requests.lock().unwrap();
        all.iter()
            .filter(|(d, _)| *d == wanted)
            .map(|(_, range)| range.clone())
            .collect()
    }

    pub fn release(&self) {
        self.state.hold.store(false, Ordering::SeqCst);
        self.state.released.notify_waiters();
    }
}

fn refused(state: &UpstreamState) -> Option<Response> {
    let status = state.answer.load(Ordering::SeqCst) as u16;
    (status > 0).then(|| plain(StatusCode::from_u16(status).unwrap()))
}

fn plain(status: StatusCode) -> Response {
    Response::builder()
        .status(status)
        .body(Body::empty())
        .unwrap()
}

async fn manifest(
    State(state): State<Arc<UpstreamState>>,
    Path((_, name, reference)): Path<(String, String, String)>,
    _method: Method,
) -> Response {
    state.manifest_requests.fetch_add(1, Ordering::SeqCst);
    let mut response = manifest_of(&state, &name, &reference);
    let headers = state.headers.lock().unwrap().clone();
    response.headers_mut().extend(headers);
    response
}

fn manifest_of(state: &UpstreamState, name: &str, reference: &str) -> Response {
    if let Some(refused) = refused(state) {
        return refused;
    }
    let found = match reference.contains(':') {
        true => state.manifests.lock().unwrap().get(reference).cloned(),
        false => {
            let key = format!("{name}:{reference}");
            state.tags.lock().unwrap().get(&key).cloned()
        }
    };
    let Some(content) = found else {
        return plain(StatusCode::NOT_FOUND);
    };
    let own: serde_json::Value = serde_json::from_slice(&content).unwrap();
    Response::builder()
        .header("content-type", own["mediaType"].as_str().unwrap())
        .header("docker-content-digest", Digest::of(&content).to_string())
        .body(Body::from(content))
        .unwrap()
}

async fn referrers(
    State(state): State<Arc<UpstreamState>>,
    Path((_, name, digest)): Path<(String, String, String)>,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
) -> Response {
    state.referrers_requests.fetch_add(1, Ordering::SeqCst);
    if let Some(refused) = refused(&state) {
        return refused;
    }
    let pages = state.referrers.lock().unwrap().clone();
    let number: usize = query.map_or(0, |n| n.parse().unwrap());
    let Some(page) = pages.get(number) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let mut response = Response::builder().header("content-type", media_type::OCI_INDEX);
    let next = number + 1;
    if next < pages.len() {
        let link = format!("</v2/library/{name}/referrers/{digest}?{next}>; rel=\"next\"");
        response = response.header("link", link);
    }
    response.body(Body::from(page.clone())).unwrap()
}

async fn blob(
    State(state): State<Arc<UpstreamState>>,
    Path((_, _, digest)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let range = headers.get("range").map(|v| v.to_str().unwrap().to_owned());
    state
        .blob_requests
        .lock()
        .unwrap()
        .push((digest.clone(), range.clone()));
    if let Some(mut refused) = refused(&state) {
        let headers = state.headers.lock().unwrap().clone();
        refused.headers_mut().extend(headers);
        return refused;
    }
    let Some(content) = state.blobs.lock().unwrap().get(&digest).cloned() else {
        return plain(StatusCode::NOT_FOUND);
    };
    let total = content.len();
    let (start, end) = range.as_deref().map_or((0, total), |range| {
        let both = range.strip_prefix("bytes=").unwrap();
        let (first, last) = both.split_once('-').unwrap();
        let end = last.parse::<usize>().map_or(total, |last| last + 1);
        (first.parse().unwrap(), end.min(total))
    });
    if let Some(place) = state.redirect.lock().unwrap().clone() {
        let redirect = Response::builder().status(StatusCode::TEMPORARY_REDIRECT);
        let redirect = redirect.header("location", place);
        return redirect.body(Body::empty()).unwrap();
    }
    let body = content.slice(start..end);
    let length = body.len();
    let cut = state.break_after.swap(0, Ordering::SeqCst) as usize;
    let waiting = Arc::clone(&state);
    let stream = async_stream_of(waiting, body, cut);
    let mut response = Response::builder().header("content-length", length);
    if range.is_some() {
        response = response.status(StatusCode::PARTIAL_CONTENT).header(
            "content-range",
            format!("bytes {start}-{}/{total}", end - 1),
        );
    }
    response.body(Body::from_stream(stream)).unwrap()
}

fn async_stream_of(
    state: Arc<UpstreamState>,
    body: Bytes,
    cut: usize,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    futures_util::stream::unfold(
        (state, body, cut, 0_usize),
        |(state, mut body, cut, sent)| async move {
            if body.is_empty() {
                return None;
            }
            if cut > 0 && sent >= cut {
                let broken = std::io::Error::other("broken on purpose");
                return Some((Err(broken), (state, Bytes::new(), 0, 0)));
            }
            // Half of it comes at once, the rest when it is let go.
            while state.hold.load(Ordering::SeqCst) && sent > 0 {
                let released = state.released.notified();
                if !state.hold.load(Ordering::SeqCst) {
                    break;
                }
                released.await;
            }
            let mut want = (body.len() / 2).max(1);
            if state.trickle.load(Ordering::SeqCst) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                want = 1;
            }
            if cut > 0 {
                want = want.min(cut - sent);
            }
            let piece = body.split_to(want);
            Some((Ok(piece), (state, body, cut, sent + want)))
        },
    )
}
