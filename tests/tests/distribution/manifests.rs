//! Manifests of all kinds: what comes out is what came in, byte by byte.

use serde_json::{Value, json};
use slipway_image::{Algorithm, Digest, Digester, media_type};

use super::{
    Registry, codes,
    content::{Content, artifact, descriptor, image, index},
    refused,
};

const REPOSITORY: &str = "team/app";

impl Registry {
    /// Sends a manifest by its digest and under a tag, and looks at it by both.
    #[track_caller]
    fn keeps(&self, tag: &str, content: &Content) {
        let digest = content.digest().to_string();
        for reference in [digest.as_str(), tag] {
            let answer = self
                .put(REPOSITORY, reference, content.media_type, &content.bytes)
                .is(201);
            let place = answer.told("location").to_owned();
            assert_eq!(answer.told("docker-content-digest"), digest);
            for target in [place, format!("/v2/{REPOSITORY}/manifests/{reference}")] {
                let got = self
                    .ask("GET", &target)
                    .header("Accept", media_type::OCI_INDEX)
                    .header("Accept", media_type::OCI_MANIFEST)
                    .send()
                    .is(200);
                assert_eq!(got.body, content.bytes, "{tag}");
                assert_eq!(got.told("content-type"), content.media_type);
                assert_eq!(got.told("docker-content-digest"), digest);
                let head = self.head(&target).is(200);
                assert_eq!(head.told("content-type"), content.media_type);
                assert_eq!(head.told("docker-content-digest"), digest);
                let length = content.bytes.len().to_string();
                assert_eq!(head.told("content-length"), length);
            }
        }
    }
}

/// All kinds, what they name pushed before them.
fn kinds(registry: &Registry) -> Vec<(&'static str, Content)> {
    let pushed = |manifest: &Value, kind| {
        let content = Content::new(kind, manifest);
        let digest = content.digest().to_string();
        registry
            .put(REPOSITORY, &digest, kind, &content.bytes)
            .is(201);
        content.descriptor()
    };
    let image = |name| image(registry, REPOSITORY, name);
    let with = |mut manifest: Value, field: &str, value: Value| {
        manifest[field] = value;
        manifest
    };
    let [amd64, arm64] = ["amd64", "arm64"].map(|architecture| {
        let child = pushed(&image(architecture), media_type::OCI_MANIFEST);
        let platform = json!({ "os": "linux", "architecture": architecture });
        with(child, "platform", platform)
    });
    let inner = pushed(&index(std::slice::from_ref(&amd64)), media_type::OCI_INDEX);
    let mut docker = image("docker");
    docker["mediaType"] = media_type::DOCKER_MANIFEST.into();
    docker["config"]["mediaType"] = media_type::DOCKER_CONFIG.into();
    docker["layers"][0]["mediaType"] = media_type::DOCKER_LAYER_GZIP.into();
    let child = pushed(&docker, media_type::DOCKER_MANIFEST);
    let list = with(
        index(&[child]),
        "mediaType",
        media_type::DOCKER_INDEX.into(),
    );
    let mut foreign = image("foreign");
    let mut layer = descriptor(
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        b"elsewhere",
    );
    layer["urls"] = json!(["https://store.example.com/layer"]);
    foreign["layers"].as_array_mut().unwrap().push(layer);
    let mut data = image("data");
    registry.push(REPOSITORY, b"{}");
    let mut given = descriptor(media_type::OCI_EMPTY, b"{}");
    given["data"] = "e30=".into();
    data["layers"].as_array_mut().unwrap().push(given);
    // Nearly as large as any may be.
    let annotations: serde_json::Map<String, Value> = (0..390)
        .map(|n| (format!("annotation-{n}"), "A".repeat(10_000).into()))
        .collect();
    let bare = {
        let mut bare = image("bare");
        bare.as_object_mut().unwrap().remove("mediaType");
        bare
    };
    let oci = |manifest| Content::new(media_type::OCI_MANIFEST, &manifest);
    let many = |manifest| Content::new(media_type::OCI_INDEX, &manifest);
    let kind = "application/vnd.example.kind";
    vec![
        ("image", oci(image("image"))),
        ("without-media-type", oci(bare)),
        ("no-layers", oci(with(image("none"), "layers", json!([])))),
        ("artifact", oci(artifact(registry, REPOSITORY, kind))),
        ("foreign-layer", oci(foreign)),
        ("data", oci(data)),
        (
            "unknown-field",
            oci(with(image("field"), "x", json!({"y": [1.5, null]}))),
        ),
        (
            "large",
            oci(with(image("large"), "annotations", annotations.into())),
        ),
        ("index", many(index(&[amd64.clone(), arm64]))),
        ("empty-index", many(index(&[]))),
        ("nested-index", many(index(&[inner, amd64]))),
        (
            "artifact-index",
            many(with(index(&[]), "artifactType", kind.into())),
        ),
        ("docker", Content::new(media_type::DOCKER_MANIFEST, &docker)),
        ("docker-list", Content::new(media_type::DOCKER_INDEX, &list)),
    ]
}

