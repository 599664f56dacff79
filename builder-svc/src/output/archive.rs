//! An image as an archive: an OCI layout (image-spec, image-layout.md), with docker's `manifest.json`
//! where `docker load` is to take it. Streamed to the caller: no blob is held in memory or on disk.

use std::{collections::BTreeSet, io};

use bytes::Bytes;
use serde_json::json;
use slipway_image::{
    Descriptor, Digest,
    layer::{Entry, Kind, tar_write::TarWriter},
    manifest::ImageIndex,
    media_type,
};
use slipway_service::chunks::{ChunkReader, ChunkWriter};
use std::io::Write as _;
use tokio::sync::mpsc;

use super::{CHUNKS, Exporter, Output, annotation::Part, image::Whole};
use crate::{
    error::{Error, Result},
    events::Event,
};

/// A file of an archive.
enum File {
    /// A folder.
    Folder(&'static str),
    /// Bytes that are here.
    Bytes(String, Bytes),
    /// A blob that registry-svc has.
    Blob(String, String, Box<Descriptor>),
}

impl Exporter<'_> {
    /// Streams the archive as output `number`.
    pub(super) async fn archive(
        &self,
        whole: &Whole,
        output: &Output,
        docker: bool,
        number: u32,
    ) -> Result<()> {
        if docker && whole.index.is_some() {
            // BuildKit's sentence (exporter/oci/export.go).
            return Err(Error::Unsupported(
                "docker exporter does not currently support exporting manifest lists: use type=oci, or build one platform without attestations"
                    .to_owned(),
            ));
        }
        let files = files(whole, output, docker);
        // For each file the reader of its content, in order.
        let (hand, mut take) = mpsc::channel::<(File, Option<ChunkReader>)>(1);
        let (send, receive) = mpsc::channel(CHUNKS);
        let writing = tokio::task::spawn_blocking(move || {
            let mut out = TarWriter::new(ChunkWriter::new(send));
            while let Some((file, content)) = take.blocking_recv() {
                write(&mut out, &file, content)?;
            }
            out.finish()?.flush()
        });
        let reading = async {
            for file in files {
                let File::Blob(_, repository, descriptor) = &file else {
                    if hand.send((file, None)).await.is_err() {
                        break;
                    }
                    continue;
                };
                let (blob, content) = mpsc::channel(CHUNKS);
                let (repository, digest) = (repository.clone(), descriptor.digest.clone());
                if hand
                    .send((file, Some(ChunkReader::new(content))))
                    .await
                    .is_err()
                {
                    break;
                }
                self.registry.read_blob(&repository, &digest, blob).await?;
            }
            drop(hand);
            Ok(())
        };
        let telling = tell(self, number, receive);
        let (read, (), written) = tokio::join!(reading, telling, writing);
        // A blob that cannot be read cuts the archive short: its error is the cause.
        read?;
        written
            .map_err(io::Error::other)
            .and_then(|r| r)
            .map_err(|e| Error::Invalid(format!("the archive could not be written: {e}")))?;
        self.end(number).await;
        Ok(())
    }

    /// Says that an output is complete.
    pub(super) async fn end(&self, output: u32) {
        let last = Event::Output {
            output,
            data: Bytes::new(),
            last: true,
        };
        self.events.tell(last).await;
    }
}

/// Passes chunks on to the caller.
pub(super) async fn tell(exporter: &Exporter<'_>, output: u32, mut chunks: mpsc::Receiver<Bytes>) {
    while let Some(data) = chunks.recv().await {
        let chunk = Event::Output {
            output,
            data,
            last: false,
        };
        exporter.events.tell(chunk).await;
    }
}

/// What is in the archive, in an order that never changes: what names others comes last.
fn files(whole: &Whole, output: &Output, docker: bool) -> Vec<File> {
    let mut files = vec![File::Folder("blobs"), File::Folder("blobs/sha256")];
    let mut seen = BTreeSet::new();
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.encoded());
    let mut bytes = |files: &mut Vec<File>, content: &Bytes| {
        let digest = Digest::of(content);
        if seen.insert(digest.clone()) {
            files.push(File::Bytes(path(&digest), content.clone()));
        }
    };
    for image in &whole.images {
        bytes(&mut files, &image.config);
        bytes(&mut files, &image.manifest);
    }
    for extra in &whole.extras {
        extra.blobs.iter().for_each(|b| bytes(&mut files, b));
        bytes(&mut files, &extra.manifest);
    }
    if let Some(index) = &whole.index {
        bytes(&mut files, index);
    }
    for layer in whole.images.iter().flat_map(|i| &i.layers) {
        if seen.insert(layer.descriptor.digest.clone()) {
            files.push(File::Blob(
                path(&layer.descriptor.digest),
                layer.repository.clone(),
                Box::new(layer.descriptor.clone()),
            ));
        }
    }
    files.push(File::Bytes("index.json".to_owned(), top(whole, output)));
    if docker && let Some(image) = whole.images.first() {
        let manifest = json!([{
            "Config": path(&image.config_descriptor.digest),
            "RepoTags": output.names.iter().map(slipway_image::Reference::familiar).collect::<Vec<_>>(),
            "Layers": image.layers.iter().map(|l| path(&l.descriptor.digest)).collect::<Vec<_>>(),
        }]);
        let content = manifest.to_string().into();
        files.push(File::Bytes("manifest.json".to_owned(), content));
    }
    let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
    files.push(File::Bytes("oci-layout".to_owned(), layout.into()));
    files
}

/// `index.json`: the image once a name, with containerd's and OCI's annotations of it.
fn top(whole: &Whole, output: &Output) -> Bytes {
    let mut manifests = Vec::new();
    for name in output.names.iter().map(Some).chain([None]) {
        if name.is_none() && !manifests.is_empty() {
            break;
        }
        let mut descriptor = whole.top.clone();
        if whole.index.is_some() {
            descriptor.annotations = output.annotations.of(Part::IndexDescriptor, None);
        }
        if let Some(name) = name {
            let tag = name.tag().unwrap_or("latest").to_owned();
            let known = [
                ("io.containerd.image.name", name.to_string()),
                ("org.opencontainers.image.ref.name", tag),
            ];
            let known = known.map(|(k, v)| (k.to_owned(), v));
            descriptor.annotations.extend(known);
        }
        manifests.push(descriptor);
    }
    let index = ImageIndex {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    // Plain data with string keys: there is nothing that could fail.
    serde_json::to_vec(&index).unwrap_or_default().into()
}

fn write(
    out: &mut TarWriter<ChunkWriter>,
    file: &File,
    content: Option<ChunkReader>,
) -> io::Result<()> {
    // As containerd writes them (images/archive/exporter.go).
    let (path, kind, mode, size) = match file {
        File::Folder(path) => ((*path).to_owned(), Kind::Folder, 0o755, 0),
        File::Bytes(path, bytes) => (path.clone(), Kind::File, 0o444, bytes.len() as u64),
        File::Blob(path, _, blob) => (path.clone(), Kind::File, 0o444, blob.size),
    };
    let entry = Entry {
        path: path.into_bytes(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        size,
        xattrs: Vec::new(),
    };
    match (file, content) {
        (File::Bytes(_, bytes), _) => out.append(&entry, &mut &bytes[..]),
        (_, Some(mut content)) => out.append(&entry, &mut content),
        (_, None) => out.append(&entry, &mut io::empty()),
    }
}
