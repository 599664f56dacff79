//! `commit`: what a container changed becomes a layer of a new image.
//!
//! The config of the image is decided in [`config`]; here its layer is packed from the container's
//! writable layer, which stays as it is, and everything stored in registry-svc.

pub mod config;

use std::{
    fs,
    io::{self, Read, Write as _},
    path::PathBuf,
};

use slipway_image::{
    Descriptor, Digest, ImageConfig, Reference,
    config::History,
    layer::{
        Entry, Kind, gzip,
        pack::{self, LayerWriter, Options, Packed, Sink},
    },
    manifest::ImageManifest,
    media_type,
};
use slipway_proto::{
    registry::v1::pull_request::Policy,
    runtime::v1::{ConfigChange, Mount},
};
use slipway_service::{chunks::ChunkWriter, whole::Whole};
use tokio::sync::mpsc;

use super::{
    files::is_mounted,
    manager::Manager,
    record::Record,
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    error::{Error, Tried as _},
    registry::Image,
};

/// Where an image without a name goes, as builds' do. It shows as `<none>`.
const UNNAMED: &str = "docker.io/library/untagged";
/// Chunks that wait for the registry.
const CHUNKS: usize = 8;

/// What is asked for.
#[derive(Debug, Default)]
pub struct Commit {
    /// The image's name; "" = none.
    pub reference: String,
    /// Who made it.
    pub author: String,
    /// Why.
    pub message: String,
    /// Upon the container's config, in order.
    pub changes: Vec<ConfigChange>,
    /// Freeze the container meanwhile.
    pub pause: bool,
}

impl Manager {
    /// Makes an image of a container's changes; returns its id. What is in its volumes is no part of it.
    pub async fn commit(&self, container: &Container, commit: Commit) -> Result<String, Error> {
        let name = name(&commit.reference)?;
        // It is neither started nor removed meanwhile, nor continued while it is frozen for us.
        let _turn = container.operation.lock().await;
        if container.status() == Status::Removed {
            return Err(Error::NoSuchContainer(container.id.clone()));
        }
        let record = container.record();
        let base = self
            .registry()
            .image(&record.image_id, Policy::Never, None, None)
            .await?;
        let mut image = base.config.clone();
        image.config = config::of_container(&record, &base.config.config);
        let changes = commit.changes.iter().map(config::change);
        image.config.apply(changes.collect::<Result<Vec<_>, _>>()?);
        let repository = match &name {
            Some(name) => name.repository(),
            None => UNNAMED.to_owned(),
        };
        let frozen = match commit.pause {
            true => Frozen::begin(self, container)?,
            false => None,
        };
        slipway_fault::point("runtime.commit.frozen");
        let packed = self.pack_changes(container, &record, &repository).await;
        drop(frozen);
        let packed = packed?;
        slipway_fault::point("runtime.commit.layer");
        let now = jiff::Timestamp::now().to_string();
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        image.created = Some(now.clone());
        image.author = text(&commit.author);
        image.history.push(History {
            created: Some(now),
            created_by: text(&record.effective.command.join(" ")),
            author: text(&commit.author),
            comment: text(&commit.message),
            empty_layer: packed.is_none(),
        });
        let tags = name.as_ref().and_then(Reference::tag).map(str::to_owned);
        let tags = tags.into_iter().collect();
        let id = self
            .store_image(&base, image, packed.as_ref(), &repository, tags)
            .await?;
        let more = [
            ("comment", commit.message),
            ("imageID", id.clone()),
            ("imageRef", name.map_or_else(String::new, |n| n.to_string())),
        ];
        self.tell(container, "commit", &more);
        Ok(id)
    }

    /// Packs the writable layer straight into registry-svc; none when nothing was changed.
    async fn pack_changes(
        &self,
        container: &Container,
        record: &Record,
        repository: &str,
    ) -> Result<Option<Packed>, Error> {
        let (send, receive) = mpsc::channel(CHUNKS);
        let (upper, seen) = (container.folder.join("upper"), record.clone());
        let whole = Whole::default();
        let sent = whole.clone();
        let packing = tokio::task::spawn_blocking(move || -> io::Result<Packed> {
            let mut layer = LayerWriter::new(ChunkWriter::new(send), gzip::LEVEL);
            let mut visible = Visible {
                layer: &mut layer,
                record: &seen,
            };
            pack::pack_folder(&mut visible, fs::File::open(&upper)?, Options::default())?;
            let (mut writer, packed) = layer.finish()?;
            writer.flush()?;
            sent.tell();
            Ok(packed)
        });
        let stored = self.registry().write_blob(repository, receive, whole).await;
        let packed = packing.await.map_err(io::Error::other).and_then(|r| r);
        let (packed, stored) = match (packed, stored) {
            (Ok(packed), stored) => (packed, stored?),
            // The registry refused: that nobody took its bytes is all that the packer says.
            (Err(e), Err(stored)) if e.kind() == io::ErrorKind::BrokenPipe => return Err(stored),
            (Err(e), _) => {
                return Err(e).tried(|| format!("cannot pack the changes of {}", record.name));
            }
        };
        if stored != packed.digest.to_string() {
            return Err(Error::Layer {
                digest: packed.digest.to_string(),
                why: format!("registry-svc stored {stored}"),
            });
        }
        Ok(Some(packed).filter(|p| p.entries > 0))
    }

