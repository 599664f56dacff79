//! Which images an archive has: all that its lists name, checked before anything is stored.

use std::{collections::HashMap, io::Read};

use bytes::Bytes;
use slipway_image::{
    Algorithm, Descriptor, Digest, Manifest, Platform, Reference,
    manifest::{ImageManifest, MAX_SIZE},
    media_type,
};

use super::{
    Shelf, docker,
    listing::{File, Listing},
    oci, refused,
};
use crate::{
    error::{Error, Result},
    images::ConfigView,
};

/// Most images, and names of one: what is read of each is read into memory.
pub(super) const IMAGES: usize = 10_000;

/// A manifest or an index on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Of its content.
    pub digest: Digest,
    /// Its own.
    pub media_type: String,
    /// Byte by byte.
    pub content: Bytes,
}

/// An image, or an index of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its names, with a tag each; none is an image without a name.
    pub names: Vec<Reference>,
    /// What the names are to name.
    pub top: Planned,
    /// Of an index: its images that are in the archive, to be stored first.
    pub children: Vec<Planned>,
    /// All that the index names is in the archive.
    pub is_whole: bool,
    /// The image's id: of an index, that of the image for this host, or of its first one.
    pub id: Digest,
}

/// The images of an archive; of several platforms that one only which is wanted.
pub fn plan(
    listing: &Listing,
    shelf: &mut impl Shelf,
    platform: Option<&Platform>,
) -> Result<Vec<Image>> {
    let mut shelf = Remembering {
        shelf,
        inflated: HashMap::new(),
    };
    let images = if listing.has("oci-layout") {
        oci::images(listing, &mut shelf, platform)?
    } else if listing.has("manifest.json") {
        docker::images(listing, &mut shelf, platform)?
    } else if listing.has("repositories") {
        return Err(refused(
            "it was written by a docker older than 1.10: load it with docker 24, and save it again",
        ));
    } else {
        return Err(refused(
            "it has neither manifest.json nor oci-layout: it is no archive of images. \
             For the files of a root there is: ctl import",
        ));
    };
    match images.is_empty() {
        true => Err(refused("it holds no images")),
        false => Ok(images),
    }
}

/// Images of an archive share layers: each is inflated once.
struct Remembering<'a, S> {
    shelf: &'a mut S,
    inflated: HashMap<(Digest, Algorithm), Digest>,
}

impl<S: Shelf> Shelf for Remembering<'_, S> {
    fn put(
        &mut self,
        promised: Option<&Digest>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Digest> {
        self.shelf.put(promised, size, content)
    }

    fn small(&mut self, digest: &Digest) -> Result<Bytes> {
        self.shelf.small(digest)
    }

    fn plain_digest(&mut self, layer: &Digest, like: &Digest) -> Result<Digest> {
        let asked = (layer.clone(), like.algorithm());
        if let Some(known) = self.inflated.get(&asked) {
            return Ok(known.clone());
        }
        let digest = self.shelf.plain_digest(layer, like)?;
        self.inflated.insert(asked, digest.clone());
        Ok(digest)
    }

    fn start(&mut self, digest: &Digest) -> Result<Bytes> {
        self.shelf.start(digest)
    }
}

/// The JSON of a name.
pub(super) fn json<T: serde::de::DeserializeOwned>(
    listing: &Listing,
    shelf: &mut impl Shelf,
    name: &str,
) -> Result<T> {
    let file = listing
        .find(name)
        .ok_or_else(|| refused(format!("{name} is not in it")))?;
    let content = small(shelf, file, name)?;
    serde_json::from_slice(&content).map_err(|e| refused(format!("{name}: {e}")))
}

/// Content that is read whole.
pub(super) fn small(shelf: &mut impl Shelf, file: &File, name: &str) -> Result<Bytes> {
    match file.size > MAX_SIZE as u64 {
        true => Err(refused(format!("{name} is larger than {MAX_SIZE} bytes"))),
        false => shelf.small(&file.digest),
    }
}

