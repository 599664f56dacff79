//! docker's own list of images, `manifest.json` (moby, image/tarexport). Its images have no manifests: they are made
//! here, and are the same for the same archive.

use std::collections::BTreeMap;

use serde::Deserialize;
use slipway_image::{
    Descriptor, Digest, Platform, layer::compression::Compression, manifest::ImageManifest,
    media_type,
};

use super::{
    Shelf,
    listing::Listing,
    plan::{self, IMAGES, Image, Planned, json, no_platform},
    refused,
};
use crate::{error::Result, images::ConfigView};

/// Most layers of an image: overlayfs takes 500, docker 127.
const LAYERS: usize = 500;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images that `manifest.json` names.
pub fn images(
    listing: &Listing,
    shelf: &mut impl Shelf,
    platform: Option<&Platform>,
) -> Result<Vec<Image>> {
    let items: Vec<Item> = json(listing, shelf, "manifest.json")?;
    if items.len() > IMAGES {
        return Err(refused(format!("it has more than {IMAGES} images")));
    }
    // An image that stands there twice is one with the names of both.
    let mut images: Vec<Image> = Vec::new();
    let mut known: BTreeMap<Digest, usize> = BTreeMap::new();
    for item in items {
        let names = item.repo_tags.unwrap_or_default();
        let names: Vec<_> = names.iter().map(|n| plan::name(n)).collect::<Result<_>>()?;
        let layers = item.layers.unwrap_or_default();
        let shown = names
            .first()
            .map_or_else(|| item.config.clone(), ToString::to_string);
        let (mut image, of) = image(listing, shelf, &item.config, &layers)?;
        if let Some(wanted) = platform.filter(|wanted| !of.satisfies(wanted)) {
            return Err(no_platform(&shown, wanted));
        }
        if let Some(at) = known.get(&image.top.digest) {
            images[*at].names.extend(names);
            continue;
        }
        known.insert(image.top.digest.clone(), images.len());
        image.names = names;
        images.push(image);
    }
    Ok(images)
}

fn image(
    listing: &Listing,
    shelf: &mut impl Shelf,
    config: &str,
    layers: &[String],
) -> Result<(Image, Platform)> {
    if layers.len() > LAYERS {
        return Err(refused(format!("{config} has more than {LAYERS} layers")));
    }
    let find = |name: &str| {
        let file = listing.find(name);
        file.cloned()
            .ok_or_else(|| refused(format!("{name} is named, and is not in it")))
    };
    let file = find(config)?;
    let content = plan::small(shelf, &file, config)?;
    let view: ConfigView =
        serde_json::from_slice(&content).map_err(|e| refused(format!("{config}: {e}")))?;
    let mut manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, file.digest, file.size),
        layers: Vec::new(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    for name in layers {
        let file = find(name)?;
        let start = shelf.start(&file.digest)?;
        let kind = match (Compression::detect(&start), &start[..]) {
            (Compression::Gzip, _) => media_type::OCI_LAYER_GZIP,
            (Compression::Zstd, _) => media_type::OCI_LAYER_ZSTD,
            (_, [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', 0]) => {
                return Err(refused(format!(
                    "the layer {name} is compressed with bzip2 or xz, which no registry takes"
                )));
            }
            (Compression::None, _) => media_type::OCI_LAYER,
        };
        let layer = Descriptor::new(kind, file.digest, file.size);
        manifest.layers.push(layer);
    }
    plan::check_layers(shelf, &manifest, &view)?;
    let content: bytes::Bytes = serde_json::to_vec(&manifest).expect("plain data").into();
    let image = Image {
        names: Vec::new(),
        id: manifest.config.digest,
        top: Planned {
            digest: Digest::of(&content),
            media_type: media_type::OCI_MANIFEST.to_owned(),
            content,
        },
        children: Vec::new(),
        is_whole: true,
    };
    Ok((
        image,
        Platform::new(&view.os, &view.architecture, &view.variant),
    ))
}