#[tokio::test]
async fn manifests_of_every_kind_are_kept_as_they_are() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    for (tag, content) in kinds(&registry) {
        registry.keeps(tag, &content);
    }
}

#[tokio::test]
async fn a_manifest_has_the_digest_that_it_was_sent_with() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let content = Content::new(media_type::OCI_MANIFEST, &image(&registry, REPOSITORY, "x"));
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(&content.bytes);
    let digest = digester.finish().to_string();
    let answer = registry
        .put(REPOSITORY, &digest, content.media_type, &content.bytes)
        .is(201);
    assert_eq!(answer.told("docker-content-digest"), digest);
    let got = registry.get(answer.told("location")).is(200);
    assert_eq!(got.told("docker-content-digest"), digest);
    assert_eq!(got.body, content.bytes);
    // Another one's, and none.
    let other = Digest::of("other").to_string();
    for reference in [other.as_str(), "sha256:baddigeststring"] {
        let answer = registry.put(REPOSITORY, reference, content.media_type, &content.bytes);
        refused(answer, 400, "DIGEST_INVALID");
        let status = registry
            .get(&format!("/v2/{REPOSITORY}/manifests/{reference}"))
            .status;
        assert!([400, 404].contains(&status), "{status}");
    }
}

#[tokio::test]
async fn what_a_manifest_names_and_is_not_there_is_told() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let mut manifest = image(&registry, REPOSITORY, "x");
    let layers = manifest["layers"].as_array_mut().unwrap();
    let missing = [b"one", b"two"].map(|layer| descriptor(media_type::OCI_LAYER, layer));
    layers.extend(missing.clone());
    let send = |manifest: &Value, kind| {
        let content = Content::new(kind, manifest);
        registry.put(REPOSITORY, "latest", kind, &content.bytes)
    };
    let answer = send(&manifest, media_type::OCI_MANIFEST).is(400);
    assert_eq!(codes(&answer), ["MANIFEST_BLOB_UNKNOWN"; 2]);
    for (number, layer) in missing.iter().enumerate() {
        let detail = &answer.json()["errors"][number]["detail"];
        assert_eq!(detail["digest"], layer["digest"]);
    }
    // What another repository has is not there either.
    registry.push("team/other", b"one");
    let answer = send(&manifest, media_type::OCI_MANIFEST).is(400);
    assert_eq!(codes(&answer).len(), 2);
    let child = descriptor(media_type::OCI_MANIFEST, b"child");
    let answer = send(&index(&[child]), media_type::OCI_INDEX);
    refused(answer, 400, "MANIFEST_BLOB_UNKNOWN");
    refused(
        registry.get(&format!("/v2/{REPOSITORY}/manifests/latest")),
        404,
        "MANIFEST_UNKNOWN",
    );
}

#[tokio::test]
async fn a_manifest_is_what_it_was_sent_as() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let manifest = image(&registry, REPOSITORY, "x");
    let content = Content::new(media_type::OCI_MANIFEST, &manifest);
    let send = |kind: &str, bytes: &[u8]| registry.put(REPOSITORY, "x", kind, bytes);
    let mut both = manifest.clone();
    both["manifests"] = json!([]);
    let mut first = manifest.clone();
    first["schemaVersion"] = 1.into();
    for (kind, bytes) in [
        (media_type::OCI_INDEX, content.bytes.clone()),
        (media_type::DOCKER_MANIFEST, content.bytes.clone()),
        (media_type::OCI_MANIFEST, both.to_string().into_bytes()),
        (media_type::OCI_MANIFEST, first.to_string().into_bytes()),
        (media_type::OCI_MANIFEST, b"{".to_vec()),
        (media_type::DOCKER_SCHEMA1, content.bytes.clone()),
    ] {
        refused(send(kind, &bytes), 400, "MANIFEST_INVALID");
    }
    let size = 4 << 20;
    let mut large = content.bytes.clone();
    large.resize(size + 1, b' ');
    refused(send(content.media_type, &large), 413, "SIZE_INVALID");
    large.truncate(size);
    send(content.media_type, &large).is(201);
    // Parameters do not count (RFC 9110, 8.3.1), and are not passed on.
    let with = format!("{}; charset=utf-8", content.media_type);
    send(&with, &content.bytes).is(201);
    let target = format!("/v2/{REPOSITORY}/manifests/x");
    let got = registry.get(&target).is(200);
    assert_eq!(got.told("content-type"), content.media_type);
    // Without a header it is what it says itself.
    let ask = registry.ask("PUT", &target);
    ask.body(&content.bytes).send().is(201);
    let got = registry.get(&target).is(200);
    assert_eq!(got.told("content-type"), content.media_type);
    let ask = registry.ask("PUT", &target);
    refused(ask.body("{}").send(), 400, "MANIFEST_INVALID");
}

