//! What a web page makes a browser on this host do.

mod support;

use slipway_image::Digest;
use support::{Site, TestImage, Upstream, client};

#[tokio::test]
async fn no_web_page_reads_pushes_deletes_or_makes_it_fetch() {
    let upstream = Upstream::start().await;
    let site = Site::with_upstream(Some(&upstream), 0).await;
    let image = TestImage::new("mine", 10);
    site.push_image("team/app", "v1", &image).await;
    let evil = format!("evil.example:{}", site.address.port());
    let blob = Digest::of("theirs");
    let upload = format!("team/app/blobs/uploads/?digest={blob}");
    for (name, value, status) in [
        // Its name leads here now (DNS rebinding): for the browser that is the same origin.
        ("host", &*evil, 421),
        ("origin", "https://evil.example", 403),
        ("sec-fetch-site", "cross-site", 403),
    ] {
        for (method, path) in [
            ("GET", "team/app/manifests/v1"),
            ("GET", "_catalog"),
            ("GET", "library/img/manifests/1"),
            ("POST", &*upload),
            ("DELETE", "team/app/manifests/v1"),
        ] {
            let request = client().request(method.parse().unwrap(), site.url(path));
            let request = request
                .header(name, value)
                .header("content-type", "text/plain");
            let response = request.body("theirs").send().await.unwrap();
            assert_eq!(response.status(), status, "{name} {method} {path}");
        }
    }
    let asked = &upstream.state.manifest_requests;
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert!(site.registry.blobs.stat(&blob).await.unwrap().is_none());
    for host in [
        format!("localhost:{}", site.address.port()),
        site.address.to_string(),
    ] {
        let request = client().get(site.url("team/app/manifests/v1"));
        let response = request.header("host", host).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
}
