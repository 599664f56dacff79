//! What upstreams are asked, and when they are left in peace.

mod support;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use registry_svc::{
    Registry,
    config::UpstreamConfig,
    images::pull::{Policy, PullRequest},
    mirror::Freshness,
};
use reqwest::StatusCode;
use serde_json::json;
use slipway_image::Digest;
use slipway_service::metrics::Metrics;
use support::{Site, TestImage, Upstream, client};

async fn get(site: &Site, name: &str) -> (StatusCode, Option<String>) {
    let url = site.url(&format!("{name}/manifests/latest"));
    let response = client().get(url).send().await.unwrap();
    let warning = response.headers().get("warning");
    let warning = warning.map(|warning| warning.to_str().unwrap().to_owned());
    (response.status(), warning)
}

/// As `ctl pull` does.
async fn pull_by_hand(site: &Site, name: &str) -> registry_svc::Result<()> {
    let (sender, mut events) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let request = PullRequest {
        reference: name.to_owned(),
        policy: Policy::Always,
        manifest_only: true,
        ..PullRequest::default()
    };
    Arc::clone(&site.registry).pull(request, &sender).await
}

fn asked(upstream: &Upstream) -> u64 {
    upstream.state.manifest_requests.load(Ordering::SeqCst)
}

fn metrics(site: &Site) -> String {
    let metrics = Metrics::default();
    site.registry.mirror.counts().register(&metrics);
    metrics.render()
}