    async fn store_image(
        &self,
        base: &Image,
        mut image: ImageConfig,
        packed: Option<&Packed>,
        repository: &str,
        tags: Vec<String>,
    ) -> Result<String, Error> {
        let mut layers: Vec<_> = base
            .layers
            .iter()
            .map(|layer| {
                // A manifest must not mix docker's names of types and OCI's; the bytes are the same.
                let kind = match layer.media_type.as_str() {
                    media_type::DOCKER_LAYER_GZIP | "" => media_type::OCI_LAYER_GZIP,
                    media_type::DOCKER_LAYER => media_type::OCI_LAYER,
                    other => other,
                };
                Descriptor::new(kind, layer.digest.clone(), layer.size)
            })
            .collect();
        if let Some(packed) = packed {
            image.rootfs.diff_ids.push(packed.diff_id.clone());
            let kind = media_type::OCI_LAYER_GZIP;
            let size = packed.compressed_size;
            layers.push(Descriptor::new(kind, packed.digest.clone(), size));
        }
        let bytes = image.to_bytes();
        let id = Digest::of(&bytes);
        let config = Descriptor::new(media_type::OCI_CONFIG, id.clone(), bytes.len() as u64);
        let (send, receive) = mpsc::channel(1);
        let whole = Whole::default();
        let sent = whole.clone();
        let sending = tokio::spawn(async move {
            for chunk in bytes.chunks(slipway_service::CHUNK_SIZE) {
                // Whoever hung up says why.
                if send
                    .send(bytes::Bytes::copy_from_slice(chunk))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            sent.tell();
        });
        self.registry()
            .write_blob(repository, receive, whole)
            .await?;
        slipway_fault::point("runtime.commit.config");
        // It has ended: its channel has.
        let _ = sending.await;
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: Default::default(),
        };
        // Plain data with string keys: there is nothing that could fail.
        let content = serde_json::to_vec(&manifest).unwrap_or_default();
        self.registry()
            .put_manifest(repository, tags, content)
            .await?;
        slipway_fault::point("runtime.commit.tagged");
        Ok(id.to_string())
    }
}

fn name(text: &str) -> Result<Option<Reference>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let name: Reference = text
        .parse()
        .map_err(|_| Error::Invalid(format!("invalid reference format: {text:?}")))?;
    if name.digest().is_some() {
        return Err(Error::Invalid(
            "cannot commit to an image with a digest: name it with a tag".to_owned(),
        ));
    }
    Ok(Some(name.with_default_tag()))
}

/// A container that is frozen until this goes. The file says so to the next instance of the service.
struct Frozen {
    group: Group,
    mark: PathBuf,
}

impl Frozen {
    /// None when there is nothing to freeze, or it is frozen already.
    fn begin(manager: &Manager, container: &Container) -> Result<Option<Self>, Error> {
        if !matches!(container.status(), Status::Running { paused: false, .. }) {
            return Ok(None);
        }
        let what = || format!("cannot pause container {}", container.name());
        let frozen = Self {
            group: Group::open(manager.hierarchies(), &container.record().cgroup()),
            mark: container.commit_mark(),
        };
        fs::write(&frozen.mark, "").tried(what)?;
        // From here on dropping it continues the container.
        frozen.group.freeze(true).tried(what)?;
        Ok(Some(frozen))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        match self.group.freeze(false) {
            // What has ended needs no mark either.
            Ok(()) => drop(fs::remove_file(&self.mark)),
            Err(error) => tracing::warn!(%error, "a container stays frozen after its commit"),
        }
    }
}

/// Lets through what belongs to the container's own files: not what was only made for mounts to stand on.
struct Visible<'a, W: io::Write> {
    layer: &'a mut LayerWriter<W>,
    record: &'a Record,
}

impl<W: io::Write> Sink for Visible<'_, W> {
    fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let path = format!("/{}", String::from_utf8_lossy(&entry.path));
        // The folder itself that somebody mounted on is there afterwards, empty, as docker has it.
        let stands = |m: &Mount| m.target.trim_end_matches('/') == path;
        let place = entry.kind == Kind::Folder && self.record.spec.mounts.iter().any(stands);
        match is_mounted(self.record, &path) && !place {
            true => Ok(()),
            false => self.layer.append(entry, content),
        }
    }
}
