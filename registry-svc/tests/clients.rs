//! Real clients: skopeo and podman push and pull byte-identically, beside Debian's docker-registry as
//! upstream. What is not installed is skipped, and said.

mod support;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use slipway_image::{Digest, media_type};
use support::{Site, TestImage, client};

fn installed(program: &str) -> bool {
    let found = Path::new("/usr/bin").join(program).exists();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

async fn run(program: &str, args: Vec<String>) {
    let program = program.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let output = Command::new(&program).args(&args).output().unwrap();
        (format!("{program} {}", args.join(" ")), output)
    });
    let (line, output) = output.await.unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn copy(from: &str, to: &str) {
    let args = "copy -q --preserve-digests --src-tls-verify=false --dest-tls-verify=false --insecure-policy";
    let args = args.split(' ').chain([from, to]).map(str::to_owned);
    run("skopeo", args.collect()).await;
}

/// An OCI layout with one image.
fn layout(folder: &Path, image: &TestImage) {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for content in [&image.config, &image.layer, &image.manifest] {
        std::fs::write(blobs.join(Digest::of(content).encoded()), content).unwrap();
    }
    std::fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": slipway_image::media_type::OCI_MANIFEST,
        "digest": image.digest().to_string(), "size": image.manifest.len(),
    }]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

