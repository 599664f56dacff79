//! Config, manifest and index of what was built. The same image gives the same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use slipway_image::{
    Descriptor, Digest, Platform,
    manifest::{ImageIndex, ImageManifest},
    media_type,
};

use super::{Exported, Output, annotation::Part};
use crate::{
    cache::carried::FIELD,
    error::{Error, Result},
    layer::Layer,
    solve::Built,
};

/// One platform's image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Which.
    pub platform: Platform,
    /// The config's bytes.
    pub config: Bytes,
    /// Of the config.
    pub config_descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Bytes,
    /// Of the manifest.
    pub descriptor: Descriptor,
    /// Its layers.
    pub layers: Vec<Layer>,
}

/// A manifest that is about an image and stands beside it in the index.
#[derive(Debug, Clone)]
pub struct Extra {
    /// Its bytes.
    pub manifest: Bytes,
    /// As it stands in the index.
    pub descriptor: Descriptor,
    /// All blobs that it names.
    pub blobs: Vec<Bytes>,
}

/// All that an output is made of.
#[derive(Debug, Clone)]
pub struct Whole {
    /// At least one.
    pub images: Vec<Image>,
    /// Attestations.
    pub extras: Vec<Extra>,
    /// The index, if there is one: bytes.
    pub index: Option<Bytes>,
    /// Of the index, or of the only manifest.
    pub top: Descriptor,
}

/// One platform's image, written as `output` wants it.
pub fn image(
    built: &Built,
    platform: Platform,
    labels: &BTreeMap<String, String>,
    inline: &[(String, serde_json::Value)],
    layers: Vec<Layer>,
    output: &Output,
) -> Image {
    let mut config = built.config.clone();
    config.config.labels.extend(labels.clone());
    // A base's records are about the base.
    config.other.remove(FIELD);
    config.other.extend(inline.iter().cloned());
    let config: Bytes = config.to_bytes().into();
    let oci = output.format.oci;
    let config_type = match oci {
        true => media_type::OCI_CONFIG,
        false => media_type::DOCKER_CONFIG,
    };
    let config_descriptor = Descriptor::new(config_type, Digest::of(&config), config.len() as u64);
    let kind = match oci {
        true => media_type::OCI_MANIFEST,
        false => media_type::DOCKER_MANIFEST,
    };
    let manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(kind.to_owned()),
        artifact_type: None,
        config: config_descriptor.clone(),
        layers: layers
            .iter()
            .map(|layer| {
                let blob = &layer.descriptor;
                let kind = layer_type(&blob.media_type, oci);
                Descriptor::new(kind, blob.digest.clone(), blob.size)
            })
            .collect(),
        subject: None,
        annotations: output.annotations.of(Part::Manifest, Some(&platform)),
    };
    // Plain data with string keys: there is nothing that could fail.
    let manifest: Bytes = serde_json::to_vec(&manifest).unwrap_or_default().into();
    let mut descriptor = Descriptor::new(kind, Digest::of(&manifest), manifest.len() as u64);
    descriptor.platform = Some(platform.clone());
    descriptor.annotations = output
        .annotations
        .of(Part::ManifestDescriptor, Some(&platform));
    Image {
        platform,
        config,
        config_descriptor,
        manifest,
        descriptor,
        layers,
    }
}

/// A layer's type in OCI's or docker's words: the bytes are the same, and a manifest must not mix both.
fn layer_type(kind: &str, oci: bool) -> &str {
    use media_type::{DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP};
    match (kind, oci) {
        (DOCKER_LAYER_GZIP, true) => OCI_LAYER_GZIP,
        (DOCKER_LAYER, true) => OCI_LAYER,
        (OCI_LAYER_GZIP, false) => DOCKER_LAYER_GZIP,
        (OCI_LAYER, false) => DOCKER_LAYER,
        (other, _) => other,
    }
}

impl Whole {
    /// Of these images; at least one.
    pub fn new(images: Vec<Image>) -> Self {
        let top = images.first().map_or_else(
            || Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b""), 0),
            |i| i.descriptor.clone(),
        );
        Self {
            images,
            extras: Vec::new(),
            index: None,
            top,
        }
    }

    /// Makes the index, where there is more than one manifest or `several` platforms were asked for.
    pub fn finish(&mut self, output: &Output, several: bool) -> Result<()> {
        if !several && self.extras.is_empty() {
            if output.annotations.has(Part::Index) || output.annotations.has(Part::IndexDescriptor)
            {
                // BuildKit's sentence (exporter/containerimage/writer.go).
                return Err(Error::Invalid(
                    "index annotations not supported for single platform export".to_owned(),
                ));
            }
            return Ok(());
        }
        let kind = match output.format.oci {
            true => media_type::OCI_INDEX,
            false => media_type::DOCKER_INDEX,
        };
        let images = self.images.iter().map(|i| i.descriptor.clone());
        let index = ImageIndex {
            schema_version: 2,
            media_type: Some(kind.to_owned()),
            artifact_type: None,
            manifests: images
                .chain(self.extras.iter().map(|e| e.descriptor.clone()))
                .collect(),
            subject: None,
            annotations: output.annotations.of(Part::Index, None),
        };
        // As above.
        let index: Bytes = serde_json::to_vec(&index).unwrap_or_default().into();
        self.top = Descriptor::new(kind, Digest::of(&index), index.len() as u64);
        self.top.annotations = output.annotations.of(Part::IndexDescriptor, None);
        self.index = Some(index);
        Ok(())
    }

    /// What the caller is told of it.
    pub fn exported(&self) -> Exported {
        let of = |image: &Image| {
            image.config_descriptor.size
                + image.layers.iter().map(|l| l.descriptor.size).sum::<u64>()
        };
        let id = self.images.first().map(|i| &i.config_descriptor.digest);
        Exported {
            image_id: id.map(ToString::to_string).unwrap_or_default(),
            manifest: self.top.digest.to_string(),
            media_type: self.top.media_type.clone(),
            manifest_size: self.top.size,
            size: self.images.iter().map(of).sum(),
        }
    }
}
