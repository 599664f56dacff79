//! The mirror against an upstream that counts and misbehaves.

mod support;

use std::sync::{Arc, atomic::Ordering};

use registry_svc::{
    Error,
    config::Config,
    images::pull::{Policy, PullEvent, PullRequest},
    mirror::MirrorLimits,
};
use slipway_image::Digest;
use support::{Site, TestImage, Upstream, client};
use tokio::sync::mpsc;

async fn pull(site: &Site, reference: &str, policy: Policy) -> Result<Vec<PullEvent>, Error> {
    let (sender, mut receiver) = mpsc::channel(16);
    let registry = Arc::clone(&site.registry);
    let request = PullRequest {
        reference: reference.into(),
        policy,
        ..PullRequest::default()
    };
    let work = tokio::spawn(async move { registry.pull(request, &sender).await });
    let mut events = Vec::new();
    while let Some(event) = receiver.recv().await {
        events.push(event);
    }
    work.await.unwrap().map(|()| events)
}

#[tokio::test]
async fn many_clients_make_one_transfer_and_one_question() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("single", 3_000_000);
    upstream.add("single:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    upstream.state.hold.store(true, Ordering::SeqCst);

    let mut clients = tokio::task::JoinSet::new();
    for i in 0..8 {
        let (http, base) = (client(), site.url(""));
        let name = ["library/single", "docker.io/library/single"][i % 2];
        let digest = image.layer_digest();
        clients.spawn(async move {
            let manifest = http
                .get(format!("{base}{name}/manifests/latest"))
                .send()
                .await
                .unwrap();
            assert_eq!(manifest.status(), 200);
            let blob = http
                .get(format!("{base}{name}/blobs/{digest}"))
                .send()
                .await
                .unwrap();
            assert_eq!(blob.status(), 200);
            blob.bytes().await.unwrap()
        });
    }
    // And one over the other edge's path.
    let puller = async {
        let events = pull(&site, "single", Policy::Missing).await.unwrap();
        assert!(matches!(events.last(), Some(PullEvent::Done(..))));
    };
    let release = async {
        // All are on their way once the first bytes were asked for.
        while upstream.requests_of(&image.layer_digest()).is_empty() {
            tokio::task::yield_now().await;
        }
        upstream.release();
    };
    tokio::join!(puller, release);
    while let Some(content) = clients.join_next().await {
        assert_eq!(content.unwrap(), image.layer);
    }
    assert_eq!(upstream.requests_of(&image.layer_digest()).len(), 1);
    assert_eq!(upstream.requests_of(&image.id()).len(), 1);
    // One HEAD for the tag and one GET for the manifest.
    assert_eq!(upstream.state.manifest_requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn bytes_pass_through_while_they_arrive_but_the_last_waits_for_the_verdict() {
    use futures_util::StreamExt as _;
    let upstream = Upstream::start().await;
    let image = TestImage::new("through", 2_000_000);
    upstream.add("through:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    pull_manifest(&site, "through").await;
    upstream.corrupt(&image.layer_digest());
    upstream.state.hold.store(true, Ordering::SeqCst);
    let url = site.url(&format!("through/blobs/{}", image.layer_digest()));
    let response = client().get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = response.bytes_stream();
    // The first half is here although upstream holds the second back.
    assert!(!stream.next().await.unwrap().unwrap().is_empty());
    upstream.release();
    let mut broken = false;
    while let Some(piece) = stream.next().await {
        broken |= piece.is_err();
    }
    assert!(broken, "content with a wrong digest must not end well");
    let stat = site.registry.blobs.stat(&image.layer_digest()).await;
    assert_eq!(stat.unwrap(), None);
}

async fn pull_manifest(site: &Site, name: &str) {
    let url = site.url(&format!("{name}/manifests/latest"));
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("broken", 3_000_000);
    upstream.add("broken:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    pull_manifest(&site, "broken").await;
    upstream
        .state
        .break_after
        .store(1_000_000, Ordering::SeqCst);
    let url = site.url(&format!("broken/blobs/{}", image.layer_digest()));
    let got = client().get(url).send().await.unwrap().bytes().await;
    assert_eq!(got.unwrap(), image.layer);
    let requests = upstream.requests_of(&image.layer_digest());
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], None);
    assert_eq!(requests[1].as_deref(), Some("bytes=1000000-"));
}

#[tokio::test]
async fn a_partial_transfer_survives_a_restart_and_a_torn_one_is_started_again() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("restart", 500_000);
    upstream.add("restart:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    pull_manifest(&site, "restart").await;
    let mut dir = site.crash().await;
    let repository = Digest::of("docker.io/library/restart");
    let partial = format!(
        "partial/sha256-{}-{}",
        image.layer_digest().encoded(),
        &repository.encoded()[..16]
    );
    for (left, expected) in [
        (
            image.layer[..200_000].to_vec(),
            vec![Some("bytes=200000-".to_owned())],
        ),
        // A power cut leaves zeros where data should be.
        (
            vec![0; 200_000],
            vec![Some("bytes=200000-".to_owned()), None],
        ),
    ] {
        std::fs::write(dir.path().join(&partial), left).unwrap();
        upstream.state.blob_requests.lock().unwrap().clear();
        let site = Site::reopen(Arc::clone(&dir), Some(upstream.address), 300).await;
        let url = site.url(&format!("restart/blobs/{}", image.layer_digest()));
        let got = client().get(url).send().await.unwrap().bytes().await;
        assert_eq!(got.unwrap(), image.layer);
        assert_eq!(upstream.requests_of(&image.layer_digest()), expected);
        // The last byte is given before the disk has all of them.
        while matches!(
            site.registry.blobs.stat(&image.layer_digest()).await,
            Ok(None)
        ) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        site.registry
            .blobs
            .delete(&image.layer_digest())
            .await
            .unwrap();
        dir = site.crash().await;
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    }
}

#[tokio::test]
async fn wrong_content_from_upstream_is_an_error_and_leaves_nothing() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("wrong", 100_000);
    upstream.add("wrong:latest", &image);
    upstream.corrupt(&image.layer_digest());
    let site = Site::with_upstream(Some(&upstream), 300).await;
    let error = pull(&site, "wrong", Policy::Always).await.err().unwrap();
    assert!(
        matches!(error.root(), Error::DigestMismatch { .. }),
        "{error}"
    );
    assert!(support::files_below(&site.dir.path().join("partial")).is_empty());
    let stat = site.registry.blobs.stat(&image.layer_digest()).await;
    assert_eq!(stat.unwrap(), None);
}

#[tokio::test]
async fn stale_tags_are_served_when_upstream_does_not_answer() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("stale", 1000);
    upstream.add("stale:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 0).await;
    pull_manifest(&site, "stale").await;
    for status in [429, 503] {
        upstream.state.answer.store(status, Ordering::SeqCst);
        let url = site.url("stale/manifests/latest");
        let response = client().get(url).send().await.unwrap();
        assert_eq!(response.status(), 200, "{status}");
        assert!(response.headers().contains_key("warning"), "{status}");
    }
    let events = pull(&site, "stale", Policy::Always).await;
    // The layer is not here and cannot be had: an honest error...
    assert!(events.is_err());
    upstream.state.answer.store(0, Ordering::SeqCst);
    pull(&site, "stale", Policy::Always).await.unwrap();
    upstream.state.answer.store(503, Ordering::SeqCst);
    // ...but with everything here, the pull warns and succeeds.
    let events = pull(&site, "stale", Policy::Always).await.unwrap();
    assert!(events.iter().any(|e| matches!(e, PullEvent::Warning(_))));
}

#[tokio::test]
async fn a_changed_tag_is_found_and_what_is_shared_is_not_fetched_again() {
    let upstream = Upstream::start().await;
    let one = TestImage::new("one", 1000);
    upstream.add("moving:latest", &one);
    let site = Site::with_upstream(Some(&upstream), 0).await;
    pull(&site, "moving", Policy::Always).await.unwrap();
    let requests = upstream.state.blob_requests.lock().unwrap().len();
    pull(&site, "moving", Policy::Always).await.unwrap();
    assert_eq!(upstream.state.blob_requests.lock().unwrap().len(), requests);
    let two = TestImage::new("two", 1000);
    upstream.add("moving:latest", &two);
    let events = pull(&site, "moving", Policy::Always).await.unwrap();
    let Some(PullEvent::Done(_, digest, newer)) = events.last() else {
        panic!("no end");
    };
    assert_eq!((digest, *newer), (&two.digest(), true));
}

#[tokio::test]
async fn what_upstream_does_not_have_is_dockers_error() {
    let upstream = Upstream::start().await;
    let site = Site::with_upstream(Some(&upstream), 0).await;
    let error = pull(&site, "nothing:v9", Policy::Always)
        .await
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "manifest for nothing:v9 not found: manifest unknown"
    );
    upstream.state.answer.store(401, Ordering::SeqCst);
    let error = pull(&site, "nothing", Policy::Always).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "pull access denied for nothing, repository does not exist or may require 'docker login'"
    );
    let error = pull(&site, "nothing", Policy::Never).await.err().unwrap();
    assert_eq!(error.to_string(), "No such image: nothing:latest");
}

