//! Blobs on their way out: whole, in part, and not at all.

use slipway_image::Digest;

use super::{Registry, refused};

#[tokio::test]
async fn ranges_are_served() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let content: Vec<u8> = (0..2048_u32).map(|n| (n * 7 % 251) as u8).collect();
    let digest = registry.push("a", &content);
    let place = format!("/v2/a/blobs/{digest}");
    let part = |range: &str| registry.ask("GET", &place).header("Range", range).send();
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2047),
        ("bytes=-500", 1548, 2047),
        ("bytes=-5000", 0, 2047),
        ("bytes=2000-5000", 2000, 2047),
    ] {
        let answer = part(range).is(206);
        assert_eq!(answer.body, content[first..=last], "{range}");
        let expected = format!("bytes {first}-{last}/2048");
        assert_eq!(answer.told("content-range"), expected, "{range}");
    }
    for range in ["bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=-0"] {
        let answer = part(range).is(416);
        assert_eq!(answer.told("content-range"), "bytes */2048", "{range}");
    }
    // Several, or in another unit: the whole of it.
    for range in ["bytes=0-1,4-5", "lines=0-1", "bytes=x"] {
        assert_eq!(part(range).is(200).body, content, "{range}");
    }
}

#[tokio::test]
async fn who_has_a_blob_already_is_told_so() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let digest = registry.push("a", b"content");
    let place = format!("/v2/a/blobs/{digest}");
    let answer = registry.get(&place).is(200);
    let tag = answer.told("etag").to_owned();
    assert!(answer.told("cache-control").contains("immutable"));
    for method in ["GET", "HEAD"] {
        let answer = registry
            .ask(method, &place)
            .header("If-None-Match", &tag)
            .send()
            .is(304);
        assert!(answer.body.is_empty());
        assert_eq!(answer.told("etag"), tag);
        registry
            .ask(method, &place)
            .header("If-None-Match", "\"other\"")
            .send()
            .is(200);
    }
    let part = |tag: &str| {
        let ask = registry.ask("GET", &place).header("Range", "bytes=1-2");
        ask.header("If-Range", tag).send()
    };
    assert_eq!(part(&tag).is(206).body, b"on");
    assert_eq!(part("\"other\"").is(200).body, b"content");
    // Only of what is there.
    let missing = format!("/v2/b/blobs/{digest}");
    let ask = registry.ask("GET", &missing).header("If-None-Match", &tag);
    refused(ask.send(), 404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_blob_is_where_it_was_pushed() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let digest = registry.push("a", b"content");
    registry.head(&format!("/v2/a/blobs/{digest}")).is(200);
    let missing = Digest::of("missing");
    for place in [
        format!("/v2/b/blobs/{digest}"),
        format!("/v2/a/blobs/{missing}"),
    ] {
        registry.head(&place).is(404);
        refused(registry.get(&place), 404, "BLOB_UNKNOWN");
        refused(registry.delete(&place), 404, "BLOB_UNKNOWN");
    }
}
