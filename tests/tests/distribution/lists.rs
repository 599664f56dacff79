//! Tags and repositories, page by page.

use serde_json::json;
use slipway_image::media_type;

use super::{
    Registry,
    content::{Content, image},
    refused,
};

const REPOSITORY: &str = "team/app";

impl Registry {
    #[track_caller]
    fn tag(&self, repository: &str, tags: &[&str]) {
        let content = Content::new(media_type::OCI_MANIFEST, &image(self, repository, "x"));
        for tag in tags {
            self.put(repository, tag, content.media_type, &content.bytes)
                .is(201);
        }
    }

    /// A page of a list, and where the next one is.
    #[track_caller]
    fn page(&self, field: &str, target: &str) -> (Vec<String>, Option<String>) {
        let answer = self.get(target).is(200);
        assert_eq!(answer.told("content-type"), "application/json");
        let list = answer.json();
        let entries = list[field].as_array().unwrap().iter();
        let entries = entries.map(|e| e.as_str().unwrap().to_owned()).collect();
        // RFC 8288, as the specification writes it.
        let next = answer.header("link").map(|link| {
            let target = link.strip_prefix('<').unwrap();
            let target = target.strip_suffix(">; rel=\"next\"").unwrap();
            target.to_owned()
        });
        (entries, next)
    }

    /// All of a list, by its links.
    #[track_caller]
    fn all(&self, field: &str, target: &str, size: usize) -> Vec<String> {
        let (mut all, mut next) = self.page(field, target);
        assert!(all.len() <= size);
        while let Some(target) = next {
            let (entries, after) = self.page(field, &target);
            assert!(!entries.is_empty() && entries.len() <= size);
            all.extend(entries);
            next = after;
        }
        all
    }
}

#[tokio::test]
async fn tags_are_listed_in_their_order_page_by_page() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let sorted = ["1.0", "1.0-rc", "2", "a", "B", "b.1", "b_1", "C", "latest"];
    let mut pushed = sorted;
    pushed.reverse();
    registry.tag(REPOSITORY, &pushed);
    let list = format!("/v2/{REPOSITORY}/tags/list");
    let answer = registry.get(&list).is(200);
    assert_eq!(answer.json(), json!({ "name": REPOSITORY, "tags": sorted }));
    for size in 1..=sorted.len() + 1 {
        let all = registry.all("tags", &format!("{list}?n={size}"), size);
        assert_eq!(all, sorted, "{size}");
    }
    for (query, expected, more) in [
        ("n=0", &sorted[..0], false),
        ("n=0&last=a", &sorted[..0], false),
        ("n=2", &sorted[..2], true),
        ("n=9", &sorted[..], false),
        ("n=2&last=2", &sorted[3..5], true),
        ("last=a", &sorted[4..], false),
        ("last=b.1", &sorted[6..], false),
        ("last=latest", &sorted[..0], false),
        // A tag that is not there has its place, too.
        ("last=b", &sorted[5..], false),
        ("n=1&last=b.2", &sorted[6..7], true),
    ] {
        let (tags, next) = registry.page("tags", &format!("{list}?{query}"));
        assert_eq!(tags, expected, "{query}");
        assert_eq!(next.is_some(), more, "{query}");
    }
    for query in ["n=-1", "n=x"] {
        refused(registry.get(&format!("{list}?{query}")), 400, "UNSUPPORTED");
    }
    registry.head(&list).is(200);
}

#[tokio::test]
async fn repositories_are_listed_page_by_page() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let names = ["alpine", "ghcr.io/org/app", "team/app", "team/tool", "zoo"];
    for name in names {
        registry.tag(name, &["latest"]);
    }
    let (all, next) = registry.page("repositories", "/v2/_catalog");
    assert_eq!((all.len(), next), (5, None));
    let paged = registry.all("repositories", "/v2/_catalog?n=2", 2);
    assert_eq!(paged, all);
    for name in names {
        assert!(all.iter().any(|n| n == name), "{name}");
    }
    let (none, next) = registry.page("repositories", "/v2/_catalog?n=0");
    assert_eq!((none.len(), next), (0, None));
    // One that is empty is none.
    registry.delete("/v2/zoo/manifests/latest").is(202);
    let content = Content::new(media_type::OCI_MANIFEST, &image(&registry, "zoo", "x"));
    let digest = content.digest();
    registry
        .delete(&format!("/v2/zoo/manifests/{digest}"))
        .is(202);
    let (left, _) = registry.page("repositories", "/v2/_catalog");
    assert!(!left.iter().any(|n| n == "zoo"), "{left:?}");
    refused(registry.get("/v2/zoo/tags/list"), 404, "NAME_UNKNOWN");
}