fn assert_same(a: &Path, b: &Path) {
    let names = |folder: &Path| {
        let mut names: Vec<_> = support::files_below(&folder.join("blobs"))
            .iter()
            .map(|p| p.file_name().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_pushes_and_pulls_the_same_bytes() {
    if !installed("skopeo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    let image = TestImage::new("skopeo", 2_000_000);
    layout(&source, &image);
    let site = Site::start().await;
    let remote = format!("docker://{}/team/app:v1", site.address);
    copy(&format!("oci:{}", source.display()), &remote).await;
    copy(&remote, &format!("oci:{}", target.display())).await;
    assert_same(&source, &target);
    // And the name that ctl would run it by.
    let name = format!("{}/team/app:v1", site.address);
    let found = site.registry.find_image(&name, None).await.unwrap();
    assert_eq!(found.id, image.id());
}

/// Debian's, which keeps what it has in that folder.
async fn docker_registry(folder: &Path) -> (Running, std::net::SocketAddr) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = folder.join("config.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: {port}}}\n",
        folder.join("store").display()
    );
    std::fs::write(&config, text).unwrap();
    let running = Running(
        Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let http = client();
    while http.get(format!("http://{port}/v2/")).send().await.is_err() {
        tokio::task::yield_now().await;
    }
    (running, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_of_another_make_is_mirrored_and_pushed_to() {
    if !installed("skopeo") || !installed("docker-registry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a");
    let image = TestImage::new("upstream", 2_000_000);
    layout(&source, &image);
    let (_upstream, port) = docker_registry(dir.path()).await;
    let http = client();
    copy(
        &format!("oci:{}", source.display()),
        &format!("docker://{port}/library/up:latest"),
    )
    .await;
    let site = Site::reopen(dir_of_its_own(), Some(port), 0).await;
    for (name, target) in [
        ("up", "b"),
        ("library/up", "c"),
        ("docker.io/library/up", "d"),
    ] {
        let target = dir.path().join(target);
        let from = format!("docker://{}/{name}:latest", site.address);
        copy(&from, &format!("oci:{}", target.display())).await;
        assert_same(&source, &target);
    }
    // Back to it under another name: the layers are mounted there, not sent.
    site.registry.tag_image("up", "other/name:x").await.unwrap();
    let (sender, mut events) = tokio::sync::mpsc::channel(64);
    let request = registry_svc::images::push::PushRequest {
        reference: "other/name:x".into(),
        ..Default::default()
    };
    site.registry.push(request, &sender).await.unwrap();
    drop(sender);
    let mut mounted = 0;
    while let Some(event) = events.recv().await {
        if let registry_svc::images::push::PushEvent::Progress(p) = event {
            mounted += u32::from(p.phase == registry_svc::images::pull::Phase::Mounted);
        }
    }
    assert_eq!(mounted, 2);
    let again = dir.path().join("e");
    let from = format!("docker://{port}/other/name:x");
    copy(&from, &format!("oci:{}", again.display())).await;
    assert_same(&source, &again);
    // A new image: its blobs are really sent.
    let fresh = TestImage::new("fresh", 900_000);
    site.push_image("fresh", "v1", &fresh).await;
    let (sender, mut events) = tokio::sync::mpsc::channel(1024);
    let request = registry_svc::images::push::PushRequest {
        reference: "fresh:v1".into(),
        ..Default::default()
    };
    site.registry.push(request, &sender).await.unwrap();
    events.close();
    let url = format!(
        "http://{port}/v2/library/fresh/blobs/{}",
        fresh.layer_digest()
    );
    let got = http.get(url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(got, fresh.layer);
}

/// A push without its progress.
async fn push(site: &Site, reference: &str) -> registry_svc::Result<()> {
    let (sender, mut events) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let request = registry_svc::images::push::PushRequest {
        reference: reference.to_owned(),
        ..Default::default()
    };
    site.registry.push(request, &sender).await
}

async fn json(response: reqwest::Response) -> serde_json::Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// The tag that clients keep where a registry lists nothing (distribution-spec, "Referrers Tag Schema").
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refers_to_an_image_is_found_where_it_was_pushed_to() {
    if !installed("docker-registry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_remote, port) = docker_registry(dir.path()).await;
    let http = client();
    let site = Site::reopen(dir_of_its_own(), Some(port), 0).await;
    let fresh = TestImage::new("fresh", 9000);
    site.push_image("fresh", "v1", &fresh).await;
    push(&site, "fresh:v1").await.unwrap();
    let referrers = ["signature", "sbom"].map(|kind| {
        let artifact = format!("application/vnd.example.{kind}");
        let content = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": artifact,
            "config": { "mediaType": media_type::OCI_CONFIG, "digest": fresh.id().to_string(),
                        "size": fresh.config.len() },
            "layers": [], "annotations": { "kind": kind },
            "subject": { "mediaType": media_type::OCI_MANIFEST, "digest": fresh.digest().to_string(),
                         "size": fresh.manifest.len() },
        });
        (kind, artifact, content.to_string())
    });
    for (kind, _, content) in &referrers {
        let put = http.put(site.url(&format!("fresh/manifests/{kind}")));
        let put = put.header("content-type", media_type::OCI_MANIFEST);
        assert_eq!(
            put.body(content.clone()).send().await.unwrap().status(),
            201
        );
    }
    let list = format!(
        "http://{port}/v2/library/fresh/manifests/{}",
        fresh.digest().to_string().replace(':', "-")
    );
    // Each is listed once.
    for kind in ["signature", "sbom", "signature"] {
        push(&site, &format!("fresh:{kind}")).await.unwrap();
    }
    let get = http.get(&list).header("accept", media_type::OCI_INDEX);
    let got = get.send().await.unwrap();
    assert_eq!(got.status(), 200);
    assert_eq!(got.headers()["content-type"], media_type::OCI_INDEX);
    let listed = json(got).await;
    let wanted = referrers.map(|(kind, artifact, content)| {
        serde_json::json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(&content).to_string(),
            "size": content.len(), "artifactType": artifact, "annotations": { "kind": kind },
        })
    });
    assert_eq!(listed["manifests"], serde_json::json!(wanted));
    // What stands there and is no list is left as it is, and the push says so.
    let put = http
        .put(&list)
        .header("content-type", media_type::OCI_MANIFEST);
    let put = put.body(fresh.manifest.clone()).send().await.unwrap();
    assert_eq!(put.status(), 201);
    let error = push(&site, "fresh:sbom").await.unwrap_err();
    assert!(error.to_string().contains("list of referrers"), "{error}");
    let get = http.get(&list).header("accept", media_type::OCI_MANIFEST);
    let got = get.send().await.unwrap().bytes().await;
    assert_eq!(got.unwrap(), fresh.manifest);
    // One that lists by itself is given no such tag.
    let remote = Site::start().await;
    let site = Site::reopen(site.crash().await, Some(remote.address), 0).await;
    for kind in ["v1", "sbom"] {
        push(&site, &format!("fresh:{kind}")).await.unwrap();
    }
    let listed = http.get(remote.url("library/fresh/tags/list")).send().await;
    let listed = json(listed.unwrap()).await;
    assert_eq!(listed["tags"], serde_json::json!(["sbom", "v1"]));
}

fn dir_of_its_own() -> std::sync::Arc<tempfile::TempDir> {
    std::sync::Arc::new(tempfile::tempdir().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_pulls_and_pushes() {
    if !installed("podman") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let site = Site::start().await;
    // podman unpacks: the layer must be an archive.
    let mut image = TestImage::new("podman", 0);
    image.layer = vec![0; 1024].into();
    let rebuilt = image_with_plain_layer(&image);
    site.push_image("pod/man", "v1", &rebuilt).await;
    let podman = |args: &[&str]| {
        let root = dir.path().display().to_string();
        let mut all = vec![
            "--root".to_owned(),
            format!("{root}/root"),
            "--runroot".to_owned(),
            format!("{root}/run"),
            "--storage-driver=vfs".to_owned(),
        ];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        run("podman", all)
    };
    let name = format!("{}/pod/man:v1", site.address);
    podman(&["pull", "-q", "--tls-verify=false", &name]).await;
    let target = format!("{}/pod/back:v2", site.address);
    podman(&["push", "-q", "--tls-verify=false", &name, &target]).await;
    let found = site.registry.find_image(&target, None).await.unwrap();
    assert_eq!(found.id, rebuilt.id());
}

fn image_with_plain_layer(image: &TestImage) -> TestImage {
    let digest = Digest::of(&image.layer).to_string();
    let config = serde_json::json!({
        "created": "2024-01-02T03:04:05Z", "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest] },
        "history": [{ "created": "2024-01-02T03:04:05Z", "created_by": "test" }],
    });
    let config = bytes::Bytes::from(config.to_string());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": slipway_image::media_type::OCI_MANIFEST,
        "config": {
            "mediaType": slipway_image::media_type::OCI_CONFIG,
            "digest": Digest::of(&config).to_string(), "size": config.len(),
        },
        "layers": [{
            "mediaType": slipway_image::media_type::OCI_LAYER,
            "digest": digest, "size": image.layer.len(),
        }],
    });
    TestImage {
        config,
        layer: image.layer.clone(),
        manifest: manifest.to_string().into(),
    }
}