#[tokio::test]
async fn who_has_a_manifest_already_is_told_so() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let content = Content::new(media_type::OCI_MANIFEST, &image(&registry, REPOSITORY, "x"));
    registry.keeps("x", &content);
    let target = format!("/v2/{REPOSITORY}/manifests/x");
    let tag = registry.get(&target).told("etag").to_owned();
    for method in ["GET", "HEAD"] {
        let ask = registry.ask(method, &target).header("If-None-Match", &tag);
        let answer = ask.send().is(304);
        assert_eq!(
            answer.told("docker-content-digest"),
            content.digest().to_string()
        );
    }
    let other = Content::new(media_type::OCI_MANIFEST, &image(&registry, REPOSITORY, "y"));
    registry.keeps("x", &other);
    let ask = registry.ask("GET", &target).header("If-None-Match", &tag);
    assert_eq!(ask.send().is(200).body, other.bytes);
}

#[tokio::test]
async fn what_was_never_pushed_is_not_there() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let digest = Digest::of("nothing");
    for repository in [REPOSITORY, "no/such"] {
        for reference in ["latest", &digest.to_string()] {
            let target = format!("/v2/{repository}/manifests/{reference}");
            registry.head(&target).is(404);
            refused(registry.get(&target), 404, "MANIFEST_UNKNOWN");
            refused(registry.delete(&target), 404, "MANIFEST_UNKNOWN");
        }
        refused(
            registry.get(&format!("/v2/{repository}/tags/list")),
            404,
            "NAME_UNKNOWN",
        );
        registry.push(REPOSITORY, b"a blob makes no image");
    }
}

#[tokio::test]
async fn a_manifest_of_an_unknown_kind_is_kept_with_what_it_names_of_its_repository() {
    let Some(mut registry) = Registry::start().await else {
        return;
    };
    const KIND: &str = "application/vnd.example.thing.v1+json";
    let blob = |name: &[u8]| descriptor("application/x", name);
    let (own, elsewhere) = (b"its own", b"the layer of another");
    registry.push(REPOSITORY, own);
    let other = image(&registry, "team/other", "another");
    let other = Content::new(media_type::OCI_MANIFEST, &other);
    registry
        .put("team/other", "x", other.media_type, &other.bytes)
        .is(201);
    let content = Content::new(
        KIND,
        &json!({ "things": [{ "in": blob(own) }, blob(elsewhere), blob(b"nowhere")], "n": 1.50 }),
    );
    registry.keeps("thing", &content);
    let target =
        |repository: &str, name: &[u8]| format!("/v2/{repository}/blobs/{}", Digest::of(name));
    // Naming a blob lets nobody read it. With the index gone, too.
    for rebuilt in [false, true] {
        if rebuilt {
            let signal = rustix::process::Signal::TERM;
            registry.site.end_service("registry", signal);
            std::fs::remove_dir_all(registry.site.path("state/registry/index")).unwrap();
            registry.site.start_service("registry").await;
        }
        registry.keeps("thing", &content);
        refused(
            registry.delete(&target(REPOSITORY, own)),
            405,
            "UNSUPPORTED",
        );
        for name in [&elsewhere[..], b"nowhere"] {
            let answer = registry.get(&target(REPOSITORY, name));
            refused(answer, 404, "BLOB_UNKNOWN");
        }
    }
    for kind in ["text/html", "application/json", media_type::OCI_CONFIG] {
        let answer = registry.put(REPOSITORY, "other", kind, b"{}");
        refused(answer, 400, "MANIFEST_INVALID");
    }
    let place = format!("/v2/{REPOSITORY}/manifests/{}", content.digest());
    registry.delete(&place).is(202);
    registry.get(&target(REPOSITORY, own)).is(404);
    registry.get(&target("team/other", elsewhere)).is(200);
}
