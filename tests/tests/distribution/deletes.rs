//! What is deleted, and what goes with it.

use slipway_image::media_type;

use super::{
    Registry,
    content::{Content, image, index},
    refused,
};

const REPOSITORY: &str = "team/app";

fn place(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

#[tokio::test]
async fn a_tag_goes_alone_and_a_manifest_with_all_its_tags() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let content = Content::new(media_type::OCI_MANIFEST, &image(&registry, REPOSITORY, "x"));
    let digest = content.digest().to_string();
    for tag in ["one", "two", "three"] {
        registry
            .put(REPOSITORY, tag, content.media_type, &content.bytes)
            .is(201);
    }
    registry.delete(&place("one")).is(202);
    refused(registry.get(&place("one")), 404, "MANIFEST_UNKNOWN");
    refused(registry.delete(&place("one")), 404, "MANIFEST_UNKNOWN");
    for reference in ["two", &digest] {
        registry.get(&place(reference)).is(200);
    }
    registry.delete(&place(&digest)).is(202);
    for reference in ["two", "three", &digest] {
        refused(registry.get(&place(reference)), 404, "MANIFEST_UNKNOWN");
        registry.head(&place(reference)).is(404);
    }
    refused(registry.delete(&place(&digest)), 404, "MANIFEST_UNKNOWN");
    // It may come again.
    let again = Content::new(media_type::OCI_MANIFEST, &image(&registry, REPOSITORY, "x"));
    registry
        .put(REPOSITORY, "two", again.media_type, &again.bytes)
        .is(201);
    registry.get(&place("two")).is(200);
}

#[tokio::test]
async fn a_blob_that_a_manifest_names_stays_until_that_goes() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let manifest = image(&registry, REPOSITORY, "x");
    let content = Content::new(media_type::OCI_MANIFEST, &manifest);
    registry
        .put(REPOSITORY, "x", content.media_type, &content.bytes)
        .is(201);
    let blobs = [&manifest["config"], &manifest["layers"][0]]
        .map(|d| format!("/v2/{REPOSITORY}/blobs/{}", d["digest"].as_str().unwrap()));
    for blob in &blobs {
        let answer = refused(registry.delete(blob), 405, "UNSUPPORTED");
        assert_eq!(answer.told("allow"), "GET, HEAD");
        registry.get(blob).is(200);
    }
    registry
        .delete(&place(&content.digest().to_string()))
        .is(202);
    for blob in &blobs {
        let status = registry.delete(blob).status;
        assert!([202, 404].contains(&status), "{status}");
        refused(registry.get(blob), 404, "BLOB_UNKNOWN");
    }
}

#[tokio::test]
async fn an_image_that_an_index_names_goes_with_it_unless_it_has_a_tag() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let children = ["tagged", "other"].map(|name| {
        let manifest = image(&registry, REPOSITORY, name);
        let content = Content::new(media_type::OCI_MANIFEST, &manifest);
        registry
            .put(REPOSITORY, name, content.media_type, &content.bytes)
            .is(201);
        content
    });
    registry.delete(&place("other")).is(202);
    let all = index(&children.each_ref().map(Content::descriptor));
    let all = Content::new(media_type::OCI_INDEX, &all);
    registry
        .put(REPOSITORY, "all", all.media_type, &all.bytes)
        .is(201);
    registry.delete(&place(&all.digest().to_string())).is(202);
    let [tagged, other] = children.map(|c| c.digest().to_string());
    registry.get(&place(&tagged)).is(200);
    registry.get(&place(&other)).is(404);
}
