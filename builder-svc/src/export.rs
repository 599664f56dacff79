//! The end of a build: config and manifest of the image, stored with all its tags.

use std::collections::BTreeMap;

use slipway_image::{Descriptor, Reference, manifest::ImageManifest, media_type};

use crate::{
    error::{Error, Result},
    registry::Registry,
    solve::Built,
};

/// Where an image without a name goes. It shows as `<none>`.
const UNNAMED: &str = "docker.io/library/untagged";

/// What the caller wants of the image.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    /// `-t`, with tags.
    pub tags: Vec<Reference>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--annotation`
    pub annotations: BTreeMap<String, String>,
}

/// A stored image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Digest of its config.
    pub image_id: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// Bytes of all its blobs.
    pub size: u64,
}

/// Parses `-t`s.
pub fn tags(names: &[String]) -> Result<Vec<Reference>> {
    names
        .iter()
        .map(|name| {
            let reference: Reference = name
                .parse()
                .map_err(|e| Error::Invalid(format!("invalid tag {name:?}: {e}")))?;
            if reference.digest().is_some() {
                return Err(Error::Invalid(format!(
                    "invalid tag {name:?}: a tag cannot have a digest"
                )));
            }
            Ok(reference.with_default_tag())
        })
        .collect()
}

/// Stores an image: when this returns it is there, whole and durable.
pub async fn export(registry: &Registry, built: &Built, naming: &Naming) -> Result<Exported> {
    let mut config = built.config.clone();
    config.config.labels.extend(naming.labels.clone());
    let mut by_repository: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for tag in &naming.tags {
        let tags = by_repository.entry(tag.repository()).or_default();
        tags.extend(tag.tag().map(str::to_owned));
    }
    if by_repository.is_empty() {
        by_repository.insert(UNNAMED.to_owned(), Vec::new());
    }
    let config = config.to_bytes();
    let size = config.len() as u64;
    let mut exported = None;
    for (repository, tags) in by_repository {
        let digest = registry
            .put_blob(&repository, config.clone().into())
            .await?;
        let config = Descriptor::new(media_type::OCI_CONFIG, digest, size);
        let manifest = manifest(config, built, &naming.annotations);
        let total = manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>();
        let image_id = manifest.config.digest.to_string();
        // Plain data with string keys: there is nothing that could fail.
        let content = serde_json::to_vec(&manifest).unwrap_or_default();
        let digest = registry
            .put_manifest(&repository, tags, media_type::OCI_MANIFEST, content)
            .await?;
        exported = Some(Exported {
            image_id,
            manifest: digest,
            size: total,
        });
    }
    exported.ok_or_else(|| Error::Invalid("nothing was exported".to_owned()))
}

fn manifest(
    config: Descriptor,
    built: &Built,
    annotations: &BTreeMap<String, String>,
) -> ImageManifest {
    let layers = built
        .layers
        .iter()
        .map(|layer| {
            let kind = oci(&layer.descriptor.media_type);
            Descriptor::new(kind, layer.descriptor.digest.clone(), layer.descriptor.size)
        })
        .collect();
    ImageManifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: annotations.clone(),
    }
}

/// A base's layer under OCI's name: the bytes are the same, and a manifest must not mix both.
fn oci(kind: &str) -> &str {
    match kind {
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
        media_type::DOCKER_LAYER => media_type::OCI_LAYER,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_names() {
        let parsed = tags(&["goals".to_owned(), "localhost:5000/a:b".to_owned()]).unwrap();
        assert_eq!(parsed[0].familiar(), "goals:latest");
        assert_eq!(parsed[1].tag(), Some("b"));
        assert!(tags(&["Goals".to_owned()]).is_err());
        assert!(tags(&[format!("a@sha256:{}", "0".repeat(64))]).is_err());
    }
}
