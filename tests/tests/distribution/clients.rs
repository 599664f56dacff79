//! Clients of other makes: what they do with a registry, each in its own way.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use slipway_image::{Digest, media_type};
use slipway_tests::installed;

use super::{
    ADDRESS, Registry,
    content::{Content, artifact, image, index},
};

const REPOSITORY: &str = "team/app";

impl Registry {
    /// Runs a program to its end; what it said.
    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.site.output(program, arguments);
        let line = arguments.join(" ");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {line}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn skopeo(&self, verb: &str, arguments: &str) -> String {
        let (options, arguments) = arguments.split_once('|').unwrap_or(("", arguments));
        let words = format!("--insecure-policy {verb} {options} {arguments}");
        self.run("skopeo", &words.split_whitespace().collect::<Vec<_>>())
    }

    /// Pushes a manifest under a tag.
    #[track_caller]
    fn tagged(
        &self,
        repository: &str,
        tag: &str,
        media_type: &'static str,
        value: &Value,
    ) -> Content {
        let content = Content::new(media_type, value);
        self.put(repository, tag, media_type, &content.bytes)
            .is(201);
        content
    }

    #[track_caller]
    fn manifest(&self, repository: &str, reference: &str) -> Vec<u8> {
        let target = format!("/v2/{repository}/manifests/{reference}");
        self.get(&target).is(200).body
    }
}

