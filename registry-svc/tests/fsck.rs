//! A check of everything while the service runs: what is broken is found, moved aside, fetched again or told.

mod support;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use registry_svc::{
    Error,
    config::Config,
    fsck::check::{CheckEvent, CheckRequest, Finding, Kind, Summary},
};
use slipway_image::Digest;
use support::{Site, TestImage, Upstream, client};
use tokio::sync::mpsc;

const LOOK: CheckRequest = CheckRequest {
    repair: false,
    restart: false,
    rate: Some(u64::MAX),
};
const MEND: CheckRequest = CheckRequest {
    repair: true,
    ..LOOK
};

async fn check(site: &Site, request: CheckRequest) -> (Vec<Finding>, Summary) {
    let (sender, mut events) = mpsc::channel(1000);
    let summary = site.registry.check(request, &sender).await.unwrap();
    drop(sender);
    let mut found = Vec::new();
    while let Some(event) = events.recv().await {
        if let CheckEvent::Found(finding) = event {
            found.push(finding);
        }
    }
    assert_eq!(summary.found, found.len() as u64);
    let unmended = found.iter().filter(|f| !f.mended).count();
    assert_eq!(summary.unmended, unmended as u64);
    (found, summary)
}

fn place(dir: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.encoded();
    dir.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// Changes a byte, as a bad disk does.
fn rot(dir: &Path, digest: &Digest) {
    let path = place(dir, digest);
    let mut content = std::fs::read(&path).unwrap();
    content[0] ^= 1;
    std::fs::write(path, content).unwrap();
}

async fn get(site: &Site, path: &str) -> (u16, bytes::Bytes) {
    let got = client().get(site.url(path)).send().await.unwrap();
    (got.status().as_u16(), got.bytes().await.unwrap())
}

#[tokio::test]
async fn nothing_is_found_where_all_is_well() {
    let site = Site::start().await;
    let image = TestImage::new("well", 300_000);
    site.push_image("team/app", "v1", &image).await;
    let (found, summary) = check(&site, LOOK).await;
    assert!(found.is_empty(), "{found:?}");
    assert_eq!((summary.blobs, summary.bytes), (3, site.blob_bytes()));
}

#[tokio::test]
async fn an_own_blob_that_rots_is_told_by_the_names_that_it_damages() {
    let site = Site::start().await;
    let (image, other) = (TestImage::new("rot", 10_000), TestImage::new("other", 10));
    for tag in ["v1", "latest"] {
        site.push_image("team/app", tag, &image).await;
    }
    site.push_image("team/other", "v1", &other).await;
    let layer = image.layer_digest();
    rot(site.dir.path(), &layer);
    let (found, _) = check(&site, LOOK).await;
    assert_eq!(
        (found.len(), found[0].kind, found[0].mended),
        (1, Kind::BrokenBlob, false)
    );
    assert_eq!(found[0].damaged, ["team/app:latest", "team/app:v1"]);
    // Looking changes nothing.
    assert!(place(site.dir.path(), &layer).exists());
    let (found, _) = check(&site, MEND).await;
    assert_eq!(
        (found[0].what.clone(), found[0].mended),
        (layer.to_string(), false)
    );
    let url = format!("team/app/blobs/{layer}");
    assert_eq!(get(&site, &url).await.0, 404);
    let kept = site.dir.path().join("blobs/quarantine");
    let kept = support::files_below(&kept);
    assert_eq!(std::fs::read(&kept[0]).unwrap().len(), image.layer.len());
    // Missing from now on, until somebody pushes it again.
    let (found, _) = check(&site, MEND).await;
    assert_eq!((found[0].kind, found.len()), (Kind::MissingBlob, 1));
    site.push_blob("team/app", &image.layer).await;
    assert!(check(&site, LOOK).await.0.is_empty());
    assert_eq!(get(&site, &url).await.1, image.layer);
}

#[tokio::test]
async fn mirrored_content_is_fetched_again() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("mirrored", 200_000);
    upstream.add("app:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    let layer = format!("app/blobs/{}", image.layer_digest());
    assert_eq!(get(&site, "app/manifests/latest").await.0, 200);
    assert_eq!(get(&site, &layer).await.1, image.layer);
    while site
        .registry
        .blobs
        .stat(&image.layer_digest())
        .await
        .unwrap()
        .is_none()
    {
        tokio::task::yield_now().await;
    }
    rot(site.dir.path(), &image.layer_digest());
    rot(site.dir.path(), &image.digest());
    let (found, summary) = check(&site, MEND).await;
    assert_eq!((found.len(), summary.unmended), (2, 0), "{found:?}");
    assert_eq!(upstream.requests_of(&image.layer_digest()).len(), 2);
    assert!(check(&site, LOOK).await.0.is_empty());
    assert_eq!(get(&site, "app/manifests/latest").await.1, image.manifest);
    assert_eq!(get(&site, &layer).await.1, image.layer);
    // With upstream away it is not served broken, and comes when somebody asks later.
    rot(site.dir.path(), &image.layer_digest());
    upstream
        .state
        .answer
        .store(503, std::sync::atomic::Ordering::SeqCst);
    let (found, summary) = check(&site, MEND).await;
    assert_eq!((found.len(), summary.unmended), (1, 1), "{found:?}");
    assert!(
        found[0].text.contains("when somebody pulls it"),
        "{}",
        found[0].text
    );
    upstream
        .state
        .answer
        .store(0, std::sync::atomic::Ordering::SeqCst);
    let back = async || get(&site, &layer).await;
    let until_back = async {
        while back().await.1 != image.layer {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, until_back).await.unwrap();
}

#[tokio::test]
async fn a_broken_manifest_is_not_served() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("served", 10);
    upstream.add("app:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    site.push_image("team/app", "v1", &TestImage::new("own", 10))
        .await;
    assert_eq!(get(&site, "app/manifests/latest").await.0, 200);
    site.registry.close().await.unwrap();
    let dir = site.crash().await;
    for digest in [image.digest(), TestImage::new("own", 10).digest()] {
        rot(dir.path(), &digest);
    }
    let site = Site::reopen(dir, Some(upstream.address), 300).await;
    assert_eq!(get(&site, "app/manifests/latest").await.1, image.manifest);
    assert_eq!(get(&site, "team/app/manifests/v1").await.0, 404);
    let kept = support::files_below(&site.dir.path().join("blobs/quarantine"));
    assert_eq!(kept.len(), 2);
}

/// What a manifest named is known although its content was lost: it goes with it.
#[tokio::test]
async fn what_a_lost_manifest_named_is_not_kept_for_ever() {
    let config = Config {
        grace: std::time::Duration::ZERO,
        ..Config::default()
    };
    let site = Site::with_config(config).await;
    let image = TestImage::new("lost", 100_000);
    let digest = site.push_image("team/app", "v1", &image).await;
    rot(site.dir.path(), &digest);
    let (found, _) = check(&site, MEND).await;
    assert_eq!((found[0].kind, found[0].mended), (Kind::Manifest, false));
    let url = site.url(&format!("team/app/manifests/{digest}"));
    assert_eq!(client().delete(url).send().await.unwrap().status(), 202);
    site.registry.sweep().await.unwrap();
    for gone in [digest, image.id(), image.layer_digest()] {
        assert!(!place(site.dir.path(), &gone).exists(), "{gone}");
    }
    assert!(check(&site, LOOK).await.0.is_empty());
}

#[tokio::test]
async fn index_and_files_are_brought_together_and_left_overs_go() {
    let site = Site::start().await;
    let image = TestImage::new("records", 100);
    let digest = site.push_image("team/app", "v1", &image).await;
    site.push_image("team/app", "v2", &image).await;
    let repository = site.dir.path().join("repositories/docker.io/team/app");
    let index = &site.registry.index;
    let name = site
        .registry
        .own
        .parse_image("team/app")
        .unwrap()
        .repository;
    let tag = |text| registry_svc::names::Tag::parse(text).unwrap();
    // The index forgot a tag, the disk another one and the manifest's link.
    index.remove_tag(&name, &tag("v1")).unwrap();
    std::fs::write(repository.join("_tags/v2"), "{").unwrap();
    let link = repository.join("_manifests/sha256").join(digest.encoded());
    std::fs::remove_file(&link).unwrap();
    let left = repository.join("_tags/.tmp-old");
    let fresh = repository.join("_tags/.tmp-fresh");
    for path in [&left, &fresh] {
        std::fs::write(path, "{").unwrap();
    }
    let hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    std::fs::File::open(&left)
        .unwrap()
        .set_modified(hours_ago)
        .unwrap();
    let (told, _) = check(&site, LOOK).await;
    let mut what: Vec<&str> = told.iter().map(|f| &*f.what).collect();
    what.sort_unstable();
    let link_name = format!("team/app@{digest}");
    assert_eq!(
        what,
        [
            left.to_str().unwrap(),
            "team/app:v1",
            "team/app:v2",
            &link_name
        ]
    );
    assert!(told.iter().all(|f| !f.mended) && left.exists());
    let (mended, summary) = check(&site, MEND).await;
    assert_eq!((mended.len(), summary.unmended), (4, 0), "{mended:?}");
    assert!(fresh.exists() && !left.exists() && link.exists());
    std::fs::remove_file(fresh).unwrap();
    assert!(check(&site, LOOK).await.0.is_empty());
    // And the files say it, too: a crash changes nothing.
    let site = Site::reopen(site.crash().await, None, 0).await;
    for tag in ["v1", "v2"] {
        assert_eq!(
            get(&site, &format!("team/app/manifests/{tag}")).await.1,
            image.manifest
        );
    }
}

#[tokio::test]
async fn a_check_that_is_cut_off_goes_on_where_it_was() {
    let site = Arc::new(Site::start().await);
    let mut digests = Vec::new();
    for number in 0..4 {
        let content = vec![number; 100_000];
        digests.push(site.push_blob("team/app", &content).await);
    }
    digests.sort();
    rot(site.dir.path(), &digests[0]);
    let slow = CheckRequest {
        rate: Some(150_000),
        ..LOOK
    };
    let (sender, mut events) = mpsc::channel(10);
    let registry = Arc::clone(&site.registry);
    let running = tokio::spawn(async move { registry.check(slow, &sender).await });
    while !matches!(events.recv().await.unwrap(), CheckEvent::Found(_)) {}
    // Its report is written before the next blob is begun.
    let report = site.dir.path().join("fsck.json");
    while !report.exists() {
        tokio::task::yield_now().await;
    }
    let (other, _kept) = mpsc::channel(10);
    let busy = site.registry.check(LOOK, &other).await.unwrap_err();
    assert!(matches!(busy, Error::Conflict(_)));
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    // The first is not read again: it would be found whole.
    rot(site.dir.path(), &digests[0]);
    let (found, summary) = check(&site, LOOK).await;
    assert_eq!((found.len(), summary.blobs, summary.bytes), (1, 4, 400_000));
    assert_eq!(found[0].what, digests[0].to_string());
    assert!(!report.exists());
    assert!(check(&site, LOOK).await.0.is_empty());
}

#[tokio::test]
async fn pushes_pulls_and_deletions_go_on_beside_a_check() {
    let site = Arc::new(Site::start().await);
    let busy = {
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            for number in 0..15 {
                let image = TestImage::new(&format!("beside-{number}"), 50_000);
                site.push_image("team/app", "v1", &image).await;
                let layer = format!("team/app/blobs/{}", image.layer_digest());
                assert_eq!(get(&site, &layer).await.1, image.layer);
                let gone = image.id().to_string();
                site.registry.remove_image(&gone, true).await.unwrap();
            }
        })
    };
    while !busy.is_finished() {
        let (found, _) = check(&site, MEND).await;
        assert!(found.is_empty(), "{found:?}");
    }
    busy.await.unwrap();
    site.registry.sweep().await.unwrap();
    assert_eq!(site.blob_bytes(), 0);
}
