//! Several registry-svc, each a process of its own, on one bucket of a real S3 server.

#[path = "../src/bucket/server.rs"]
mod server;
mod support;

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use registry_svc::bucket::{Bucket, settings};
use reqwest::StatusCode;
use server::Server;
use slipway_image::{Digest, media_type};
use support::{TestImage, Upstream, client, files_below};
use tempfile::TempDir;

/// Longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(60);

/// A registry-svc.
struct Service {
    child: Child,
    address: SocketAddr,
    folder: Arc<TempDir>,
}

impl Service {
    /// One that begins with nothing.
    async fn start(server: &Server, prefix: &str, more: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let store = format!("{more}\n[store]\n{}", server.text(prefix));
        std::fs::write(folder.path().join("registry.toml"), store).unwrap();
        Self::on(folder).await
    }

    /// One that goes on where another one ended.
    async fn on(folder: Arc<TempDir>) -> Self {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.path().join("log"))
            .unwrap();
        let at = |name: &str| folder.path().join(name);
        let child = Command::new(env!("CARGO_BIN_EXE_registry-svc"))
            .args(["--http", &address.to_string()])
            .args([Path::new("--state-dir"), &at("state")])
            .args([Path::new("--run-dir"), &at("run")])
            .args([Path::new("--config-dir"), folder.path()])
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let service = Self {
            child,
            address,
            folder,
        };
        let answers = async || client().get(service.url("")).send().await.is_ok();
        eventually("it answers", answers).await;
        service
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Ends it as kill -9 does.
    fn kill(mut self) -> Arc<TempDir> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Arc::clone(&self.folder)
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        client().get(self.url(path)).send().await.unwrap()
    }

    async fn status(&self, path: &str) -> StatusCode {
        self.get(path).await.status()
    }

    async fn delete(&self, path: &str) -> StatusCode {
        let sent = client().delete(self.url(path)).send().await;
        sent.unwrap().status()
    }

    async fn push_blob(&self, name: &str, content: &[u8]) -> StatusCode {
        let digest = Digest::of(content);
        let url = self.url(&format!("{name}/blobs/uploads/?digest={digest}"));
        let sent = client().post(url).body(content.to_vec()).send().await;
        sent.unwrap().status()
    }

    async fn push_manifest(&self, name: &str, tag: &str, image: &TestImage) -> StatusCode {
        let put = client()
            .put(self.url(&format!("{name}/manifests/{tag}")))
            .header("content-type", media_type::OCI_MANIFEST)
            .body(image.manifest.clone());
        put.send().await.unwrap().status()
    }

    async fn push(&self, name: &str, tag: &str, image: &TestImage) {
        for blob in [&image.config, &image.layer] {
            assert_eq!(self.push_blob(name, blob).await, StatusCode::CREATED);
        }
        let put = self.push_manifest(name, tag, image).await;
        assert_eq!(put, StatusCode::CREATED);
    }

    /// The digest that a tag names.
    async fn tag(&self, name: &str, tag: &str) -> Option<String> {
        let answer = self.get(&format!("{name}/manifests/{tag}")).await;
        let digest = answer.headers().get("docker-content-digest")?;
        Some(digest.to_str().unwrap().to_owned())
    }

    /// All of an image can be read, and is what it should be.
    async fn has(&self, name: &str, image: &TestImage) {
        let manifest = self
            .get(&format!("{name}/manifests/{}", image.digest()))
            .await;
        assert_eq!(manifest.bytes().await.unwrap(), image.manifest);
        for blob in [&image.config, &image.layer] {
            let answer = self
                .get(&format!("{name}/blobs/{}", Digest::of(blob)))
                .await;
            assert_eq!(answer.bytes().await.unwrap(), *blob);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < LIMIT, "not after {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_is_told_all_see_at_once() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "coherent", "").await;
    let b = Service::start(server, "coherent", "").await;
    let (first, second) = (TestImage::new("1", 100), TestImage::new("2", 100));
    a.push("team/app", "now", &first).await;
    b.has("team/app", &first).await;
    assert_eq!(
        b.tag("team/app", "now").await,
        Some(first.digest().to_string())
    );
    b.push("team/app", "now", &second).await;
    assert_eq!(
        a.tag("team/app", "now").await,
        Some(second.digest().to_string())
    );
    b.push("team/app", "other", &first).await;
    let tags = a.get("team/app/tags/list").await.text().await.unwrap();
    assert!(tags.contains(r#"["now","other"]"#), "{tags}");
    let catalog = a.get("_catalog").await.text().await.unwrap();
    assert!(catalog.contains("team/app"), "{catalog}");
    // A blob that came here may be named there.
    let third = TestImage::new("3", 100);
    for blob in [&third.config, &third.layer] {
        assert_eq!(a.push_blob("team/app", blob).await, StatusCode::CREATED);
    }
    let put = b.push_manifest("team/app", "third", &third).await;
    assert_eq!(put, StatusCode::CREATED);
    assert_eq!(
        a.delete("team/app/manifests/now").await,
        StatusCode::ACCEPTED
    );
    assert_eq!(b.tag("team/app", "now").await, None);
    let gone = format!("team/app/manifests/{}", first.digest());
    assert_eq!(a.delete(&gone).await, StatusCode::ACCEPTED);
    assert_eq!(b.status(&gone).await, StatusCode::NOT_FOUND);
    let layer = format!("team/app/blobs/{}", first.layer_digest());
    assert_eq!(b.status(&layer).await, StatusCode::NOT_FOUND);
    // A session is where it began.
    let begun = client().post(a.url("team/app/blobs/uploads/")).send().await;
    let begun = begun.unwrap().headers()["location"]
        .to_str()
        .unwrap()
        .to_owned();
    let there = client()
        .get(format!("http://{}{begun}", b.address))
        .send()
        .await;
    assert_eq!(there.unwrap().status(), StatusCode::NOT_FOUND);
    // What a process keeps of it can be thrown away.
    let folder = b.kill();
    std::fs::remove_dir_all(folder.path().join("state")).unwrap();
    let b = Service::on(folder).await;
    b.has("team/app", &second).await;
    b.has("team/app", &third).await;
    assert_eq!(b.status(&gone).await, StatusCode::NOT_FOUND);
    assert_eq!(
        b.tag("team/app", "third").await,
        Some(third.digest().to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_a_crash_cuts_off_leaves_nothing_to_be_seen() {
    let Some(server) = Server::shared() else {
        return;
    };
    let b = Service::start(server, "crash", "").await;
    let image = TestImage::new("large", 20 << 20);
    let mut folder = Service::start(server, "crash", "").await.kill();
    let layer = format!("team/app/blobs/{}", image.layer_digest());
    // At different moments: while it comes, while it goes to the bucket, when it is there.
    for delay in [5, 50, 100, 200, 400] {
        let a = Service::on(Arc::clone(&folder)).await;
        let halves = a.folder.path().join("state/registry/bucket/halves");
        assert_eq!(files_below(&halves), [""; 0].map(std::path::PathBuf::from));
        let url = a.url(&format!(
            "team/app/blobs/uploads/?digest={}",
            image.layer_digest()
        ));
        let push = client().post(url).body(image.layer.clone()).send();
        let push = tokio::spawn(push);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        folder = a.kill();
        let told = push.await.unwrap();
        let seen = b.get(&layer).await;
        match seen.status() {
            StatusCode::OK => assert_eq!(seen.bytes().await.unwrap(), image.layer),
            status => assert!(status == StatusCode::NOT_FOUND && told.is_err()),
        }
    }
    let a = Service::on(folder).await;
    a.push("team/app", "now", &image).await;
    b.has("team/app", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_push_the_same_and_all_agree_in_the_end() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Arc::new(Service::start(server, "race", "").await);
    let b = Arc::new(Service::start(server, "race", "").await);
    let images: Vec<_> = (0..6)
        .map(|n| TestImage::new(&n.to_string(), 50_000))
        .collect();
    let mut pushes = Vec::new();
    for image in &images {
        for service in [&a, &b] {
            let (service, image) = (Arc::clone(service), image.clone());
            pushes.push(tokio::spawn(async move {
                service.push("team/app", "now", &image).await;
            }));
        }
    }
    for push in pushes {
        push.await.unwrap();
    }
    let tag = a.tag("team/app", "now").await.unwrap();
    assert_eq!(b.tag("team/app", "now").await.as_ref(), Some(&tag));
    assert!(images.iter().any(|image| image.digest().to_string() == tag));
    for image in &images {
        a.has("team/app", image).await;
        b.has("team/app", image).await;
    }
}

/// Nobody is promised anything (`grace`), so the sweep of one takes what it may while the other one pushes it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_the_sweep_of_another() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "sweep", "grace = '0s'").await;
    let b = Service::start(server, "sweep", "grace = '0s'").await;
    // All have the same layer.
    let images: Vec<_> = (0..25)
        .map(|n| {
            let mut image = TestImage::new("shared", 30_000);
            let text = String::from_utf8(image.manifest.to_vec()).unwrap();
            let annotated = text.replacen('{', &format!("{{\"annotations\":{{\"n\":\"{n}\"}},"), 1);
            image.manifest = annotated.into();
            image
        })
        .collect();
    let mut kept: Option<&TestImage> = None;
    let mut refused = 0;
    for image in &images {
        let push = async {
            loop {
                let mut told = Vec::new();
                for blob in [&image.config, &image.layer] {
                    told.push(b.push_blob("team/app", blob).await);
                }
                let tag = image.digest().to_string();
                told.push(b.push_manifest("team/app", &tag, image).await);
                if told.iter().all(|status| *status == StatusCode::CREATED) {
                    break;
                }
                // What was removed in between is said to be missing, nothing else.
                let missing = [
                    StatusCode::CREATED,
                    StatusCode::NOT_FOUND,
                    StatusCode::BAD_REQUEST,
                ];
                assert!(
                    told.iter().all(|status| missing.contains(status)),
                    "{told:?}"
                );
                refused += 1;
            }
        };
        let remove = async {
            if let Some(kept) = kept {
                let gone = format!("team/app/manifests/{}", kept.digest());
                assert_eq!(a.delete(&gone).await, StatusCode::ACCEPTED);
            }
        };
        tokio::join!(push, remove);
        a.has("team/app", image).await;
        b.has("team/app", image).await;
        kept = Some(image);
    }
    println!("{refused} manifests came too late");
    let last = images.last().unwrap();
    let gone = format!("team/app/manifests/{}", last.digest());
    assert_eq!(b.delete(&gone).await, StatusCode::ACCEPTED);
    let layer = format!("team/app/blobs/{}", last.layer_digest());
    assert_eq!(a.status(&layer).await, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_to_the_bucket_for_blobs() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "redirect", "").await;
    let settings = a.folder.path().join("registry.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}redirect = true\n")).unwrap();
    let a = Service::on(a.kill()).await;
    let image = TestImage::new("redirect", 300_000);
    a.push("team/app", "now", &image).await;
    a.has("team/app", &image).await;
    let layer = a.url(&format!("team/app/blobs/{}", image.layer_digest()));
    let direct = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = direct.get(&layer).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    let address = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(address.starts_with(&format!("http://127.0.0.1:{}/", server.port)));
    let changed = address.replace("X-Amz-Signature=", "X-Amz-Signature=0");
    let changed = client().get(changed).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::FORBIDDEN);
    let head = direct.head(&layer).send().await.unwrap();
    let length = image.layer.len().to_string();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], *length);
    let part = client()
        .get(&layer)
        .header("range", "bytes=5-9")
        .send()
        .await;
    let part = part.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap(), image.layer[5..10]);
    let known = direct
        .get(&layer)
        .header("if-none-match", format!("\"{}\"", image.layer_digest()));
    assert_eq!(
        known.send().await.unwrap().status(),
        StatusCode::NOT_MODIFIED
    );
    let elsewhere = a.url(&format!("team/other/blobs/{}", image.layer_digest()));
    let elsewhere = direct.get(elsewhere).send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    // A real client.
    let target = a.folder.path().join("copied");
    let copied = Command::new("skopeo")
        .args(["copy", "--src-tls-verify=false"])
        .arg(format!("docker://{}/team/app:now", a.address))
        .arg(format!("dir:{}", target.display()))
        .output()
        .unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let layer = target.join(image.layer_digest().encoded());
    assert_eq!(std::fs::read(layer).unwrap(), image.layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrored_content_is_fetched_once_for_all() {
    let Some(server) = Server::shared() else {
        return;
    };
    let upstream = Upstream::start().await;
    let image = TestImage::new("mirrored", 200_000);
    upstream.add("app:1", &image);
    let more = format!(
        "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{}\"\ninsecure = true\n",
        upstream.address
    );
    let a = Arc::new(Service::start(server, "mirror", &more).await);
    let b = Service::start(server, "mirror", &more).await;
    assert_eq!(
        a.tag("library/app", "1").await,
        Some(image.digest().to_string())
    );
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (a, image) = (Arc::clone(&a), image.clone());
            tokio::spawn(async move { a.has("library/app", &image).await })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap();
    }
    // Who pulls has it before it is stored.
    let config = server.settings("mirror").check().unwrap().unwrap();
    let bucket = Bucket::new(&config).unwrap();
    let stored = async || {
        let journal: Vec<_> = bucket.list("journal", None).try_collect().await.unwrap();
        let (mut stored, mut linked) = (0, 0);
        for entry in journal {
            let entry = bucket.get(&entry.name).await.unwrap().unwrap();
            let entry = String::from_utf8_lossy(&entry);
            stored += entry.matches(r#""do":"stored""#).count();
            linked += entry.matches(r#""do":"link""#).count();
        }
        // With the manifest, whose own link goes without saying.
        stored == 3 && linked >= 2
    };
    eventually("all is in the bucket", stored).await;
    let before = upstream.state.blob_requests.lock().unwrap().len();
    b.has("library/app", &image).await;
    a.has("library/app", &image).await;
    // Two who come one after the other, before it is stored, may both ask.
    let asked = upstream.state.blob_requests.lock().unwrap().len();
    assert!(asked == before && asked < 2 * 8, "{asked}");
    upstream.state.answer.store(503, Ordering::SeqCst);
    assert_eq!(
        b.tag("library/app", "1").await,
        Some(image.digest().to_string())
    );
    b.has("library/app", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_takes_little_memory() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "large", "").await;
    let size = std::env::var("SLIPWAY_LARGE_BLOB").map_or(256, |n| n.parse().unwrap());
    let mut digest = slipway_image::Digester::default();
    let piece: bytes::Bytes = vec![42; 1 << 20].into();
    (0..size).for_each(|_| digest.update(&piece));
    let digest = digest.finish();
    let pieces = (0..size).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let url = a.url(&format!("team/app/blobs/uploads/?digest={digest}"));
    let began = Instant::now();
    let sent = client().post(url).body(body).send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::CREATED);
    let pushed = began.elapsed();
    let mut answer = a.get(&format!("team/app/blobs/{digest}")).await;
    let mut read = slipway_image::Digester::default();
    while let Some(piece) = answer.chunk().await.unwrap() {
        read.update(&piece);
    }
    assert_eq!(read.finish(), digest);
    let status = std::fs::read_to_string(format!("/proc/{}/status", a.child.id())).unwrap();
    let most = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    println!("{size} MiB: pushed in {pushed:?}, {most}");
    let most: u64 = most.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(most < 64 << 10, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_server_there_is_an_error_and_then_all_goes_on() {
    // Its own: the others share one.
    let Some(server) = Server::start() else {
        return;
    };
    let a = Service::start(&server, "away", "").await;
    let image = TestImage::new("away", 100);
    a.push("team/app", "now", &image).await;
    server.stop();
    let answer = a.get("team/app/manifests/now").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    let told = answer.text().await.unwrap();
    assert!(told.contains("the bucket cannot be used now"), "{told}");
    let refused = a.push_blob("team/app", b"new").await;
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    server.go_on();
    let answers = async || a.status("team/app/manifests/now").await == StatusCode::OK;
    eventually("it goes on", answers).await;
    a.has("team/app", &image).await;
    assert_eq!(a.push_blob("team/app", b"new").await, StatusCode::CREATED);
}
