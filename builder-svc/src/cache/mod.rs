//! The build cache: what a step made, by a key of content.
//!
//! A record is a small manifest in registry-svc, tagged with its key, in a repository of its own: it
//! holds the layer alive, any builder of the site finds it, and the registry's garbage collection
//! needs no special case.

pub mod carried;
pub mod key;

use std::{collections::BTreeMap, time::SystemTime};

use slipway_image::{Descriptor, Digest, manifest::ImageManifest, media_type};

pub use key::{Key, KeyBuilder};

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

/// The records.
#[derive(Debug, Clone)]
pub struct Cache {
    registry: Registry,
}

impl Cache {
    /// In a registry.
    pub const fn new(registry: Registry) -> Self {
        Self { registry }
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
}

/// Which records are pruned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prune {
    /// Only those made before.
    pub until: Option<SystemTime>,
    /// The newest ones stay, as long as all together have at most so many bytes.
    pub keep_bytes: u64,
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
            OnDisk {
                record,
                bytes,
                shared,
            }
        };
        Ok(self.list().await?.into_iter().map(on_disk).collect())
    }

    /// Removes records; returns their keys and the bytes that became free. A layer that an image
    /// holds too stays with the image.
    pub async fn prune(&self, prune: Prune) -> Result<(Vec<String>, u64)> {
        let records = self.list().await?;
        let mut removed = (Vec::new(), 0);
        for key in to_remove(&records, prune) {
            removed.1 += self.registry.remove(REPOSITORY, &key).await?;
            removed.0.push(key);
        }
        Ok(removed)
    }
}

fn to_remove(records: &[Listed], prune: Prune) -> Vec<String> {
    let mut kept = 0;
    let mut remove: Vec<String> = records
        .iter()
        .rev()
        .filter(|record| {
            kept += record.size;
            let fits = prune.keep_bytes > 0 && kept <= prune.keep_bytes;
            !fits && prune.until.is_none_or(|until| record.created < until)
        })
        .map(|record| record.key.clone())
        .collect();
    remove.reverse();
    remove
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
    fn the_newest_records_stay() {
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let records: Vec<Listed> = [("old", 5, 1), ("mid", 3, 2), ("new", 4, 3)]
            .map(|(key, size, time)| Listed {
                key: key.to_owned(),
                step: String::new(),
                size,
                created: at(time),
            })
            .into();
        let on = |until: Option<u64>, keep_bytes| {
            let until = until.map(at);
            to_remove(&records, Prune { until, keep_bytes })
        };
        assert_eq!(on(None, 0), ["old", "mid", "new"]);
        assert_eq!(on(None, 7), ["old"]);
        assert_eq!(on(Some(3), 0), ["old", "mid"]);
        assert_eq!(on(Some(2), 1), ["old"]);
    }

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
