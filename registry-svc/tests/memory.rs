//! Large manifests, and what they take of the memory.

mod support;

use std::{sync::Arc, time::Duration};

use registry_svc::large::{LARGE, TURNS};
use slipway_image::{Digest, media_type};
use support::{Patient, Site, TestImage, client};

/// An image whose manifest has so many bytes of annotations.
async fn put(site: &Site, tag: &str, bytes: usize) -> reqwest::Response {
    let image = TestImage::new("app", 10);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["annotations"] = serde_json::json!({ tag: "x".repeat(bytes) });
    let request = client().put(site.url(&format!("app/manifests/{tag}")));
    let request = request.header("content-type", media_type::OCI_MANIFEST);
    request.body(manifest.to_string()).send().await.unwrap()
}

#[tokio::test]
async fn few_large_manifests_are_received_at_once() {
    let site = Site::start().await;
    site.push_image("app", "v1", &TestImage::new("app", 10))
        .await;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(site.registry.large.arrive(Arc::new(Patient)).await.unwrap());
    }
    let mut large = Box::pin(put(&site, "large", LARGE));
    let moment = Duration::from_millis(500);
    assert!(tokio::time::timeout(moment, &mut large).await.is_err());
    assert_eq!(put(&site, "small", LARGE / 2).await.status(), 201);
    turns.pop();
    assert_eq!(large.await.status(), 201);
}

#[tokio::test]
async fn a_manifest_that_would_fill_the_memory_is_refused() {
    let site = Site::start().await;
    let many = vec![r#"{"":0}"#; 590_000].join(",");
    for kind in [media_type::OCI_MANIFEST, "application/x+json"] {
        let content = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","x":[{many}]}}"#);
        let url = site.url(&format!("app/manifests/{}", Digest::of(&content)));
        let request = client().put(url).header("content-type", kind);
        let response = request.body(content).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let said = response.text().await.unwrap();
        assert!(
            said.contains("MANIFEST_INVALID") && said.contains("values"),
            "{said}"
        );
    }
}
