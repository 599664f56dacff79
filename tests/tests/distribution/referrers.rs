//! What refers to an image: signatures, lists of packages, and whatever else has a `subject`.

use serde_json::{Value, json};
use slipway_image::{Digest, media_type};

use super::{
    Registry,
    content::{Content, artifact, descriptor, image, index},
    refused,
};

const REPOSITORY: &str = "team/app";
const SIGNATURE: &str = "application/vnd.example.signature";
const PACKAGES: &str = "application/vnd.example.packages";

impl Registry {
    /// Sends what has a subject.
    #[track_caller]
    fn refer(&self, media_type: &'static str, value: &Value) -> Content {
        let content = Content::new(media_type, value);
        let digest = content.digest().to_string();
        let answer = self
            .put(REPOSITORY, &digest, media_type, &content.bytes)
            .is(201);
        assert_eq!(answer.told("oci-subject"), value["subject"]["digest"]);
        content
    }

    /// The list, sorted by digest.
    #[track_caller]
    fn referrers(&self, subject: &Digest, query: &str) -> Vec<Value> {
        let target = format!("/v2/{REPOSITORY}/referrers/{subject}{query}");
        let answer = self.get(&target).is(200);
        assert_eq!(answer.told("content-type"), media_type::OCI_INDEX);
        let filtered = answer.header("oci-filters-applied");
        assert_eq!(
            filtered,
            query.contains("artifactType").then_some("artifactType")
        );
        let list = answer.json();
        assert_eq!(list["schemaVersion"], 2);
        assert_eq!(list["mediaType"], media_type::OCI_INDEX);
        let mut found = list["manifests"].as_array().unwrap().clone();
        found.sort_by_key(|m| m["digest"].to_string());
        found
    }
}

fn sorted(mut descriptors: Vec<Value>) -> Vec<Value> {
    descriptors.sort_by_key(|m| m["digest"].to_string());
    descriptors
}

#[tokio::test]
async fn nothing_refers_to_what_is_not_there() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let digest = Digest::of("nothing");
    assert!(registry.referrers(&digest, "").is_empty());
    assert!(registry.referrers(&digest, "?artifactType=x").is_empty());
    let target = format!("/v2/{REPOSITORY}/referrers/latest");
    refused(registry.get(&target), 400, "DIGEST_INVALID");
}

#[tokio::test]
async fn what_refers_to_an_image_is_listed_with_its_kind_and_annotations() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    // What refers to an image may come before it.
    let subject = Content::new(
        media_type::OCI_MANIFEST,
        &image(&registry, REPOSITORY, "subject"),
    );
    let of = |mut manifest: Value| {
        manifest["subject"] = subject.descriptor();
        manifest
    };
    let annotations = json!({ "org.example.note": "mine", "b": "\u{fc}" });
    let mut signature = of(artifact(&registry, REPOSITORY, SIGNATURE));
    signature["annotations"] = annotations.clone();
    let signature = registry.refer(media_type::OCI_MANIFEST, &signature);
    let mut expected = signature.descriptor();
    expected["artifactType"] = SIGNATURE.into();
    expected["annotations"] = annotations;
    assert_eq!(
        registry.referrers(&subject.digest(), ""),
        [expected.clone()]
    );
    registry
        .put(REPOSITORY, "v1", subject.media_type, &subject.bytes)
        .is(201);
    let mut all = vec![expected.clone()];
    // Without a kind, or with an empty one, an image is of its config's kind...
    for (name, kind) in [("one", None), ("two", Some(""))] {
        let mut manifest = of(image(&registry, REPOSITORY, name));
        if let Some(kind) = kind {
            manifest["artifactType"] = kind.into();
        }
        let content = registry.refer(media_type::OCI_MANIFEST, &manifest);
        let mut expected = content.descriptor();
        expected["artifactType"] = media_type::OCI_CONFIG.into();
        all.push(expected);
    }
    // ...and an index of none.
    let bare = registry.refer(media_type::OCI_INDEX, &of(index(&[])));
    all.push(bare.descriptor());
    let mut packages = of(index(&[]));
    packages["artifactType"] = PACKAGES.into();
    let packages = registry.refer(media_type::OCI_INDEX, &packages);
    let mut listed = packages.descriptor();
    listed["artifactType"] = PACKAGES.into();
    all.push(listed.clone());
    assert_eq!(registry.referrers(&subject.digest(), ""), sorted(all));
    for (kind, found) in [(SIGNATURE, vec![expected]), (PACKAGES, vec![listed])] {
        let query = format!("?artifactType={kind}");
        assert_eq!(registry.referrers(&subject.digest(), &query), found);
    }
    let query = "?artifactType=application%2Fvnd.example.signature";
    assert_eq!(registry.referrers(&subject.digest(), query).len(), 1);
    // Of this repository only.
    let target = format!("/v2/team/other/referrers/{}", subject.digest());
    assert_eq!(registry.get(&target).json()["manifests"], json!([]));
    // What is deleted refers to nothing any more.
    let target = format!("/v2/{REPOSITORY}/manifests/{}", signature.digest());
    registry.delete(&target).is(202);
    assert_eq!(registry.referrers(&subject.digest(), "").len(), 4);
}

#[tokio::test]
async fn what_refers_to_nothing_that_is_there_is_kept() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let mut manifest = artifact(&registry, REPOSITORY, SIGNATURE);
    manifest["subject"] = descriptor(media_type::OCI_MANIFEST, b"missing");
    let content = registry.refer(media_type::OCI_MANIFEST, &manifest);
    let found = registry.referrers(&Digest::of("missing"), "");
    assert_eq!(found[0]["digest"], content.digest().to_string());
}

#[tokio::test]
async fn a_list_that_is_larger_than_a_manifest_may_be_comes_in_pages() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let mut all = Vec::new();
    for number in 0..4 {
        let mut manifest = artifact(&registry, REPOSITORY, SIGNATURE);
        manifest["subject"] = descriptor(media_type::OCI_MANIFEST, b"subject");
        manifest["annotations"] = json!({ "n": number.to_string(), "x": "x".repeat(1_900_000) });
        let content = registry.refer(media_type::OCI_MANIFEST, &manifest);
        all.push(content.digest().to_string());
    }
    all.sort();
    let subject = Digest::of("subject");
    for query in ["", "?artifactType=application%2Fvnd.example.signature"] {
        let mut next = Some(format!("/v2/{REPOSITORY}/referrers/{subject}{query}"));
        let (mut found, mut pages) = (Vec::new(), 0);
        while let Some(target) = next {
            let answer = registry.get(&target).is(200);
            assert!(answer.body.len() <= 4 << 20);
            let filtered = answer.header("oci-filters-applied");
            assert_eq!(filtered.is_some(), !query.is_empty());
            let list = answer.json();
            let list = list["manifests"].as_array().unwrap().clone();
            found.extend(
                list.iter()
                    .map(|m| m["digest"].as_str().unwrap().to_owned()),
            );
            next = answer.header("link").map(|link| {
                let target = link.strip_prefix('<').unwrap();
                let target = target.strip_suffix(">; rel=\"next\"").unwrap();
                target.to_owned()
            });
            pages += 1;
        }
        assert_eq!((found, pages), (all.clone(), 2), "{query}");
    }
}
