//! The Distribution API by raw HTTP: what clients rely on, request by request.

mod support;

use slipway_image::{Digest, media_type};
use support::{Site, TestImage, client};

#[tokio::test]
async fn a_chunked_upload_is_resumed_and_an_out_of_order_chunk_is_refused() {
    let site = Site::start().await;
    let content = b"hello, chunked world".to_vec();
    let digest = Digest::of(&content);
    let http = client();
    let base = format!("http://{}", site.address);
    let started = http
        .post(site.url("a/b/blobs/uploads/"))
        .send()
        .await
        .unwrap();
    assert_eq!(started.status(), 202);
    let location = started.headers()["location"].to_str().unwrap().to_owned();
    let patch = |range: &str, body: &[u8]| {
        http.patch(format!("{base}{location}"))
            .header("content-range", range)
            .body(body.to_vec())
            .send()
    };
    let first = patch("0-4", &content[..5]).await.unwrap();
    assert_eq!(
        (first.status().as_u16(), &first.headers()["range"]),
        (202, &"0-4".parse().unwrap())
    );
    let wrong = patch("9-13", &content[9..14]).await.unwrap();
    assert_eq!(
        (wrong.status().as_u16(), &wrong.headers()["range"]),
        (416, &"0-4".parse().unwrap())
    );
    let status = http.get(format!("{base}{location}")).send().await.unwrap();
    assert_eq!(
        (status.status().as_u16(), &status.headers()["range"]),
        (204, &"0-4".parse().unwrap())
    );
    assert_eq!(patch("5-9", &content[5..10]).await.unwrap().status(), 202);
    // Another repository's name does not open the session.
    let foreign = location.replace("a/b", "c/d");
    let foreign = http.get(format!("{base}{foreign}")).send().await.unwrap();
    assert_eq!(foreign.status(), 404);
    let end = http
        .put(format!("{base}{location}?digest={digest}"))
        .body(content[10..].to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(end.status(), 201);
    let url = site.url(&format!("a/b/blobs/{digest}"));
    let got = http.get(url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(got, content);
    assert!(support::files_below(&site.dir.path().join("uploads")).is_empty());
}

#[tokio::test]
async fn wrong_content_is_refused_and_leaves_nothing_behind() {
    let site = Site::start().await;
    let promised = Digest::of("promised");
    let url = site.url(&format!("a/blobs/uploads/?digest={promised}"));
    let response = client().post(url).body("delivered").send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(response.text().await.unwrap().contains("DIGEST_INVALID"));
    assert!(support::files_below(&site.dir.path().join("blobs")).is_empty());
    assert!(support::files_below(&site.dir.path().join("uploads")).is_empty());
}

#[tokio::test]
async fn heads_tell_lengths_and_ranges_are_served() {
    let site = Site::start().await;
    let image = TestImage::new("ranges", 1000);
    site.push_image("r", "v1", &image).await;
    let http = client();
    let blob = site.url(&format!("r/blobs/{}", image.layer_digest()));
    for (url, length) in [
        (blob.clone(), image.layer.len()),
        (site.url("r/manifests/v1"), image.manifest.len()),
    ] {
        let head = http.head(url).send().await.unwrap();
        assert_eq!(head.status(), 200);
        let told: usize = head.headers()["content-length"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(told, length);
    }
    let part = http
        .get(&blob)
        .header("range", "bytes=3-5")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), image.layer.slice(3..6));
    let beyond = http
        .get(&blob)
        .header("range", "bytes=99999-")
        .send()
        .await
        .unwrap();
    assert_eq!(beyond.status(), 416);
}

#[tokio::test]
async fn blobs_are_seen_where_they_were_pushed_or_mounted_only() {
    let site = Site::start().await;
    let digest = site.push_blob("one", b"content").await;
    let http = client();
    let elsewhere = site.url(&format!("two/blobs/{digest}"));
    assert_eq!(http.head(&elsewhere).send().await.unwrap().status(), 404);
    let from_nowhere = site.url(&format!("two/blobs/uploads/?mount={digest}&from=three"));
    assert_eq!(http.post(from_nowhere).send().await.unwrap().status(), 202);
    let mount = site.url(&format!("two/blobs/uploads/?mount={digest}&from=one"));
    assert_eq!(http.post(mount).send().await.unwrap().status(), 201);
    assert_eq!(http.head(&elsewhere).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn manifests_must_fit_their_type_and_name_what_is_here() {
    let site = Site::start().await;
    let image = TestImage::new("check", 10);
    let http = client();
    let put = |media_type: &'static str, body: bytes::Bytes| {
        http.put(site.url("m/manifests/v1"))
            .header("content-type", media_type)
            .body(body)
            .send()
    };
    let missing = put(media_type::OCI_MANIFEST, image.manifest.clone())
        .await
        .unwrap();
    assert_eq!(missing.status(), 400);
    assert!(
        missing
            .text()
            .await
            .unwrap()
            .contains("MANIFEST_BLOB_UNKNOWN")
    );
    let shape = put(media_type::OCI_INDEX, image.manifest.clone())
        .await
        .unwrap();
    assert!(shape.text().await.unwrap().contains("MANIFEST_INVALID"));
    let huge = vec![b' '; 4 * 1024 * 1024 + 1];
    let huge = put(media_type::OCI_MANIFEST, huge.into()).await.unwrap();
    assert_eq!(huge.status(), 413);
}

#[tokio::test]
async fn tags_and_catalog_are_paged() {
    let site = Site::start().await;
    let image = TestImage::new("pages", 10);
    for tag in ["c", "a", "b"] {
        site.push_image("p", tag, &image).await;
    }
    site.push_image("q", "x", &image).await;
    let http = client();
    let page = http.get(site.url("p/tags/list?n=2")).send().await.unwrap();
    let link = page.headers()["link"].to_str().unwrap().to_owned();
    assert_eq!(link, "</v2/p/tags/list?n=2&last=b>; rel=\"next\"");
    assert_eq!(
        page.text().await.unwrap(),
        r#"{"name":"p","tags":["a","b"]}"#
    );
    let rest = http
        .get(site.url("p/tags/list?n=2&last=b"))
        .send()
        .await
        .unwrap();
    assert!(!rest.headers().contains_key("link"));
    assert_eq!(rest.text().await.unwrap(), r#"{"name":"p","tags":["c"]}"#);
    let catalog = http.get(site.url("_catalog?n=1")).send().await.unwrap();
    assert!(catalog.headers().contains_key("link"));
    assert_eq!(catalog.text().await.unwrap(), r#"{"repositories":["p"]}"#);
    let unknown = http
        .get(site.url("nowhere/tags/list"))
        .send()
        .await
        .unwrap();
    assert_eq!(unknown.status(), 404);
}

#[tokio::test]
async fn referrers_are_listed_by_subject_and_type() {
    let site = Site::start().await;
    let image = TestImage::new("subject", 10);
    let subject = site.push_image("ref", "v1", &image).await;
    let artifact = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "artifactType": "application/x-signature",
        "config": { "mediaType": media_type::OCI_EMPTY, "digest": image.id().to_string(), "size": image.config.len() },
        "layers": [],
        "subject": { "mediaType": media_type::OCI_MANIFEST, "digest": subject.to_string(), "size": image.manifest.len() },
        "annotations": { "who": "me" },
    })
    .to_string();
    let digest = Digest::of(&artifact);
    let http = client();
    let put = http
        .put(site.url(&format!("ref/manifests/{digest}")))
        .header("content-type", media_type::OCI_MANIFEST)
        .body(artifact)
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 201);
    assert_eq!(
        put.headers()["oci-subject"].to_str().unwrap(),
        subject.to_string()
    );
    let get = async |query: &str| -> serde_json::Value {
        let url = site.url(&format!("ref/referrers/{subject}{query}"));
        let body = http.get(url).send().await.unwrap().bytes().await.unwrap();
        serde_json::from_slice(&body).unwrap()
    };
    let all = get("").await;
    assert_eq!(all["manifests"][0]["digest"], digest.to_string());
    assert_eq!(
        all["manifests"][0]["artifactType"],
        "application/x-signature"
    );
    assert_eq!(all["manifests"][0]["annotations"]["who"], "me");
    let none = get("?artifactType=other").await;
    assert_eq!(none["manifests"], serde_json::json!([]));
}

#[tokio::test]
async fn deleting_a_manifest_frees_what_only_it_named() {
    let site = Site::start().await;
    let (one, two) = (TestImage::new("one", 5000), TestImage::new("two", 7000));
    site.push_image("d", "one", &one).await;
    site.push_image("d", "two", &two).await;
    let http = client();
    let held = site.url(&format!("d/blobs/{}", one.layer_digest()));
    assert_eq!(http.delete(&held).send().await.unwrap().status(), 405);
    let url = site.url(&format!("d/manifests/{}", one.digest()));
    assert_eq!(http.delete(&url).send().await.unwrap().status(), 202);
    assert_eq!(http.get(&url).send().await.unwrap().status(), 404);
    assert_eq!(http.get(&held).send().await.unwrap().status(), 404);
    let left = two.config.len() + two.layer.len() + two.manifest.len();
    assert_eq!(site.blob_bytes(), left as u64);
}
