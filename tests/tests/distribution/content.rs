//! Manifests of all kinds that there are, and what they name.

use serde_json::{Value, json};
use slipway_image::{Digest, media_type};

use super::Registry;

/// A manifest that is still to be sent.
pub struct Content {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Content {
    pub fn new(media_type: &'static str, value: &Value) -> Self {
        Self {
            media_type,
            // As a person would write it: nobody may write it anew.
            bytes: serde_json::to_vec_pretty(value).unwrap(),
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    pub fn descriptor(&self) -> Value {
        descriptor(self.media_type, &self.bytes)
    }
}

pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": Digest::of(content),
        "size": content.len(),
    })
}

/// An image of one layer, whose blobs are pushed.
pub fn image(registry: &Registry, repository: &str, name: &str) -> Value {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Labels": { "name": name } },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(name)] },
    });
    let (config, layer) = (config.to_string(), format!("the layer of {name}"));
    for blob in [&config, &layer] {
        registry.push(repository, blob.as_bytes());
    }
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, config.as_bytes()),
        "layers": [descriptor(media_type::OCI_LAYER_GZIP, layer.as_bytes())],
    })
}

/// An artifact, whose blobs are pushed.
pub fn artifact(registry: &Registry, repository: &str, kind: &str) -> Value {
    registry.push(repository, b"{}");
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": kind,
        "config": descriptor(media_type::OCI_EMPTY, b"{}"),
        "layers": [descriptor(media_type::OCI_EMPTY, b"{}")],
    })
}

pub fn index(manifests: &[Value]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": manifests,
    })
}
