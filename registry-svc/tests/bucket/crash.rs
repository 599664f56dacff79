//! `kill -9` at every step of what is done in a bucket: nothing that was acknowledged is lost, others go on, and it
//! can be done again.

use std::{process::Command, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use registry_svc::bucket::Bucket;
use reqwest::StatusCode;
use slipway_fault::inventory;
use slipway_image::{Digest, media_type};

use crate::{
    server::Server,
    service::{Service, eventually},
    support::{TestImage, client},
};

/// What is said in the list of its subject's referrers is more than a journal has between two checkpoints.
const ANNOTATION: usize = 1_300_000;

fn large_manifest(image: &TestImage) -> TestImage {
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG,
            "digest": image.id().to_string(), "size": image.config.len(),
        },
        "layers": [{
            "mediaType": media_type::OCI_LAYER_GZIP,
            "digest": image.layer_digest().to_string(), "size": image.layer.len(),
        }],
        "subject": {
            "mediaType": media_type::OCI_MANIFEST,
            "digest": image.digest().to_string(), "size": image.manifest.len(),
        },
        "annotations": { "text": "x".repeat(ANNOTATION) },
    });
    TestImage {
        manifest: manifest.to_string().into(),
        ..image.clone()
    }
}

/// Sends something; none: nobody answered.
async fn send(request: reqwest::RequestBuilder) -> Option<StatusCode> {
    request.send().await.ok().map(|answer| answer.status())
}

async fn push_blob(service: &Service, name: &str, content: &Bytes) -> Option<StatusCode> {
    let url = format!("{name}/blobs/uploads/?digest={}", Digest::of(content));
    send(client().post(service.url(&url)).body(content.clone())).await
}

async fn push_manifest(
    service: &Service,
    name: &str,
    tag: &str,
    image: &TestImage,
) -> Option<StatusCode> {
    let put = client()
        .put(service.url(&format!("{name}/manifests/{tag}")))
        .header("content-type", media_type::OCI_MANIFEST)
        .body(image.manifest.clone());
    send(put).await
}

/// What is done, step by step, until it dies. Returns what was acknowledged, as names and images.
async fn act(a: &Service, broken: &str, image: &TestImage) -> Vec<(&'static str, TestImage)> {
    let created = Some(StatusCode::CREATED);
    let mut told = Vec::new();
    for blob in [&image.config, &image.layer] {
        push_blob(a, "team/app", blob).await;
    }
    if push_manifest(a, "team/app", "now", image).await == created {
        told.push(("team/app", image.clone()));
    }
    let large = large_manifest(image);
    for blob in [&image.config, &image.layer] {
        push_blob(a, "team/large", blob).await;
    }
    if push_manifest(a, "team/large", "now", &large).await == created {
        told.push(("team/large", large.clone()));
    }
    let short = TestImage::new(&format!("short {}", image.digest()), 100);
    for blob in [&short.config, &short.layer] {
        push_blob(a, "team/short", blob).await;
    }
    push_manifest(a, "team/short", "now", &short).await;
    let gone = a.url(&format!("team/short/manifests/{}", short.digest()));
    send(client().delete(gone)).await;
    // It turns out to be broken.
    send(client().get(a.url(broken))).await;
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_be_killed_at_any_step_in_a_bucket() {
    let Some(server) = Server::shared() else {
        return;
    };
    let grace = "grace = '0s'";
    let b = Service::start(server, "killed", grace).await;
    let bucket = Bucket::new(&server.settings("killed").check().unwrap().unwrap()).unwrap();
    let mut folder = Service::start(server, "killed", grace).await.kill();
    let points = inventory::all().filter(|p| p.name.starts_with("registry.bucket."));
    for (n, point) in points.enumerate() {
        eprintln!("--- {}", point.name);
        let image = TestImage::new(&format!("image {n}"), 9 << 20);
        let (name, broken) = spoilt(&b, &bucket, n).await;
        let told = match point.name {
            "registry.bucket.cleared" => {
                std::fs::remove_dir_all(folder.path().join("state")).unwrap();
                die_at_the_start(&folder, point.name);
                Vec::new()
            }
            _ => {
                let mut a = Service::on(Arc::clone(&folder)).await;
                a.arm(point.name);
                let told = act(&a, &broken, &image).await;
                eventually(point.name, async || a.died_at(point.name)).await;
                assert!(!a.child.wait().unwrap().success());
                told
            }
        };
        for (name, image) in &told {
            b.has(name, image).await;
        }
        let a = Service::on(Arc::clone(&folder)).await;
        for (name, image) in &told {
            a.has(name, image).await;
        }
        // To its end.
        let told = act(&a, &broken, &image).await;
        assert_eq!(told.len(), 2, "{}", point.name);
        for (name, image) in &told {
            a.has(name, image).await;
            b.has(name, image).await;
        }
        assert_eq!(a.status(&broken).await, StatusCode::NOT_FOUND);
        // What there was of it is kept.
        assert!(bucket.size(&name).await.unwrap().is_some());
        let note = name.replacen("blobs", "quarantine", 1);
        assert!(bucket.size(&note).await.unwrap().is_some());
        let halves = a.folder.path().join("state/registry/bucket/halves");
        assert_eq!(std::fs::read_dir(halves).unwrap().count(), 0);
        for (name, image) in &told {
            let gone = format!("{name}/manifests/{}", image.digest());
            assert_eq!(a.delete(&gone).await, StatusCode::ACCEPTED);
        }
        folder = a.kill();
    }
    // The journal was written down, and somebody new has all of it.
    let checkpoints: Vec<_> = bucket
        .list("checkpoints", None)
        .try_collect()
        .await
        .unwrap();
    assert!(!checkpoints.is_empty());
    let image = TestImage::new("last", 100);
    b.push("team/last", "now", &image).await;
    let new = Service::start(server, "killed", grace).await;
    new.has("team/last", &image).await;
}

/// The object of a manifest that is not what it was, and the path of that.
async fn spoilt(b: &Service, bucket: &Bucket, n: usize) -> (String, String) {
    let image = TestImage::new(&format!("spoilt {n}"), 100);
    b.push("team/spoilt", &format!("v{n}"), &image).await;
    let digest = image.digest();
    let folder = format!(
        "blobs/sha256/{}/{}",
        &digest.encoded()[..2],
        digest.encoded()
    );
    let listed: Vec<_> = bucket.list(&folder, None).try_collect().await.unwrap();
    let name = listed[0].name.clone();
    bucket.delete(&name).await.unwrap();
    assert!(bucket.create(&name, "spoilt".into()).await.unwrap());
    (name, format!("team/spoilt/manifests/{digest}"))
}

fn die_at_the_start(folder: &Arc<tempfile::TempDir>, point: &str) {
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("faults").join(point), "kill").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_registry-svc"))
        .args(["--http", "127.0.0.1:0", "--state-dir"])
        .arg(at("state"))
        .arg("--run-dir")
        .arg(at("run"))
        .arg("--config-dir")
        .arg(folder.path())
        .env(slipway_fault::VARIABLE, at("faults"))
        .status();
    assert!(!status.unwrap().success());
    assert!(at("faults").join(format!("{point}.fired")).exists());
}
