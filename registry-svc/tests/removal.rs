//! docker rmi and docker image prune where images share manifests, and beside those who tag.

mod support;

use std::{collections::HashSet, sync::Arc};

use registry_svc::{
    Error,
    images::{filter::Filters, pull::PullRequest, remove::Removed},
    names::{ImageName, Tag},
};
use serde_json::json;
use slipway_image::{Digest, media_type};
use support::{Site, TestImage, client};

/// What `docker manifest create` makes of images that were pushed one by one.
async fn push_index(site: &Site, name: &str, tag: &str, images: &[(&str, &TestImage)]) -> Digest {
    let manifests: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            json!({
                "mediaType": media_type::OCI_MANIFEST,
                "digest": image.digest().to_string(),
                "size": image.manifest.len(),
                "platform": {"os": "linux", "architecture": architecture},
            })
        })
        .collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": manifests,
    })
    .to_string();
    let put = client()
        .put(site.url(&format!("{name}/manifests/{tag}")))
        .header("content-type", media_type::OCI_INDEX)
        .body(index.clone());
    assert_eq!(put.send().await.unwrap().status(), 201);
    Digest::of(&index)
}

async fn is_whole(site: &Site, name: &str, images: &[&TestImage]) -> bool {
    for image in images {
        for path in [
            format!("{name}/manifests/{}", image.digest()),
            format!("{name}/blobs/{}", image.layer_digest()),
        ] {
            if client().get(site.url(&path)).send().await.unwrap().status() != 200 {
                return false;
            }
        }
    }
    true
}

async fn prune(site: &Site, in_use: &HashSet<String>) -> Removed {
    let filters = Filters::default();
    let pruned = site.registry.prune_images(true, &filters, in_use, false);
    pruned.await.unwrap()
}

