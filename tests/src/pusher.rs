//! Whoever pushes to a site's registry over HTTP and remembers what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use slipway_image::{Digest, media_type};

use crate::{Answer, Ask, Site};

/// registry-svc's default.
const ADDRESS: &str = "127.0.0.1:5000";

/// What went wrong: nothing came, or a refusal.
pub type Done = Result<(), String>;

/// What may be relied on.
#[derive(Default)]
pub struct Pusher {
    /// Sessions, and how many bytes of each are there at least.
    pub sessions: BTreeMap<String, usize>,
    /// Sessions that may be over.
    pub ending: BTreeSet<String>,
    blobs: BTreeMap<(String, String), Vec<u8>>,
    manifests: BTreeMap<(String, String), Vec<u8>>,
    gone: BTreeSet<(String, String)>,
}

impl Site {
    /// A request to this host's registry.
    pub fn registry_http(&self, method: &str, target: &str) -> Ask<'_> {
        self.ask(ADDRESS, method, target)
    }
}

impl Answer {
    /// It must have this status.
    pub fn expect(answer: Result<Self, String>, status: u16) -> Result<Self, String> {
        let answer = answer?;
        match answer.status == status {
            true => Ok(answer),
            false => Err(format!(
                "{}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            )),
        }
    }
}

impl Pusher {
    /// A blob in one request.
    pub fn push(&mut self, site: &Site, repository: &str, content: &[u8]) -> Done {
        let digest = Digest::of(content);
        let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let ask = site.registry_http("POST", &target).body(content);
        Answer::expect(ask.try_send(), 201)?;
        self.has_blob(repository, content);
        Ok(())
    }

    /// An image's manifest, under a tag.
    pub fn put_manifest(
        &mut self,
        site: &Site,
        repository: &str,
        tag: &str,
        image: &Image,
    ) -> Done {
        self.in_doubt(repository, tag);
        let target = format!("/v2/{repository}/manifests/{tag}");
        let put = site
            .registry_http("PUT", &target)
            .header("Content-Type", media_type::OCI_MANIFEST)
            .body(&image.manifest);
        Answer::expect(put.try_send(), 201)?;
        self.has_manifest(repository, tag, &image.manifest);
        Ok(())
    }

    /// An image, whole.
    pub fn push_image(&mut self, site: &Site, repository: &str, tag: &str, image: &Image) -> Done {
        for blob in [&image.config, &image.layer] {
            self.push(site, repository, blob)?;
        }
        self.put_manifest(site, repository, tag, image)
    }

    /// A blob of another repository.
    pub fn mount(&mut self, site: &Site, repository: &str, from: &str, content: &[u8]) -> Done {
        let digest = Digest::of(content);
        let target = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}");
        Answer::expect(site.registry_http("POST", &target).try_send(), 201)?;
        self.has_blob(repository, content);
        Ok(())
    }

    /// Takes a tag or a manifest away, and what goes with it.
    pub fn delete(&mut self, site: &Site, repository: &str, references: &[&str]) -> Done {
        for reference in references {
            self.in_doubt(repository, reference);
        }
        self.blobs.retain(|(r, _), _| r != repository);
        let target = format!("/v2/{repository}/manifests/{}", references[0]);
        Answer::expect(site.registry_http("DELETE", &target).try_send(), 202)?;
        for reference in references {
            self.is_gone(repository, reference);
        }
        Ok(())
    }

    /// It was told to be here.
    pub fn has_blob(&mut self, repository: &str, content: &[u8]) {
        let key = (repository.to_owned(), Digest::of(content).to_string());
        self.blobs.insert(key, content.to_vec());
    }

    /// It was told to be here, under its digest as well.
    pub fn has_manifest(&mut self, repository: &str, reference: &str, content: &[u8]) {
        for reference in [reference, &Digest::of(content).to_string()] {
            let key = (repository.to_owned(), reference.to_owned());
            self.gone.remove(&key);
            self.manifests.insert(key, content.to_vec());
        }
    }

    fn is_gone(&mut self, repository: &str, reference: &str) {
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

    /// All of it is so.
    #[track_caller]
    pub fn hold(&self, site: &Site) {
        for ((repository, digest), content) in &self.blobs {
            let target = format!("/v2/{repository}/blobs/{digest}");
            assert_eq!(
                site.registry_http("GET", &target).send().is(200).body,
                *content
            );
        }
        for ((repository, reference), content) in &self.manifests {
            let target = format!("/v2/{repository}/manifests/{reference}");
            assert_eq!(
                site.registry_http("GET", &target).send().is(200).body,
                *content
            );
        }
        for (repository, reference) in &self.gone {
            let target = format!("/v2/{repository}/manifests/{reference}");
            site.registry_http("GET", &target).send().is(404);
        }
        for (location, bytes) in &self.sessions {
            let status = site.registry_http("GET", location).send().is(204);
            let last = status.told("range").trim_start_matches("0-");
            let last: usize = last.parse().unwrap();
            assert!(last + 1 >= *bytes, "{last} of {bytes}");
        }
    }

    /// Takes away what is known of, as a user would.
    pub fn undo(&self, site: &Site) {
        for location in self.sessions.keys() {
            site.registry_http("DELETE", location).send().is(204);
        }
        for location in &self.ending {
            let status = site.registry_http("DELETE", location).send().status;
            assert!(matches!(status, 204 | 404), "{status}");
        }
        for (repository, reference) in self.manifests.keys() {
            if reference.contains(':') && repository != "beside" {
                let target = format!("/v2/{repository}/manifests/{reference}");
                site.registry_http("DELETE", &target).send().is(202);
            }
        }
        for (repository, digest) in self.blobs.keys() {
            let target = format!("/v2/{repository}/blobs/{digest}");
            // It went with its manifest, or by itself as nothing needs it.
            let status = site.registry_http("DELETE", &target).send().status;
            assert!(matches!(status, 202 | 404), "{status}");
        }
    }
}

/// A manifest that is there can be read with all that it names.
#[track_caller]
pub fn whatever_is_there_is_whole(site: &Site) {
    let catalog = site
        .registry_http("GET", "/v2/_catalog")
        .send()
        .is(200)
        .json();
    for repository in catalog["repositories"].as_array().unwrap() {
        let repository = repository.as_str().unwrap();
        let target = format!("/v2/{repository}/tags/list");
        let tags = site.registry_http("GET", &target).send().is(200).json();
        for tag in tags["tags"].as_array().unwrap() {
            let target = format!("/v2/{repository}/manifests/{}", tag.as_str().unwrap());
            let manifest = site.registry_http("GET", &target).send().is(200).json();
            for named in parts(&manifest) {
                let digest = named["digest"].as_str().unwrap();
                let target = format!("/v2/{repository}/blobs/{digest}");
                let blob = site.registry_http("GET", &target).send().is(200);
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

/// An image whose content follows from its name.
pub struct Image {
    /// Its configuration.
    pub config: Vec<u8>,
    /// Its one layer.
    pub layer: Vec<u8>,
    /// Its manifest.
    pub manifest: Vec<u8>,
}

/// The image of that name.
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