/// An index of two images, whose only common name is its tag.
fn two_platforms(registry: &Registry, tag: &str) -> Content {
    let children = ["amd64", "arm64"].map(|architecture| {
        let value = image(registry, REPOSITORY, architecture);
        let content = Content::new(media_type::OCI_MANIFEST, &value);
        let digest = content.digest().to_string();
        registry
            .put(REPOSITORY, &digest, content.media_type, &content.bytes)
            .is(201);
        let mut descriptor = content.descriptor();
        descriptor["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        descriptor
    });
    registry.tagged(REPOSITORY, tag, media_type::OCI_INDEX, &index(&children))
}

/// The names of all files of a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[tokio::test]
async fn skopeo_lists_inspects_copies_and_deletes() {
    let Some(registry) = Registry::start().await.filter(|_| installed(&["skopeo"])) else {
        return;
    };
    let value = image(&registry, REPOSITORY, "x");
    let one = registry.tagged(REPOSITORY, "v1", media_type::OCI_MANIFEST, &value);
    registry.tagged(REPOSITORY, "V2", media_type::OCI_MANIFEST, &value);
    let all = two_platforms(&registry, "all");
    let name = format!("docker://{ADDRESS}/{REPOSITORY}");
    let plain = "--tls-verify=false|";
    let listed: Value =
        serde_json::from_str(&registry.skopeo("list-tags", &format!("{plain}{name}"))).unwrap();
    assert_eq!(listed["Tags"], serde_json::json!(["all", "v1", "V2"]));
    let inspected = registry.skopeo("inspect", &format!("{plain}{name}:v1"));
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Digest"], one.digest().to_string());
    assert_eq!(inspected["Labels"]["name"], "x");
    let raw = registry.skopeo("inspect --raw", &format!("{plain}{name}:all"));
    assert_eq!(raw.as_bytes(), all.bytes);
    // All of an index, to another repository: blobs are mounted there.
    let both = "--all --preserve-digests --src-tls-verify=false --dest-tls-verify=false|";
    let target = format!("docker://{ADDRESS}/team/copy:all");
    registry.skopeo("copy", &format!("{both}{name}:all {target}"));
    assert_eq!(registry.manifest("team/copy", "all"), all.bytes);
    // By way of a folder, and in docker's form.
    let folder = registry.site.path("layout");
    let layout = format!("oci:{}:all", folder.display());
    registry.skopeo("copy", &format!("{both}{name}:all {layout}"));
    let target = format!("docker://{ADDRESS}/team/back:all");
    registry.skopeo("copy", &format!("{both}{layout} {target}"));
    assert_eq!(registry.manifest("team/back", "all"), all.bytes);
    let target = format!("docker://{ADDRESS}/team/docker:v1");
    let docker = "--format v2s2 --src-tls-verify=false --dest-tls-verify=false|";
    registry.skopeo("copy", &format!("{docker}{name}:v1 {target}"));
    let manifest: Value = serde_json::from_slice(&registry.manifest("team/docker", "v1")).unwrap();
    assert_eq!(manifest["mediaType"], media_type::DOCKER_MANIFEST);
    // It deletes the image that a tag names, with all its tags.
    registry.skopeo("delete", &format!("{plain}{name}:v1"));
    for tag in ["v1", "V2"] {
        let target = format!("/v2/{REPOSITORY}/manifests/{tag}");
        registry.get(&target).is(404);
    }
    assert_eq!(registry.manifest(REPOSITORY, "all"), all.bytes);
}

#[tokio::test]
async fn skopeo_keeps_repositories_in_step() {
    let Some(registry) = Registry::start().await.filter(|_| installed(&["skopeo"])) else {
        return;
    };
    let mut sent = Vec::new();
    for tag in ["a", "b", "c"] {
        let value = image(&registry, REPOSITORY, tag);
        sent.push(registry.tagged(REPOSITORY, tag, media_type::OCI_MANIFEST, &value));
    }
    let options =
        "--scoped --all --preserve-digests --src-tls-verify=false --dest-tls-verify=false";
    let folder = registry.site.path("synced");
    fs::create_dir(&folder).unwrap();
    let there = format!(
        "--src docker --dest dir {options}|{ADDRESS}/{REPOSITORY} {}",
        folder.display()
    );
    registry.skopeo("sync", &there);
    let scope = folder.join(ADDRESS).join("team");
    let names = ["app:a", "app:b", "app:c"].map(str::to_owned);
    assert_eq!(files(&scope), BTreeSet::from(names));
    let back = "--src dir --dest docker --all --preserve-digests --dest-tls-verify=false";
    let back = format!("{back}|{} {ADDRESS}/synced", scope.display());
    registry.skopeo("sync", &back);
    for (tag, content) in ["a", "b", "c"].iter().zip(&sent) {
        assert_eq!(registry.manifest("synced/app", tag), content.bytes);
    }
    let beside = options.trim_start_matches("--scoped ");
    let beside =
        format!("--src docker --dest docker {beside}|{ADDRESS}/{REPOSITORY} {ADDRESS}/again");
    registry.skopeo("sync", &beside);
    assert_eq!(registry.manifest("again/app", "b"), sent[1].bytes);
}

#[tokio::test]
async fn buildah_builds_pushes_and_pulls() {
    let Some(registry) = Registry::start().await.filter(|_| installed(&["buildah"])) else {
        return;
    };
    let (root, run) = (registry.site.path("store"), registry.site.path("run-store"));
    let (root, run) = (root.to_str().unwrap(), run.to_str().unwrap());
    let buildah = |line: &str| {
        let mut words = vec!["--root", root, "--runroot", run, "--storage-driver", "vfs"];
        words.extend(line.split_whitespace());
        registry.run("buildah", &words).trim().to_owned()
    };
    let file = registry.site.path("file");
    fs::write(&file, "built").unwrap();
    let container = buildah("from scratch");
    buildah(&format!("copy {container} {} /file", file.display()));
    buildah(&format!("config --label by=buildah {container}"));
    for (form, kind) in [
        ("oci", media_type::OCI_MANIFEST),
        ("docker", media_type::DOCKER_MANIFEST),
    ] {
        let id = buildah(&format!(
            "commit -q --format {form} {container} built-{form}"
        ));
        let name = format!("{ADDRESS}/built:{form}");
        let noted = registry.site.path("digest");
        let noted = noted.to_str().unwrap();
        buildah(&format!(
            "push -q --tls-verify=false --digestfile {noted} built-{form} docker://{name}"
        ));
        let manifest = registry.manifest("built", form);
        let digest = fs::read_to_string(noted).unwrap();
        assert_eq!(digest, Digest::of(&manifest).to_string());
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["mediaType"], kind);
        buildah(&format!("rmi -f built-{form}"));
        assert_eq!(buildah(&format!("pull -q --tls-verify=false {name}")), id);
    }
    // Several as one.
    buildah("manifest create several");
    for form in ["oci", "docker"] {
        buildah(&format!(
            "manifest add --tls-verify=false several docker://{ADDRESS}/built:{form}"
        ));
    }
    buildah(&format!(
        "manifest push -q --all --tls-verify=false several docker://{ADDRESS}/several:latest"
    ));
    let several: Value = serde_json::from_slice(&registry.manifest("several", "latest")).unwrap();
    assert_eq!(several["manifests"].as_array().unwrap().len(), 2);
    buildah("rm -a");
}

#[tokio::test]
async fn an_artifact_goes_where_its_image_goes() {
    let Some(registry) = Registry::start().await.filter(|_| installed(&["skopeo"])) else {
        return;
    };
    let kind = "application/vnd.example.kind";
    let value = artifact(&registry, REPOSITORY, kind);
    let content = registry.tagged(REPOSITORY, "notes", media_type::OCI_MANIFEST, &value);
    let options = "--preserve-digests --src-tls-verify=false --dest-tls-verify=false|";
    let (from, to) = (
        format!("docker://{ADDRESS}/{REPOSITORY}:notes"),
        format!("docker://{ADDRESS}/team/copy:notes"),
    );
    registry.skopeo("copy", &format!("{options}{from} {to}"));
    assert_eq!(registry.manifest("team/copy", "notes"), content.bytes);
}
