//! An image into registry-svc, and from there to the registries of its names.

use std::collections::BTreeMap;

use slipway_image::Reference;

use super::{Exporter, image::Whole};
use crate::{error::Result, events::Event, registry::Registry};

/// Where an image without a name goes. It shows as `<none>`.
const UNNAMED: &str = "docker.io/library/untagged";

/// Stores an image under all its names: when this returns it is there, whole and durable.
pub async fn store(registry: &Registry, whole: &Whole, names: &[Reference]) -> Result<()> {
    let mut by_repository: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names {
        let tags = by_repository.entry(name.repository()).or_default();
        tags.extend(name.tag().map(str::to_owned));
    }
    if by_repository.is_empty() {
        by_repository.insert(UNNAMED.to_owned(), Vec::new());
    } else if is_there(registry, whole, names).await? {
        return Ok(());
    }
    for (repository, tags) in by_repository {
        for extra in &whole.extras {
            for blob in &extra.blobs {
                registry.put_blob(&repository, blob.clone()).await?;
            }
            let kind = &extra.descriptor.media_type;
            registry
                .put_manifest(&repository, Vec::new(), kind, extra.manifest.to_vec())
                .await?;
        }
        for image in &whole.images {
            registry.put_blob(&repository, image.config.clone()).await?;
            let kind = &image.descriptor.media_type;
            let tags = match whole.index {
                None => tags.clone(),
                Some(_) => Vec::new(),
            };
            registry
                .put_manifest(&repository, tags, kind, image.manifest.to_vec())
                .await?;
        }
        if let Some(index) = &whole.index {
            registry
                .put_manifest(&repository, tags, &whole.top.media_type, index.to_vec())
                .await?;
        }
    }
    Ok(())
}

/// Whether every name means this very image already: then nothing is written.
async fn is_there(registry: &Registry, whole: &Whole, names: &[Reference]) -> Result<bool> {
    for name in names {
        if registry.digest_of(name).await?.as_deref() != Some(&*whole.top.digest.to_string()) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Exporter<'_> {
    /// Pushes a name, telling what goes on as output of step `index`.
    pub(super) async fn push(&self, name: &Reference, index: u32) -> Result<()> {
        let auth = self.auths.get(name.domain()).cloned();
        let mut said = self.registry.push(&name.to_string(), auth).await?;
        while let Some(line) = said.next().await? {
            let data = format!("{line}\n").into();
            let log = Event::Log {
                index,
                stderr: false,
                data,
            };
            self.events.tell(log).await;
        }
        Ok(())
    }
}