/// An image whose manifest is known: everything that it names is in the archive, is what it says, and fits
/// together. Returns its platform.
pub(super) fn check_image(
    listing: &Listing,
    shelf: &mut impl Shelf,
    manifest: &ImageManifest,
) -> Result<Platform> {
    let config = &manifest.config;
    let file = find_blob(listing, config)?;
    for layer in &manifest.layers {
        if !media_type::is_nondistributable(&layer.media_type) {
            find_blob(listing, layer)?;
        }
    }
    let content = small(shelf, file, &config.digest.to_string())?;
    let view: ConfigView = serde_json::from_slice(&content)
        .map_err(|e| refused(format!("the config {}: {e}", config.digest)))?;
    if manifest.is_image()
        && manifest
            .layers
            .iter()
            .all(|l| media_type::is_layer(&l.media_type))
    {
        check_layers(shelf, manifest, &view)?;
    }
    Ok(Platform::new(&view.os, &view.architecture, &view.variant))
}

pub(super) fn check_layers(
    shelf: &mut impl Shelf,
    manifest: &ImageManifest,
    view: &ConfigView,
) -> Result<()> {
    let diff_ids = view.rootfs.diff_ids.as_deref().unwrap_or_default();
    let config = &manifest.config.digest;
    if diff_ids.len() != manifest.layers.len() {
        return Err(refused(format!(
            "the config {config} speaks of {} layers, its manifest of {}",
            diff_ids.len(),
            manifest.layers.len()
        )));
    }
    for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let diff_id: Digest = diff_id
            .parse()
            .map_err(|_| refused(format!("the config {config}: invalid digest {diff_id:?}")))?;
        if layer.digest == diff_id || media_type::is_nondistributable(&layer.media_type) {
            continue;
        }
        let actual = shelf.plain_digest(&layer.digest, &diff_id)?;
        if actual != diff_id {
            return Err(refused(format!(
                "the layer {} holds {actual} and not {diff_id}, as the config {config} says",
                layer.digest
            )));
        }
    }
    Ok(())
}

/// The file of a descriptor, which must have its size.
pub(super) fn find_blob<'a>(listing: &'a Listing, wanted: &Descriptor) -> Result<&'a File> {
    let digest = &wanted.digest;
    match listing.blob(digest) {
        Some(file) if file.size == wanted.size => Ok(file),
        Some(file) => Err(refused(format!(
            "{digest} has {} bytes and not {}",
            file.size, wanted.size
        ))),
        None => Err(refused(format!("{digest} is named, and is not in it"))),
    }
}

/// Reads and parses a manifest of the layout.
pub(super) fn manifest(
    listing: &Listing,
    shelf: &mut impl Shelf,
    wanted: &Descriptor,
) -> Result<(Planned, Manifest)> {
    let digest = wanted.digest.clone();
    let content = small(shelf, find_blob(listing, wanted)?, &digest.to_string())?;
    let kind = &wanted.media_type;
    let parsed = Manifest::parse(kind, &content).map_err(|e| refused(format!("{digest}: {e}")))?;
    let planned = Planned {
        digest,
        media_type: kind.clone(),
        content,
    };
    Ok((planned, parsed))
}

/// A name with a tag, as the lists have them.
pub(super) fn name(text: &str) -> Result<Reference> {
    let invalid = |why: &str| refused(format!("invalid tag {text:?}: {why}"));
    let name: Reference = text.parse().map_err(|e| invalid(&format!("{e}")))?;
    match (name.tag(), name.digest()) {
        (Some(_), None) => Ok(name),
        _ => Err(invalid("a name and a tag are wanted")),
    }
}

/// Nothing of an image is for the wanted platform.
pub(super) fn no_platform(name: &str, platform: &Platform) -> Error {
    Error::PlatformNotFound {
        name: name.to_owned(),
        platform: platform.to_string(),
    }
}
