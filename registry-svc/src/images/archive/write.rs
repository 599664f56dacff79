//! What stands in an archive of images: an OCI layout with docker's own lists beside it, so that every docker,
//! podman, skopeo and containerd reads it. The same images give the same bytes.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use bytes::Bytes;
use serde_json::json;
use slipway_image::{
    Descriptor, Digest,
    layer::{Entry, Kind, tar_write::TarWriter},
    manifest::{ImageIndex, ImageManifest},
    media_type,
};

use super::{
    listing::blob_path,
    oci::{CONTAINERD_NAME, REF_NAME},
};
use crate::names::{Repository, Tag};

/// An image that is saved, under one of its names or none.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Its name.
    pub name: Option<(Repository, Tag)>,
    /// Manifest or index.
    pub top: Descriptor,
    /// The image that docker's own list names: of an index one platform.
    pub image: ImageManifest,
}

/// An archive: blobs, and lists of what they are.
#[derive(Debug, Default)]
pub struct Contents {
    /// Blobs and their sizes.
    pub blobs: BTreeMap<Digest, u64>,
    /// Files beside them.
    pub lists: Vec<(&'static str, Bytes)>,
}

impl Contents {
    /// An archive of these images, whose blobs are named so far.
    pub fn with_lists(blobs: BTreeMap<Digest, u64>, images: &[Saved]) -> Self {
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        let mut lists = vec![
            ("index.json", encode(&index(images))),
            ("manifest.json", encode(&docker_list(images))),
            ("oci-layout", encode(&layout)),
        ];
        let repositories = repositories(images);
        if !repositories.is_empty() {
            lists.push(("repositories", encode(&repositories)));
        }
        Self { blobs, lists }
    }

    /// Writes it; `blob` writes the content of a blob and says how many bytes that were.
    pub fn write<W: Write>(
        &self,
        out: W,
        mut blob: impl FnMut(&Digest, &mut W) -> io::Result<u64>,
    ) -> io::Result<W> {
        let mut tar = TarWriter::new(out);
        let mut folders = vec!["blobs"];
        for digest in self.blobs.keys() {
            let path = blob_path(digest);
            let folder = path.rsplit_once('/').expect("it has folders").0;
            folders.push(match folder {
                "blobs/sha256" => "blobs/sha256",
                _ => "blobs/sha512",
            });
        }
        folders.dedup();
        for folder in folders {
            tar.append(&entry(folder, Kind::Folder, 0), &mut io::empty())?;
        }
        for (digest, size) in &self.blobs {
            let entry = entry(&blob_path(digest), Kind::File, *size);
            tar.append_with(&entry, |out| blob(digest, out))?;
        }
        for (name, content) in &self.lists {
            let entry = entry(name, Kind::File, content.len() as u64);
            tar.append(&entry, &mut &content[..])?;
        }
        tar.finish()
    }
}

fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.into(),
        mode: if kind == Kind::Folder { 0o755 } else { 0o644 },
        kind,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        size,
        xattrs: Vec::new(),
    }
}

fn encode(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain data").into()
}

fn index(images: &[Saved]) -> ImageIndex {
    let manifests = images.iter().map(|saved| {
        let mut descriptor = saved.top.clone();
        if let Some((repository, tag)) = &saved.name {
            let name = format!("{repository}:{tag}");
            descriptor.annotations = BTreeMap::from([
                (CONTAINERD_NAME.to_owned(), name),
                (REF_NAME.to_owned(), tag.to_string()),
            ]);
        }
        descriptor
    });
    ImageIndex {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        artifact_type: None,
        manifests: manifests.collect(),
        subject: None,
        annotations: BTreeMap::new(),
    }
}

/// `manifest.json`: each image once, with all its names.
fn docker_list(images: &[Saved]) -> serde_json::Value {
    let mut items: Vec<(&ImageManifest, Vec<String>)> = Vec::new();
    for saved in images {
        let name = saved.name.as_ref();
        let name = name.map(|(repository, tag)| format!("{}:{tag}", repository.familiar()));
        match items.iter_mut().find(|(image, _)| **image == saved.image) {
            Some((_, names)) => names.extend(name),
            None => items.push((&saved.image, name.into_iter().collect())),
        }
    }
    let items = items.into_iter().map(|(image, names)| {
        let layers: Vec<_> = image.layers.iter().map(|l| blob_path(&l.digest)).collect();
        json!({
            "Config": blob_path(&image.config.digest),
            "RepoTags": (!names.is_empty()).then_some(names),
            "Layers": layers,
        })
    });
    items.collect()
}

/// `repositories`, which dockers older than 1.10 read: the names alone are still looked at by some.
fn repositories(images: &[Saved]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for saved in images {
        if let (Some((repository, tag)), Some(last)) = (&saved.name, saved.image.layers.last()) {
            all.entry(repository.familiar().to_owned())
                .or_default()
                .insert(tag.to_string(), last.digest.encoded().to_owned());
        }
    }
    all
}
