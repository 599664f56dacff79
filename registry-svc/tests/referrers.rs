//! What refers to a mirrored image: asked of its upstream, in either form, once in a while.

mod support;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::{Value, json};
use slipway_image::{Digest, media_type};
use support::{Site, TestImage, Upstream, client};

fn descriptor(name: &str, kind: &str) -> Value {
    json!({
        "mediaType": media_type::OCI_MANIFEST,
        "digest": Digest::of(name),
        "size": name.len(),
        "artifactType": kind,
        "annotations": { "name": name },
    })
}

fn index(descriptors: &[&Value]) -> Bytes {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": descriptors,
    });
    index.to_string().into()
}

/// The names of what refers to an image, and whether there is a warning.
async fn referrers(site: &Site, subject: &Digest, query: &str) -> (Vec<String>, bool) {
    let url = site.url(&format!("signed/referrers/{subject}{query}"));
    let response = client().get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let warned = response.headers().get("warning");
    let warned = warned.map(|warning| warning.to_str().unwrap().to_owned());
    assert!(warned.iter().all(|w| w.starts_with("299 - \"")));
    let list: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let manifests = list["manifests"].as_array().unwrap().iter();
    let mut names: Vec<_> = manifests
        .map(|m| m["annotations"]["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    (names, warned.is_some())
}

/// A site that has pulled `signed` from an upstream.
async fn mirroring(upstream: &Upstream, ttl: u64) -> (Site, Digest) {
    let image = TestImage::new("signed", 100);
    upstream.add("signed:latest", &image);
    let site = Site::with_upstream(Some(upstream), ttl).await;
    let url = site.url("signed/manifests/latest");
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    (site, image.digest())
}

#[tokio::test]
async fn an_upstream_that_knows_is_asked_by_the_api_page_by_page() {
    let upstream = Upstream::start().await;
    let (one, two) = (descriptor("one", "a"), descriptor("two", "b"));
    let broken = json!({ "digest": "sha256:bad" });
    *upstream.state.referrers.lock().unwrap() = vec![index(&[&one, &broken]), index(&[&two])];
    let (site, subject) = mirroring(&upstream, 300).await;
    let both = vec!["one".to_owned(), "two".to_owned()];
    assert_eq!(referrers(&site, &subject, "").await, (both, false));
    let filtered = referrers(&site, &subject, "?artifactType=b").await;
    assert_eq!(filtered, (vec!["two".to_owned()], false));
    let asked = upstream.state.referrers_requests.load(Ordering::SeqCst);
    assert_eq!(asked, 2, "one for each page, within the time to live");
}

#[tokio::test]
async fn what_a_mirrored_index_names_has_referrers_before_it_is_fetched() {
    let upstream = Upstream::start().await;
    let platform = descriptor("platform", "");
    upstream.add_manifest("signed:latest", index(&[&platform]));
    *upstream.state.referrers.lock().unwrap() = vec![index(&[&descriptor("one", "a")])];
    let site = Site::with_upstream(Some(&upstream), 300).await;
    let subject = Digest::of("platform");
    // Before that nobody says that it has to do with the upstream.
    assert_eq!(referrers(&site, &subject, "").await, (vec![], false));
    let url = site.url("signed/manifests/latest");
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    let one = vec!["one".to_owned()];
    assert_eq!(referrers(&site, &subject, "").await, (one, false));
}

#[tokio::test]
async fn an_upstream_that_does_not_know_is_asked_for_the_tag_that_clients_keep() {
    let upstream = Upstream::start().await;
    let (site, subject) = mirroring(&upstream, 0).await;
    assert_eq!(referrers(&site, &subject, "").await, (vec![], false));
    let tag = format!("signed:sha256-{}", subject.encoded());
    upstream.add_manifest(&tag, index(&[&descriptor("one", "a")]));
    let one = vec!["one".to_owned()];
    assert_eq!(referrers(&site, &subject, "").await, (one.clone(), false));
    // What was known is told when it does not answer, and that this is so.
    upstream.state.answer.store(503, Ordering::SeqCst);
    assert_eq!(referrers(&site, &subject, "").await, (one, true));
}

#[tokio::test]
async fn an_upstream_is_not_asked_what_refers_to_an_image_of_ours() {
    let upstream = Upstream::start().await;
    *upstream.state.referrers.lock().unwrap() = vec![index(&[&descriptor("theirs", "a")])];
    let site = Site::with_upstream(Some(&upstream), 0).await;
    let image = TestImage::new("ours", 100);
    let subject = site.push_image("signed", "latest", &image).await;
    for subject in [subject, Digest::of("nothing")] {
        assert_eq!(referrers(&site, &subject, "").await, (vec![], false));
    }
    let asked = upstream.state.referrers_requests.load(Ordering::SeqCst);
    assert_eq!(asked, 0);
}

#[tokio::test]
async fn an_upstream_cannot_fill_the_memory() {
    let upstream = Upstream::start().await;
    let of = |name: &str, bytes: usize| {
        let mut descriptor = descriptor(name, "a");
        descriptor["annotations"]["filler"] = "x".repeat(bytes).into();
        index(&[&descriptor])
    };
    let (site, subject) = mirroring(&upstream, 300).await;
    // Each page is one that may be; all of them are too much.
    let pages = ["one", "two", "three"].map(|name| of(name, 3 << 20));
    *upstream.state.referrers.lock().unwrap() = pages.to_vec();
    assert_eq!(referrers(&site, &subject, "").await, (Vec::new(), true));
    // A long answer is passed on, and not remembered.
    *upstream.state.referrers.lock().unwrap() = vec![of("one", 1 << 20)];
    let before = upstream.state.referrers_requests.load(Ordering::SeqCst);
    for _ in 0..2 {
        let found = referrers(&site, &subject, "").await;
        assert_eq!(found, (vec!["one".to_owned()], false));
    }
    let asked = upstream.state.referrers_requests.load(Ordering::SeqCst) - before;
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn an_answer_that_is_no_list_is_an_error_and_not_a_list_of_nothing() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("signed", 10);
    upstream.add("signed:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 0).await;
    let url = site.url("signed/manifests/latest");
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    let subject = image.digest();
    for (body, warns) in [
        ("<html>not today</html>", true),
        ("[]", true),
        (r#"{"errors":[]}"#, true),
        (r#"{"manifests":null}"#, false),
        (r#"{"manifests":[]}"#, false),
    ] {
        *upstream.state.referrers.lock().unwrap() = vec![body.into()];
        let found = referrers(&site, &subject, "").await;
        assert_eq!(found, (Vec::new(), warns), "{body}");
    }
}
