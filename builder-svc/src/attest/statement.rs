//! In-toto statements, and the manifest that holds an image's beside it in the index (moby/buildkit,
//! docs/attestations/attestation-storage.md).

use bytes::Bytes;
use serde_json::json;
use slipway_image::{
    Descriptor, Digest, Platform, Reference,
    manifest::ImageManifest,
    media_type::{OCI_CONFIG, OCI_MANIFEST},
};

use super::{Predicate, purl};
use crate::output::image::{Extra, Image};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// What a statement is about: a name and a digest.
pub type Subject = (String, Digest);

/// A statement's value.
pub fn statement(predicate: &Predicate, subjects: &[Subject]) -> serde_json::Value {
    let subjects: Vec<_> = subjects
        .iter()
        .map(|(name, digest)| json!({"name": name, "digest": digest_set(digest)}))
        .collect();
    json!({
        "_type": STATEMENT,
        "predicateType": predicate.kind,
        "subject": subjects,
        "predicate": predicate.content,
    })
}

/// A digest as in-toto writes it: `{"sha256": "..."}`.
pub fn digest_set(digest: &Digest) -> serde_json::Value {
    json!({digest.algorithm().as_str(): digest.encoded()})
}

/// What is said of an image, under all its names, as a manifest of its own. `unknown/unknown` is nobody's
/// platform, so nobody runs it.
pub fn manifest(image: &Image, names: &[Reference], predicates: &[Predicate]) -> Extra {
    let target = &image.descriptor.digest;
    let mut subjects: Vec<Subject> = names
        .iter()
        .map(|name| (purl::of_image(name, Some(&image.platform)), target.clone()))
        .collect();
    if subjects.is_empty() {
        subjects.push(("_".to_owned(), target.clone()));
    }
    let mut blobs: Vec<Bytes> = Vec::new();
    let mut layers = Vec::new();
    for predicate in predicates {
        let content: Bytes = statement(predicate, &subjects).to_string().into();
        let mut layer = Descriptor::new(IN_TOTO, Digest::of(&content), content.len() as u64);
        layer.annotations = [(PREDICATE_TYPE.to_owned(), predicate.kind.to_owned())].into();
        layers.push(layer);
        blobs.push(content);
    }
    let diff_ids: Vec<_> = layers.iter().map(|l| l.digest.to_string()).collect();
    let config: Bytes = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into();
    let manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::new(OCI_CONFIG, Digest::of(&config), config.len() as u64),
        layers,
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    blobs.push(config);
    // Plain data with string keys: there is nothing that could fail.
    let manifest: Bytes = serde_json::to_vec(&manifest).unwrap_or_default().into();
    let mut descriptor =
        Descriptor::new(OCI_MANIFEST, Digest::of(&manifest), manifest.len() as u64);
    descriptor.platform = Some(Platform::new("unknown", "unknown", ""));
    descriptor.annotations = [
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
        (REFERENCE_DIGEST.to_owned(), target.to_string()),
    ]
    .into();
    Extra {
        manifest,
        descriptor,
        blobs,
    }
}
