//! The build cache: what a step made, by a key of content.
//!
//! A record is a small manifest in registry-svc, tagged with its key, in a repository of its own: it
//! holds the layer alive, any builder of the site finds it, and the registry's garbage collection
//! needs no special case.

pub mod carried;
pub mod filter;
pub mod key;
pub mod uses;

use std::{collections::BTreeMap, time::SystemTime};

use slipway_image::{Descriptor, Digest, manifest::ImageManifest, media_type};

use carried::MountId;
pub use filter::{Filters, Prune, to_remove};
pub use key::{Key, KeyBuilder};
use uses::Uses;

use crate::{error::Result, layer::Layer, registry::Registry};

/// Repository of the records and of the layers that builds make.
pub const REPOSITORY: &str = "slipway.internal/build-cache";

const ARTIFACT: &str = "application/vnd.slipway.build-record.v1";
const DIFF_ID: &str = "dev.slipway.build.diff-id";
const CREATED: &str = "dev.slipway.build.created";
const STEP: &str = "dev.slipway.build.step";

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// None = the files stayed as they were.
    pub layer: Option<Layer>,
    /// When it was made, RFC 3339: so a cached build gives the very same image.
    pub created: String,
}

/// The records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    registry: Registry,
    /// Who uses which.
    pub uses: Uses,
}

impl Cache {
    /// In a registry.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            uses: Uses::default(),
        }
    }

    /// The record of a key. One that cannot be read counts as none: the step is done again.
    pub async fn find(&self, key: &Key) -> Result<Option<Record>> {
        let found = self.registry.manifest(REPOSITORY, &key.to_string()).await?;
        Ok(found.and_then(|content| parse(&content)))
    }

    /// Keeps a record.
    pub async fn keep(&self, key: &Key, record: &Record, step: &str) -> Result<()> {
        // The config that OCI prescribes for artifacts; only the first time it is really sent.
        let empty = bytes::Bytes::from_static(b"{}");
        let config = self.registry.put_blob(REPOSITORY, empty).await?;
        let content = encode(config, record, step);
        let tags = vec![key.to_string()];
        self.registry
            .put_manifest(REPOSITORY, tags, media_type::OCI_MANIFEST, content)
            .await
            .map(drop)
    }
}

/// A record as people are shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// The instruction.
    pub step: String,
    /// Bytes of its layer.
    pub size: u64,
    /// When it was made.
    pub created: SystemTime,
}

/// A record, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDisk {
    /// The record.
    pub record: Listed,
    /// Bytes on disk of it and its layer.
    pub bytes: u64,
    /// Bytes of that which images have too.
    pub shared: u64,
    /// When it was last found, or made.
    pub last_used: SystemTime,
    /// How often it was found since this service started.
    pub uses: u64,
    /// A build that runs counts on it.
    pub in_use: bool,
    /// It is no record but a cache mount.
    pub mount: Option<Mount>,
}

/// A folder of `RUN --mount=type=cache` at a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// At which one.
    pub worker: usize,
    /// What Dockerfiles call it.
    pub id: String,
    /// The same in full, for a worker.
    pub whole: MountId,
}

impl Cache {
    /// All records, oldest first.
    pub async fn list(&self) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        for (key, created) in self.registry.tags(REPOSITORY).await? {
            let Some(content) = self.registry.manifest(REPOSITORY, &key).await? else {
                continue;
            };
            // What is no record only takes room.
            let manifest: Option<ImageManifest> = serde_json::from_slice(&content).ok();
            let step = manifest.as_ref().and_then(|m| m.annotations.get(STEP));
            found.push(Listed {
                step: step.cloned().unwrap_or_default(),
                size: manifest.map_or(0, |m| m.layers.iter().map(|l| l.size).sum()),
                key,
                created,
            });
        }
        found.sort_by_key(|r| r.created);
        Ok(found)
    }

    /// All records and what they take, oldest first.
    pub async fn usage(&self) -> Result<Vec<OnDisk>> {
        let sizes = self.registry.usage(REPOSITORY).await?;
        let on_disk = |record: Listed| {
            let (bytes, shared) = sizes.get(&record.key).copied().unwrap_or_default();
            let used = self.uses.of(&record.key);
            OnDisk {
                last_used: used.last.map_or(record.created, |t| t.max(record.created)),
                uses: used.count,
                in_use: used.holders > 0,
                mount: None,
                record,
                bytes,
                shared,
            }
        };
        Ok(self.list().await?.into_iter().map(on_disk).collect())
    }

    /// Removes records; returns their keys and the bytes that became free.
    pub async fn prune(&self, prune: &Prune) -> Result<(Vec<String>, u64)> {
        let mut removed = (Vec::new(), 0);
        for record in to_remove(&self.usage().await?, prune) {
            if let Some(bytes) = self.remove(&record.record.key).await? {
                removed.0.push(record.record.key.clone());
                removed.1 += bytes;
            }
        }
        Ok(removed)
    }

    /// Removes a record; returns the bytes that became free. A layer that an image holds too stays with the
    /// image, and a record that a running build counts on stays too: then none.
    pub async fn remove(&self, key: &str) -> Result<Option<u64>> {
        let _removing = self.uses.removing().await;
        if self.uses.of(key).holders > 0 {
            return Ok(None);
        }
        let bytes = self.registry.remove(REPOSITORY, key).await?;
        self.uses.forget(key);
        Ok(Some(bytes))
    }
}

fn encode(config: Digest, record: &Record, step: &str) -> Vec<u8> {
    let mut annotations = BTreeMap::from([
        (CREATED.to_owned(), record.created.clone()),
        (STEP.to_owned(), step.chars().take(1000).collect()),
    ]);
    if let Some(layer) = &record.layer {
        annotations.insert(DIFF_ID.to_owned(), layer.diff_id.to_string());
    }
    let manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: Some(ARTIFACT.to_owned()),
        config: Descriptor::new(media_type::OCI_EMPTY, config, 2),
        layers: record.layer.iter().map(|l| l.descriptor.clone()).collect(),
        subject: None,
        annotations,
    };
    // Plain data with string keys: there is nothing that could fail.
    serde_json::to_vec(&manifest).unwrap_or_default()
}

fn parse(content: &[u8]) -> Option<Record> {
    let manifest: ImageManifest = serde_json::from_slice(content).ok()?;
    if manifest.artifact_type.as_deref() != Some(ARTIFACT) {
        return None;
    }
    let layer = match manifest.layers.into_iter().next() {
        None => None,
        Some(descriptor) => Some(Layer {
            descriptor,
            diff_id: manifest.annotations.get(DIFF_ID)?.parse().ok()?,
            repository: REPOSITORY.to_owned(),
        }),
    };
    Some(Record {
        layer,
        created: manifest.annotations.get(CREATED)?.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_went() {
        let layer = Layer {
            descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of("blob"), 4),
            diff_id: Digest::of("plain"),
            repository: REPOSITORY.to_owned(),
        };
        for layer in [Some(layer), None] {
            let record = Record {
                layer,
                created: "2026-01-01T00:00:00Z".to_owned(),
            };
            let content = encode(Digest::of("{}"), &record, "RUN x");
            assert_eq!(parse(&content), Some(record));
        }
        assert_eq!(parse(b"{}"), None);
    }
}