#[tokio::test]
async fn a_pushed_tag_is_never_asked_about_upstream() {
    let upstream = Upstream::start().await;
    upstream.add("mine:latest", &TestImage::new("theirs", 10));
    let site = Site::with_upstream(Some(&upstream), 0).await;
    let mine = TestImage::new("mine", 10);
    site.push_image("mine", "latest", &mine).await;
    let url = site.url("mine/manifests/latest");
    let got = client().get(url).send().await.unwrap().bytes().await;
    assert_eq!(got.unwrap(), mine.manifest);
    assert_eq!(upstream.state.manifest_requests.load(Ordering::SeqCst), 0);
}

/// Fetches a layer that its manifest tells of already, with these limits.
async fn layer_within(limits: MirrorLimits, upstream: &Upstream, name: &str) -> (u16, u64) {
    let config = Config {
        mirror: limits,
        ..Config::default()
    };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let site = Site::with(config, dir, Some(upstream.address), 300).await;
    pull_manifest(&site, name).await;
    let layer = TestImage::new(name, 500_000).layer_digest();
    let partial = site.dir.path().join("partial");
    std::fs::write(partial.join("another"), [0; 2000]).unwrap();
    let url = site.url(&format!("{name}/blobs/{layer}"));
    let response = client().get(url).send().await.unwrap();
    let status = response.status().as_u16();
    let _ = response.bytes().await;
    let left = support::files_below(&partial);
    let left = left.iter().map(|file| file.metadata().unwrap().len());
    (status, left.sum())
}

#[tokio::test]
async fn upstreams_do_not_fill_the_disk() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("large", 500_000);
    upstream.add("large:latest", &image);
    let asked = || upstream.requests_of(&image.layer_digest()).len();
    let limits = MirrorLimits::default;
    let too_large = MirrorLimits {
        max_blob: 400_000,
        ..limits()
    };
    let got = layer_within(too_large, &upstream, "large").await;
    assert_eq!(got, (502, 2000));
    let too_full = MirrorLimits {
        min_free: Some(1 << 60),
        ..limits()
    };
    assert_eq!(layer_within(too_full, &upstream, "large").await, (507, 0));
    assert_eq!(asked(), 0);
    // What transfers left that broke off is looked at when one more does.
    let too_much = MirrorLimits {
        partial: 1000,
        ..limits()
    };
    upstream.state.blobs.lock().unwrap().clear();
    for (limits, left) in [(limits(), 2000), (too_much, 0)] {
        let got = layer_within(limits, &upstream, "large").await;
        assert_eq!(got, (404, left));
    }
}
