//! OCI layouts (image-spec, image-layout.md), with the annotations that docker and containerd name images by.

use std::collections::BTreeMap;

use serde::Deserialize;
use slipway_image::{Descriptor, Manifest, Platform, Reference, manifest::ImageIndex, media_type};

use super::{
    Shelf,
    listing::Listing,
    plan::{self, IMAGES, Image, Planned, check_image, json, manifest, no_platform},
    refused,
};
use crate::error::Result;

/// An image's whole name, as containerd writes it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// A tag alone, as docker and the specification have it, or a whole name, as podman and skopeo write it.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciLayout {
    image_layout_version: String,
}

/// The images that `index.json` names.
pub fn images(
    listing: &Listing,
    shelf: &mut impl Shelf,
    platform: Option<&Platform>,
) -> Result<Vec<Image>> {
    let layout: OciLayout = json(listing, shelf, "oci-layout")?;
    if layout.image_layout_version != "1.0.0" {
        return Err(refused(format!(
            "it is an OCI layout of version {:?}: 1.0.0 is known",
            layout.image_layout_version
        )));
    }
    let index: ImageIndex = json(listing, shelf, "index.json")?;
    if index.manifests.len() > IMAGES {
        return Err(refused(format!("it has more than {IMAGES} images")));
    }
    // An image with several names stands there once for each.
    let mut images: BTreeMap<_, Image> = BTreeMap::new();
    let mut order = Vec::new();
    for descriptor in &index.manifests {
        let names = names(descriptor)?;
        if let Some(known) = images.get_mut(&descriptor.digest) {
            known.names.extend(names);
            continue;
        }
        let mut image = image(listing, shelf, descriptor, platform, &names)?;
        image.names = names;
        order.push(descriptor.digest.clone());
        images.insert(descriptor.digest.clone(), image);
    }
    Ok(order.iter().filter_map(|d| images.remove(d)).collect())
}

/// The names of an image; a tag without a repository is none.
fn names(descriptor: &Descriptor) -> Result<Vec<Reference>> {
    let annotation = |key| descriptor.annotations.get(key).map(String::as_str);
    if let Some(text) = annotation(CONTAINERD_NAME) {
        return Ok(vec![plan::name(text)?]);
    }
    match annotation(REF_NAME) {
        Some(text) if text.contains([':', '/']) => Ok(vec![plan::name(text)?]),
        _ => Ok(Vec::new()),
    }
}

fn image(
    listing: &Listing,
    shelf: &mut impl Shelf,
    descriptor: &Descriptor,
    platform: Option<&Platform>,
    names: &[Reference],
) -> Result<Image> {
    let shown = names
        .first()
        .map_or_else(|| descriptor.digest.to_string(), ToString::to_string);
    let (top, parsed) = manifest(listing, shelf, descriptor)?;
    let mut image = Image {
        names: Vec::new(),
        id: top.digest.clone(),
        top,
        children: Vec::new(),
        is_whole: true,
    };
    match parsed {
        Manifest::Image(parsed) if parsed.is_image() => {
            let of = check_image(listing, shelf, &parsed)?;
            if let Some(wanted) = platform.filter(|wanted| !of.satisfies(wanted)) {
                return Err(no_platform(&shown, wanted));
            }
            image.id = parsed.config.digest;
        }
        Manifest::Index(index) => {
            let wanted = Wanted {
                platform,
                shown: &shown,
            };
            wanted.children(listing, shelf, &index, &mut image)?;
        }
        _ => {
            return Err(refused(format!(
                "{shown} is no image, but {}",
                descriptor.media_type
            )));
        }
    }
    Ok(image)
}

struct Wanted<'a> {
    platform: Option<&'a Platform>,
    shown: &'a str,
}

impl Wanted<'_> {
    /// The images of an index that are wanted and whole. Others of it were never fetched, or left out.
    fn children(
        &self,
        listing: &Listing,
        shelf: &mut impl Shelf,
        index: &ImageIndex,
        image: &mut Image,
    ) -> Result<()> {
        let mut missing = None;
        let mut found = Vec::new();
        for descriptor in &index.manifests {
            if media_type::is_index(&descriptor.media_type) {
                return Err(refused(format!(
                    "{}: an index within an index is not supported",
                    descriptor.digest
                )));
            }
            match child(listing, shelf, descriptor) {
                Ok(child) => found.push(child),
                Err(e) if is_all_here(listing, shelf, descriptor) => return Err(e),
                Err(e) => missing = missing.or(Some(e)),
            }
        }
        if let Some(platform) = self.platform {
            let all = found.len();
            found.retain(|child| child.runs && child.platform.satisfies(platform));
            if found.is_empty() {
                return Err(no_platform(self.shown, platform));
            }
            image.is_whole = found.len() == all;
        }
        image.is_whole &= missing.is_none();
        let host = Platform::host();
        let chosen = found
            .iter()
            .filter(|child| child.runs)
            .max_by_key(|child| child.platform.satisfies(&host));
        match (chosen, missing) {
            (Some(chosen), _) => image.id = chosen.id.clone(),
            (None, Some(missing)) => return Err(missing),
            (None, None) => return Err(refused(format!("{} holds no image", self.shown))),
        }
        image.children = found.into_iter().map(|child| child.planned).collect();
        Ok(())
    }
}

/// An image of an index.
struct Child {
    planned: Planned,
    id: slipway_image::Digest,
    platform: Platform,
    /// It is an image, and no attestation of one.
    runs: bool,
}

fn child(listing: &Listing, shelf: &mut impl Shelf, descriptor: &Descriptor) -> Result<Child> {
    let (planned, parsed) = manifest(listing, shelf, descriptor)?;
    let Manifest::Image(parsed) = parsed else {
        return Err(refused(format!("{} is no image", descriptor.digest)));
    };
    let platform = check_image(listing, shelf, &parsed)?;
    let attests = descriptor
        .annotations
        .contains_key("vnd.docker.reference.type");
    Ok(Child {
        planned,
        id: parsed.config.digest.clone(),
        platform,
        runs: parsed.is_image() && !attests,
    })
}

/// Whether an image and all that it names is in the archive: then what is wrong with it is wrong.
fn is_all_here(listing: &Listing, shelf: &mut impl Shelf, descriptor: &Descriptor) -> bool {
    if listing.blob(&descriptor.digest).is_none() {
        return false;
    }
    match manifest(listing, shelf, descriptor) {
        Ok((_, parsed)) => parsed
            .references()
            .iter()
            .all(|named| listing.blob(&named.digest).is_some()),
        Err(_) => true,
    }
}