fn answer(upstream: &Upstream, status: u64, headers: &[(&'static str, &str)]) {
    upstream.state.answer.store(status, Ordering::SeqCst);
    let headers = headers.iter().map(|(name, value)| {
        let name = http::HeaderName::from_static(name);
        (name, value.parse().unwrap())
    });
    *upstream.state.headers.lock().unwrap() = headers.collect();
}

#[tokio::test]
async fn a_host_that_answers_429_is_left_in_peace_as_long_as_it_says() {
    let upstream = Upstream::start().await;
    upstream.add("here:latest", &TestImage::new("here", 10));
    let site = Site::with_upstream(Some(&upstream), 0).await;
    assert_eq!(get(&site, "here").await, (StatusCode::OK, None));
    answer(&upstream, 429, &[("retry-after", "600")]);
    let (status, warning) = get(&site, "here").await;
    assert_eq!(status, StatusCode::OK);
    assert!(warning.unwrap().contains("429"));
    let before = asked(&upstream);
    // A storm, of other names too: Docker Hub counts the account, not the repository.
    for i in 0..10 {
        assert_ne!(get(&site, &format!("other{i}")).await.0, StatusCode::OK);
        let (status, warning) = get(&site, "here").await;
        assert_eq!(status, StatusCode::OK);
        assert!(warning.unwrap().contains("a moment ago"));
    }
    assert_eq!(asked(&upstream), before);
    let text = metrics(&site);
    for line in [
        r#"slipway_upstream_stale_total{host="docker.io"} 11"#,
        r#"slipway_upstream_put_off_total{host="docker.io"} 20"#,
        r#"slipway_upstream_answers_total{host="docker.io",code="429"} 1"#,
        r#"slipway_upstream_rest_seconds{host="docker.io"} 600"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let state = site.registry.mirror.report()["docker.io"].clone();
    assert!(state.contains("asked again in "), "{state}");
    // Who asks by hand is not put off, and when it answers all ask again.
    answer(&upstream, 0, &[]);
    pull_by_hand(&site, "here").await.unwrap();
    assert_eq!(asked(&upstream), before + 1);
    assert_eq!(get(&site, "here").await, (StatusCode::OK, None));
    assert_eq!(asked(&upstream), before + 2);
    assert!(metrics(&site).contains(r#"slipway_upstream_rest_seconds{host="docker.io"} 0"#));
}

#[tokio::test]
async fn a_rest_ends_by_itself() {
    let upstream = Upstream::start().await;
    upstream.add("back:latest", &TestImage::new("back", 10));
    let site = Site::with_upstream(Some(&upstream), 0).await;
    answer(&upstream, 503, &[("retry-after", "1")]);
    assert_ne!(get(&site, "back").await.0, StatusCode::OK);
    answer(&upstream, 0, &[]);
    assert_ne!(get(&site, "back").await.0, StatusCode::OK);
    let until_back = async {
        while get(&site, "back").await.0 != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, until_back).await.unwrap();
}

#[tokio::test]
async fn one_repository_that_fails_does_not_stop_the_others() {
    let upstream = Upstream::start().await;
    upstream.add("well:latest", &TestImage::new("well", 10));
    let site = Site::with_upstream(Some(&upstream), 0).await;
    for status in [500, 401, 404] {
        answer(&upstream, status, &[("retry-after", "600")]);
        let name = format!("ill{status}");
        assert_ne!(get(&site, &name).await.0, StatusCode::OK);
        answer(&upstream, 0, &[]);
        assert_eq!(get(&site, "well").await, (StatusCode::OK, None), "{status}");
    }
}

#[tokio::test]
async fn blobs_are_not_asked_for_while_their_host_wants_peace() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("blobs", 10);
    upstream.add("blobs:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 0).await;
    get(&site, "blobs").await;
    answer(&upstream, 429, &[("retry-after", "600")]);
    for asked in 0..5 {
        let url = site.url(&format!("blobs/blobs/{}", image.layer_digest()));
        let got = client().get(url).send().await.unwrap();
        let again = got.headers().get("retry-after");
        let again = again.map(|seconds| seconds.to_str().unwrap());
        // Only the first one meets the upstream.
        let (status, told) = match asked {
            0 => (429, Some("600")),
            _ => (502, None),
        };
        assert_eq!((got.status().as_u16(), again), (status, told));
    }
    assert_eq!(upstream.requests_of(&image.layer_digest()).len(), 1);
    // Manifests are counted apart.
    answer(&upstream, 0, &[]);
    assert_eq!(get(&site, "blobs").await, (StatusCode::OK, None));
}

#[tokio::test]
async fn what_an_upstream_lacks_is_remembered_for_a_moment() {
    let upstream = Upstream::start().await;
    let site = Site::with_upstream(Some(&upstream), 0).await;
    for (status, name) in [(0, "lost"), (401, "secret")] {
        answer(&upstream, status, &[]);
        let before = asked(&upstream);
        for _ in 0..5 {
            assert_eq!(get(&site, name).await.0, StatusCode::NOT_FOUND);
        }
        assert_eq!(asked(&upstream), before + 1, "{name}");
        assert!(pull_by_hand(&site, name).await.is_err());
        assert_eq!(asked(&upstream), before + 2, "{name}");
        upstream.add(&format!("{name}:latest"), &TestImage::new(name, 10));
    }
    let text = metrics(&site);
    let line = r#"slipway_upstream_remembered_total{host="docker.io"} 8"#;
    assert!(text.contains(line), "{text}");
    // It is there now, and whoever asks by hand finds it for all.
    answer(&upstream, 0, &[]);
    pull_by_hand(&site, "lost").await.unwrap();
    assert_eq!(get(&site, "lost").await, (StatusCode::OK, None));
    // What is pushed here is not hidden.
    assert_eq!(get(&site, "mine").await.0, StatusCode::NOT_FOUND);
    site.push_image("mine", "latest", &TestImage::new("mine", 10))
        .await;
    assert_eq!(get(&site, "mine").await, (StatusCode::OK, None));
}

#[tokio::test]
async fn what_an_upstream_says_of_its_limits_is_shown() {
    let upstream = Upstream::start().await;
    upstream.add("limited:latest", &TestImage::new("limited", 10));
    let site = Site::with_upstream(Some(&upstream), 0).await;
    let figures = [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "76;w=21600"),
        ("docker-ratelimit-source", "192.0.2.1"),
    ];
    answer(&upstream, 0, &figures);
    assert_eq!(get(&site, "limited").await.0, StatusCode::OK);
    let text = metrics(&site);
    for line in [
        r#"slipway_upstream_ratelimit_limit{host="docker.io"} 100"#,
        r#"slipway_upstream_ratelimit_remaining{host="docker.io"} 76"#,
        r#"slipway_upstream_ratelimit_window_seconds{host="docker.io"} 21600"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let state = site.registry.mirror.report()["docker.io"].clone();
    let told = "76 of 100 requests left in 6 h, counted for 192.0.2.1";
    assert!(state.ends_with(told), "{state}");
}

#[tokio::test]
async fn a_name_that_was_ours_is_not_told_to_an_upstream() {
    let upstream = Upstream::start().await;
    let site = Site::with_upstream(Some(&upstream), 0).await;
    let name = "library/plans";
    site.push_image(name, "v1", &TestImage::new("plans", 10))
        .await;
    let before = asked(&upstream);
    assert_eq!(get(&site, name).await.0, StatusCode::NOT_FOUND);
    let digest = TestImage::new("plans", 10).digest();
    let url = site.url(&format!("{name}/manifests/{digest}"));
    assert_eq!(client().delete(url).send().await.unwrap().status(), 202);
    let dir = site.crash().await;
    let site = Site::reopen(dir, Some(upstream.address), 0).await;
    for reference in ["latest", "v1", digest.to_string().as_str()] {
        let url = site.url(&format!("{name}/manifests/{reference}"));
        assert_eq!(client().get(url).send().await.unwrap().status(), 404);
    }
    assert_eq!(asked(&upstream), before);
    // Whoever pulls it by hand means the upstream's, and from then on it is mirrored.
    upstream.add("plans:latest", &TestImage::new("theirs", 10));
    pull_by_hand(&site, name).await.unwrap();
    upstream.add("plans:other", &TestImage::new("others", 10));
    let url = site.url(&format!("{name}/manifests/other"));
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    // What is tagged here beside what is mirrored changes nothing of that.
    site.push_image(name, "dev", &TestImage::new("dev", 10))
        .await;
    upstream.add("plans:third", &TestImage::new("third", 10));
    let url = site.url(&format!("{name}/manifests/third"));
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_manifest_of_a_form_that_nobody_knows_is_mirrored_byte_for_byte() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("wheel", 1000);
    upstream.add("parts:latest", &image);
    let layer = image.layer_digest();
    let kind = "application/vnd.example.wheel.v9+json";
    let manifest = json!({
        "mediaType": kind, "spokes": [{
            "mediaType": "application/octet-stream", "digest": layer, "size": image.layer.len(),
        }],
    });
    let content = Bytes::from(format!("{manifest:#}\n"));
    upstream.add_manifest("wheel:latest", content.clone());
    let site = Site::with_upstream(Some(&upstream), 0).await;
    for reference in ["latest", Digest::of(&content).to_string().as_str()] {
        let url = site.url(&format!("wheel/manifests/{reference}"));
        let response = client().get(url).send().await.unwrap();
        assert_eq!(response.status(), 200, "{reference}");
        assert_eq!(response.headers()["content-type"], kind);
        assert_eq!(response.bytes().await.unwrap(), content);
    }
    let url = site.url(&format!("wheel/blobs/{layer}"));
    let response = client().get(url).send().await.unwrap();
    assert_eq!(response.bytes().await.unwrap(), image.layer);
    let name = site.registry.own.parse_image("wheel").unwrap();
    let found = site.registry.find_manifest(&name, Freshness::Any, None);
    assert_eq!(found.await.unwrap().stored.content, content);
}

fn layer_url(site: &Site, name: &str, image: &TestImage) -> String {
    site.url(&format!("{name}/blobs/{}", image.layer_digest()))
}

#[tokio::test]
async fn an_upstream_that_sends_next_to_nothing_is_given_up() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("trickle", 1_000_000);
    upstream.add("trickle:latest", &image);
    let quick = UpstreamConfig {
        timeout: Duration::from_millis(200),
        ..UpstreamConfig::at(
            "docker.io",
            format!("http://{}", upstream.address).parse().unwrap(),
        )
    };
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let site = Site::mirroring(folder, quick).await;
    assert_eq!(get(&site, "trickle").await.0, StatusCode::OK);
    upstream.state.trickle.store(true, Ordering::SeqCst);
    let blob = |registry: Arc<Registry>| {
        let digest = image.layer_digest();
        async move {
            let repository = registry.own.from_http("library/trickle", None).unwrap();
            let flight = registry.fetch_blob(&repository, &digest, None, None).await;
            flight.unwrap().unwrap().done().await
        }
    };
    let given_up = tokio::time::timeout(Duration::from_secs(60), blob(Arc::clone(&site.registry)));
    let error = given_up.await.expect("it is given up").unwrap_err();
    assert!(
        error.to_string().contains("less than 1024 bytes a second"),
        "{error}"
    );
    // Each try went on where the one before stopped, and what came is kept for the next.
    let asked = upstream.requests_of(&image.layer_digest());
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[1..].iter().all(Option::is_some), "{asked:?}");
    upstream.state.trickle.store(false, Ordering::SeqCst);
    let size = blob(Arc::clone(&site.registry)).await.unwrap();
    assert_eq!(size, image.layer.len() as u64);
    let asked = upstream.requests_of(&image.layer_digest());
    assert!(asked[4].is_some(), "{asked:?}");
}

#[tokio::test]
async fn a_redirect_that_is_refused_is_asked_for_once() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("away", 10);
    upstream.add("away:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    get(&site, "away").await;
    let inside = "http://169.254.169.254/latest".to_owned();
    *upstream.state.redirect.lock().unwrap() = Some(inside);
    let got = client().get(layer_url(&site, "away", &image)).send().await;
    let got = got.unwrap();
    assert_eq!(got.status(), StatusCode::BAD_GATEWAY);
    let said = got.text().await.unwrap();
    assert!(said.contains("redirect is refused"), "{said}");
    assert_eq!(upstream.requests_of(&image.layer_digest()).len(), 1);
}

#[tokio::test]
async fn a_storm_of_pulls_asks_a_host_that_answers_429_little() {
    let upstream = Upstream::start().await;
    let images: Vec<_> = (0..100)
        .map(|n| TestImage::new(&format!("storm{n}"), 10))
        .collect();
    for (n, image) in images.iter().enumerate() {
        upstream.add(&format!("storm{n}:latest"), image);
    }
    let site = Site::with_upstream(Some(&upstream), 300).await;
    for n in 0..100 {
        get(&site, &format!("storm{n}")).await;
    }
    answer(&upstream, 429, &[("retry-after", "600")]);
    let before = asked(&upstream);
    // New names, and blobs of those that are known, all at the same moment.
    let site = &site;
    let names = (0..100).map(|n| async move { get(site, &format!("new{n}")).await.0 });
    let statuses = futures_util::future::join_all(names).await;
    // Who looks before he pushes goes on, also where the 429 itself was met.
    let missing = |status: &StatusCode| *status == StatusCode::NOT_FOUND;
    assert!(statuses.iter().all(missing), "{statuses:?}");
    let manifests = asked(&upstream) - before;
    assert!((1..=16).contains(&manifests), "{manifests}");
    let blobs = images.iter().enumerate().map(|(n, image)| {
        let get = client().get(layer_url(site, &format!("storm{n}"), image));
        async move { get.send().await.unwrap().status() }
    });
    let statuses = futures_util::future::join_all(blobs).await;
    assert!(statuses.iter().all(|status| *status != StatusCode::OK));
    let blobs = upstream.state.blob_requests.lock().unwrap().len();
    assert!((1..=16).contains(&blobs), "{blobs}");
}
