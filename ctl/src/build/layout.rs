//! A folder that is an OCI layout (OCI image-layout.md): what its index names, and its blobs on their way into
//! registry-svc, those only that it lacks.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use slipway_image::{Descriptor, Digest, manifest::ImageIndex, manifest::ImageManifest};
use slipway_proto::registry::v1::{
    PutManifestRequest, StatBlobsRequest, WriteBlobRequest, write_blob_request,
};
use slipway_service::CHUNK_SIZE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client::Site,
    failure::{Failure, Outcome},
};

/// Largest manifest or config that is read: a message has at most 4 MiB.
const LARGEST: u64 = 3 << 20;
/// Annotations with an image's name: OCI's, and containerd's.
const NAMES: [&str; 2] = [
    "org.opencontainers.image.ref.name",
    "io.containerd.image.name",
];

/// A layout.
pub struct Layout<'a> {
    folder: &'a Path,
}

impl<'a> Layout<'a> {
    /// Of a folder, which is read when something of it is wanted.
    pub const fn new(folder: &'a Path) -> Self {
        Self { folder }
    }

    /// What its index names.
    pub fn index(&self) -> Outcome<ImageIndex> {
        let text = read(&self.folder.join("index.json"))?;
        serde_json::from_str(&text).map_err(|e| broken("index.json", &e))
    }

    /// The image of a name, or the only one that there is (buildx, build/opt.go, resolveDigest).
    pub fn named(&self, tag: &str) -> Outcome<Option<Descriptor>> {
        let index = self.index()?;
        let has = |d: &&Descriptor| {
            let names = NAMES.iter().filter_map(|key| d.annotations.get(*key));
            names
                .clone()
                .any(|name| name == tag || name.ends_with(&format!(":{tag}")))
        };
        let found = index.manifests.iter().find(has);
        let only = match &index.manifests[..] {
            [only] => Some(only),
            _ => None,
        };
        Ok(found.or(only).cloned())
    }

    /// A manifest, an index or a config as it is written.
    pub fn text(&self, digest: &Digest) -> Outcome<String> {
        let text = read(&self.blob(digest))?;
        match Digest::of(&text) == *digest {
            true => Ok(text),
            false => Err(Failure::new(format!("{digest} is not what its name says"))),
        }
    }

    /// Whether a blob is here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob(digest).exists()
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.encoded())
    }

    /// Sends those blobs that a repository lacks.
    pub async fn send<'b>(
        &self,
        site: &Site,
        repository: &str,
        blobs: impl Iterator<Item = &'b Descriptor> + Clone,
    ) -> Outcome<()> {
        let request = StatBlobsRequest {
            repository: repository.to_owned(),
            digests: blobs.clone().map(|b| b.digest.to_string()).collect(),
        };
        let here = site.registry().stat_blobs(request).await?;
        let here = here.into_inner().present;
        for blob in blobs {
            let name = blob.digest.to_string();
            if !here.iter().any(|p| p.digest == name) {
                send(site, &self.blob(&blob.digest), repository, &name, blob.size).await?;
            }
        }
        Ok(())
    }

    /// Puts an image's manifest into a repository, after all that it names.
    pub async fn put_image(
        &self,
        site: &Site,
        (repository, tag): (&str, Option<&str>),
        digest: &Digest,
    ) -> Outcome<()> {
        let text = self.text(digest)?;
        let manifest: ImageManifest =
            serde_json::from_str(&text).map_err(|e| broken("its manifest", &e))?;
        let blobs = manifest.layers.iter().chain([&manifest.config]);
        self.send(site, repository, blobs).await?;
        let kind = manifest.media_type.as_deref();
        let kind = kind.unwrap_or(slipway_image::media_type::OCI_MANIFEST);
        put(site, (repository, tag), kind, text).await
    }
}

/// Puts a manifest or an index into a repository.
pub async fn put(
    site: &Site,
    (repository, tag): (&str, Option<&str>),
    media_type: &str,
    text: String,
) -> Outcome<()> {
    let request = PutManifestRequest {
        repository: repository.to_owned(),
        tags: tag.map(str::to_owned).into_iter().collect(),
        media_type: media_type.to_owned(),
        content: text.into_bytes().into(),
    };
    site.registry().put_manifest(request).await?;
    Ok(())
}

/// JSON that is none.
pub fn broken(what: &str, error: &serde_json::Error) -> Failure {
    Failure::new(format!("{what} cannot be read: {error}"))
}

fn read(path: &Path) -> Outcome<String> {
    let failed = |e: io::Error| Failure::new(format!("cannot read {}: {e}", path.display()));
    if fs::metadata(path).map_err(failed)?.len() > LARGEST {
        return Err(Failure::new(format!("{} is too large", path.display())));
    }
    fs::read_to_string(path).map_err(failed)
}

async fn send(site: &Site, path: &Path, repository: &str, digest: &str, size: u64) -> Outcome<()> {
    let failed = |e: io::Error| Failure::new(format!("cannot read {}: {e}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let (sender, receiver) = mpsc::channel(8);
    let header = write_blob_request::Header {
        repository: repository.to_owned(),
        digest: digest.to_owned(),
        size,
        ..write_blob_request::Header::default()
    };
    let part = |part| WriteBlobRequest { part: Some(part) };
    let reading = tokio::task::spawn_blocking(move || {
        let mut next = Some(part(write_blob_request::Part::Header(header)));
        while let Some(message) = next.take() {
            // Who takes it has ended, and says why.
            if sender.blocking_send(message).is_err() {
                break;
            }
            let mut data = Vec::new();
            file.by_ref()
                .take(CHUNK_SIZE as u64)
                .read_to_end(&mut data)?;
            if !data.is_empty() {
                next = Some(part(write_blob_request::Part::Data(data.into())));
            }
        }
        Ok(())
    });
    let mut registry = site.registry();
    let stored = registry.write_blob(ReceiverStream::new(receiver)).await;
    let read = reading.await.map_err(io::Error::other).and_then(|r| r);
    read.map_err(failed)?;
    stored?;
    Ok(())
}
