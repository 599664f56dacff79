//! What a client of the registry was told, and whether it is true.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use slipway_image::{Digest, media_type};

use super::Stand;

/// What may be relied on.
#[derive(Default)]
pub struct Facts {
    /// Sessions, and how many bytes of each are there at least.
    pub sessions: BTreeMap<String, usize>,
    /// Sessions that may be over.
    pub ending: BTreeSet<String>,
    blobs: BTreeMap<(String, String), Vec<u8>>,
    manifests: BTreeMap<(String, String), Vec<u8>>,
    gone: BTreeSet<(String, String)>,
}

impl Facts {
    pub fn has_blob(&mut self, repository: &str, content: &[u8]) {
        let key = (repository.to_owned(), Digest::of(content).to_string());
        self.blobs.insert(key, content.to_vec());
    }

    pub fn has_manifest(&mut self, repository: &str, reference: &str, content: &[u8]) {
        for reference in [reference, &Digest::of(content).to_string()] {
            let key = (repository.to_owned(), reference.to_owned());
            self.gone.remove(&key);
            self.manifests.insert(key, content.to_vec());
        }
    }

    pub fn is_gone(&mut self, repository: &str, reference: &str) {
        let key = (repository.to_owned(), reference.to_owned());
        self.manifests.remove(&key);
        self.gone.insert(key);
    }

    /// Somebody is about to change it: what is there is not known until that is answered.
    pub fn in_doubt(&mut self, repository: &str, reference: &str) {
        let key = (repository.to_owned(), reference.to_owned());
        self.manifests.remove(&key);
        self.gone.remove(&key);
    }

    /// Blobs that only a manifest that goes has names for.
    pub fn not_needed(&mut self, repository: &str) {
        self.blobs.retain(|(r, _), _| r != repository);
    }

    /// All of it is so.
    #[track_caller]
    pub fn hold(&self, stand: &Stand) {
        for ((repository, digest), content) in &self.blobs {
            let target = format!("/v2/{repository}/blobs/{digest}");
            assert_eq!(stand.ask("GET", &target).send().is(200).body, *content);
        }
        for ((repository, reference), content) in &self.manifests {
            let target = format!("/v2/{repository}/manifests/{reference}");
            assert_eq!(stand.ask("GET", &target).send().is(200).body, *content);
        }
        for (repository, reference) in &self.gone {
            let target = format!("/v2/{repository}/manifests/{reference}");
            stand.ask("GET", &target).send().is(404);
        }
        for (location, bytes) in &self.sessions {
            let status = stand.ask("GET", location).send().is(204);
            let last = status.told("range").trim_start_matches("0-");
            let last: usize = last.parse().unwrap();
            assert!(last + 1 >= *bytes, "{last} of {bytes}");
        }
    }

    /// Takes away what is known of, as a user would.
    pub fn undo(&self, stand: &Stand) {
        for location in self.sessions.keys() {
            stand.ask("DELETE", location).send().is(204);
        }
        for location in &self.ending {
            let status = stand.ask("DELETE", location).send().status;
            assert!(matches!(status, 204 | 404), "{status}");
        }
        for (repository, reference) in self.manifests.keys() {
            if reference.contains(':') && repository != "beside" {
                let target = format!("/v2/{repository}/manifests/{reference}");
                stand.ask("DELETE", &target).send().is(202);
            }
        }
        for (repository, digest) in self.blobs.keys() {
            let target = format!("/v2/{repository}/blobs/{digest}");
            // It went with its manifest, or by itself as nothing needs it.
            let status = stand.ask("DELETE", &target).send().status;
            assert!(matches!(status, 202 | 404), "{status}");
        }
    }
}

/// A manifest that is there can be read with all that it names.
#[track_caller]
pub fn whatever_is_there_is_whole(stand: &Stand) {
    let catalog = stand.ask("GET", "/v2/_catalog").send().is(200).json();
    for repository in catalog["repositories"].as_array().unwrap() {
        let repository = repository.as_str().unwrap();
        let target = format!("/v2/{repository}/tags/list");
        let tags = stand.ask("GET", &target).send().is(200).json();
        for tag in tags["tags"].as_array().unwrap() {
            let target = format!("/v2/{repository}/manifests/{}", tag.as_str().unwrap());
            let manifest = stand.ask("GET", &target).send().is(200).json();
            for named in parts(&manifest) {
                let digest = named["digest"].as_str().unwrap();
                let target = format!("/v2/{repository}/blobs/{digest}");
                let blob = stand.ask("GET", &target).send().is(200);
                assert_eq!(Digest::of(&blob.body).to_string(), digest);
            }
        }
    }
}

fn parts(manifest: &Value) -> Vec<Value> {
    let layers = manifest["layers"].as_array().unwrap().clone();
    layers
        .into_iter()
        .chain([manifest["config"].clone()])
        .collect()
}

/// An image whose content follows from its name, but for one layer that all have in common.
pub struct Image {
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
    pub manifest: Vec<u8>,
}

pub fn image(name: &str) -> Image {
    let config = json!({"architecture": "amd64", "os": "linux", "author": name}).to_string();
    let layer = name.repeat(20_000);
    let descriptor = |kind: &str, content: &str| json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, &config),
        "layers": [descriptor(media_type::OCI_LAYER, &layer)],
    });
    Image {
        config: config.into_bytes(),
        layer: layer.into_bytes(),
        manifest: manifest.to_string().into_bytes(),
    }
}
