//! The base, and what is not there.

use super::{Registry, refused};

#[tokio::test]
async fn it_says_what_it_speaks() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    for target in ["/v2/", "/v2"] {
        let answer = registry.get(target).is(200);
        assert_eq!(
            answer.told("docker-distribution-api-version"),
            "registry/2.0"
        );
    }
    registry.head("/v2/").is(200);
    // Also with an answer that is an error.
    let answer = registry.get("/v2/nothing/tags/list");
    assert_eq!(
        answer.told("docker-distribution-api-version"),
        "registry/2.0"
    );
}

#[tokio::test]
async fn what_may_not_be_done_is_told_with_what_may() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let digest = slipway_image::Digest::of("x");
    for (method, target, allowed) in [
        ("POST", "/v2/".to_owned(), "GET, HEAD"),
        ("PUT", "/v2/_catalog".to_owned(), "GET, HEAD"),
        ("DELETE", "/v2/a/tags/list".to_owned(), "GET, HEAD"),
        ("POST", format!("/v2/a/referrers/{digest}"), "GET, HEAD"),
        (
            "POST",
            "/v2/a/manifests/latest".to_owned(),
            "GET, HEAD, PUT, DELETE",
        ),
        (
            "PATCH",
            format!("/v2/a/blobs/{digest}"),
            "GET, HEAD, DELETE",
        ),
        ("GET", "/v2/a/blobs/uploads/".to_owned(), "POST"),
        (
            "POST",
            "/v2/a/blobs/uploads/x".to_owned(),
            "GET, HEAD, PATCH, PUT, DELETE",
        ),
    ] {
        let answer = refused(registry.ask(method, &target).send(), 405, "UNSUPPORTED");
        assert_eq!(answer.told("allow"), allowed, "{method} {target}");
    }
    for target in ["/", "/v1/", "/v2/a", "/v2/a/nothing/b"] {
        registry.get(target).is(404);
    }
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let long = format!("a/{}", "b".repeat(254));
    for name in ["A", "a/../b", "a//b", "-a", "a_-b", long.as_str()] {
        let target = format!("/v2/{name}/tags/list");
        refused(registry.get(&target), 400, "NAME_INVALID");
    }
    for digest in ["sha256:bad", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        for kind in ["blobs", "manifests", "referrers"] {
            let target = format!("/v2/a/{kind}/{digest}");
            refused(registry.get(&target), 400, "DIGEST_INVALID");
        }
    }
}
