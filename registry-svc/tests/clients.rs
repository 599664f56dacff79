//! Real clients: skopeo and podman push and pull byte-identically, beside Debian's docker-registry as
//! upstream. What is not installed is skipped, and said.

mod support;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use slipway_image::Digest;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_of_another_make_is_mirrored_and_pushed_to() {
    if !installed("skopeo") || !installed("docker-registry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a");
    let image = TestImage::new("upstream", 2_000_000);
    layout(&source, &image);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = dir.path().join("config.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: {port}}}\n",
        dir.path().join("store").display()
    );
    std::fs::write(&config, text).unwrap();
    let _upstream = Running(
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