#[tokio::test]
async fn an_index_keeps_the_images_that_it_is_made_of() {
    let site = Site::start().await;
    let (amd64, arm64) = (TestImage::new("amd64", 1000), TestImage::new("arm64", 2000));
    let both = [&amd64, &arm64];
    site.push_image("app", "amd64", &amd64).await;
    site.push_image("app", "arm64", &arm64).await;
    push_index(
        &site,
        "app",
        "latest",
        &[("amd64", &amd64), ("arm64", &arm64)],
    )
    .await;
    for tag in ["app:amd64", "app:arm64"] {
        let removed = site.registry.remove_image(tag, false).await.unwrap();
        assert_eq!(
            (removed.untagged, removed.deleted),
            (vec![tag.to_owned()], vec![])
        );
        assert!(is_whole(&site, "app", &both).await, "{tag}");
    }
    let part = format!("app@{}", amd64.digest());
    let refused = site.registry.remove_image(&part, false).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Conflict(m) if m.contains("part of a multi-platform image")),
        "{refused}"
    );
    // A container of one platform holds the whole.
    let pruned = prune(&site, &[arm64.id().to_string()].into()).await;
    assert!(pruned.deleted.is_empty() && is_whole(&site, "app", &both).await);
    let pruned = prune(&site, &HashSet::new()).await;
    assert_eq!(pruned.untagged[0], "app:latest");
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn an_image_goes_by_its_id_with_the_index_that_it_is_part_of() {
    let site = Site::start().await;
    let (amd64, arm64) = (TestImage::new("amd64", 1000), TestImage::new("arm64", 2000));
    site.push_image("app", "amd64", &amd64).await;
    site.push_image("app", "arm64", &arm64).await;
    push_index(
        &site,
        "app",
        "latest",
        &[("amd64", &amd64), ("arm64", &arm64)],
    )
    .await;
    let id = amd64.id().to_string();
    let removed = site.registry.remove_image(&id, true).await.unwrap();
    assert_eq!(removed.untagged[..2], ["app:amd64", "app:latest"]);
    assert_eq!(removed.deleted, [id]);
    // The other one has a name of its own.
    assert!(is_whole(&site, "app", &[&arm64]).await);
    site.registry
        .remove_image("app:arm64", false)
        .await
        .unwrap();
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn a_name_by_digest_elsewhere_keeps_an_image() {
    let upstream = support::Upstream::start().await;
    let site = Site::with_upstream(Some(&upstream), 60).await;
    let image = TestImage::new("pinned", 1000);
    upstream.add("library/pinned", &image);
    let pinned = format!("pinned@{}", image.digest());
    let request = PullRequest {
        reference: pinned.clone(),
        ..PullRequest::default()
    };
    let (sender, mut events) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let pull = Arc::clone(&site.registry);
    pull.pull(request, &sender).await.unwrap();
    site.registry.tag_image(&pinned, "my:1").await.unwrap();
    let by_id = image.id().to_string();
    let refused = site.registry.remove_image(&by_id, false).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let removed = site.registry.remove_image("my:1", false).await.unwrap();
    assert_eq!(
        (removed.untagged, removed.deleted),
        (vec!["my:1".to_owned()], vec![])
    );
    assert!(site.registry.find_image(&pinned, None).await.is_ok());
    for dangling in ["true", "false"] {
        let filters = Filters::parse([("dangling", &[dangling.to_owned()][..])], &["dangling"]);
        let mut images = site.registry.images().await.unwrap();
        assert!(filters.unwrap().apply(&mut images[0]), "{dangling}");
    }
    let removed = site.registry.remove_image(&pinned, false).await.unwrap();
    assert_eq!(removed.deleted, [by_id]);
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn a_tag_takes_along_what_an_index_in_an_index_names() {
    let site = Site::start().await;
    let image = TestImage::new("inner", 1000);
    site.push_image("a", "v1", &image).await;
    push_index(&site, "a", "inner", &[("amd64", &image)]).await;
    let inner = site.registry.own.parse_image("a:inner").unwrap();
    let (digest, record) = site.registry.lookup(&inner).unwrap().unwrap();
    let outer = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [{
            "mediaType": media_type::OCI_INDEX,
            "digest": digest.to_string(),
            "size": record.size,
        }],
    });
    let put = client()
        .put(site.url("a/manifests/outer"))
        .header("content-type", media_type::OCI_INDEX)
        .body(outer.to_string());
    assert_eq!(put.send().await.unwrap().status(), 201);
    let source: ImageName = site.registry.own.parse_image("a:outer").unwrap();
    let target = site.registry.own.parse_image("b:x").unwrap();
    let tag = Tag::parse("x").unwrap();
    site.registry
        .tag(&source, &target.repository, &tag)
        .await
        .unwrap();
    for name in ["a:outer", "a:inner", "a:v1"] {
        site.registry.remove_image(name, false).await.unwrap();
    }
    site.registry.sweep().await.unwrap();
    assert!(is_whole(&site, "b", &[&image]).await);
}

/// Whoever is told that an image has a name now finds it whole, whatever is pruned or removed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_tags_beside_prune_and_rmi_has_the_image_or_an_error() {
    let site = Arc::new(Site::start().await);
    let mut kept = 0;
    for round in 0..4 {
        let images: Vec<_> = (0..10)
            .map(|n| TestImage::new(&format!("{round}-{n}"), 500))
            .collect();
        for image in &images {
            site.push_image("app", "latest", image).await;
        }
        let removing = Arc::clone(&site);
        let removing = tokio::spawn(async move {
            let _ = removing.registry.remove_image("app:latest", false).await;
            let nothing = (Filters::default(), HashSet::new());
            let pruned = removing
                .registry
                .prune_images(false, &nothing.0, &nothing.1, false);
            pruned.await.unwrap();
        });
        for image in images.iter().rev() {
            let source = format!("app@{}", image.digest());
            if site.registry.tag_image(&source, "app:kept").await.is_ok() {
                let found = site.registry.find_image("app:kept", None).await;
                assert_eq!(found.unwrap().id, image.id(), "round {round}");
                assert!(is_whole(&site, "app", &[image]).await, "round {round}");
                kept += 1;
            }
        }
        removing.await.unwrap();
        let _ = site.registry.remove_image("app:kept", true).await;
        prune(&site, &HashSet::new()).await;
    }
    assert!(kept > 0);
    site.registry.sweep().await.unwrap();
    assert_eq!(site.blob_bytes(), 0);
}
