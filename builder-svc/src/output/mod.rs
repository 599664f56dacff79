//! What becomes of a built image: stored in registry-svc, pushed, or streamed to the caller.
//!
//! [`spec`] reads an output's attributes and refuses those that we don't have; [`annotation`] who is
//! annotated; [`image`] makes config, manifest and index; [`compress`] gives layers the compression
//! asked for; [`store`] puts an image into registry-svc; [`archive`] writes OCI and docker archives;
//! [`files`] streams the root filesystem; [`cache`] sends the records of the build cache out.

pub mod annotation;
pub mod archive;
pub mod cache;
pub mod compress;
pub mod files;
pub mod image;
pub mod spec;
pub mod store;

pub use spec::{Format, Kind, Output};

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    attest::{Predicate, statement},
    cache::{Cache, Key, Record, carried},
    error::Result,
    events::Events,
    registry::Registry,
    solve::{Built, Solver},
};
use slipway_image::Platform;
use slipway_proto::types::v1::RegistryAuth;

/// Chunks that wait between a writer and the caller.
const CHUNKS: usize = 8;

/// A platform's result.
pub struct Made {
    /// Which.
    pub platform: Platform,
    /// The image.
    pub built: Arc<Built>,
    /// Who built it: files are read with its worker.
    pub solver: Arc<Solver>,
}

/// All that outputs need.
pub struct Exporter<'a> {
    /// Images.
    pub registry: &'a Registry,
    /// Layers that were converted before.
    pub cache: &'a Cache,
    /// The caller.
    pub events: &'a Events,
    /// The results, one a platform.
    pub results: &'a [Made],
    /// What is said of each result.
    pub predicates: &'a [Vec<Predicate>],
    /// `--label`
    pub labels: &'a BTreeMap<String, String>,
    /// Records that each image carries for its own layers (inline cache).
    pub inline: &'a [(Key, Record)],
    /// SOURCE_DATE_EPOCH
    pub latest: Option<i64>,
    /// Credentials by registry host.
    pub auths: &'a std::collections::HashMap<String, RegistryAuth>,
}

/// What an output gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Digest of the (first) config.
    pub image_id: String,
    /// Digest of the manifest or index.
    pub manifest: String,
    /// Its media type.
    pub media_type: String,
    /// Bytes of the manifest or index.
    pub manifest_size: u64,
    /// Bytes of all blobs.
    pub size: u64,
}

impl Exporter<'_> {
    /// Does one output, as a step of its own with the number `index`. `number` is its place among the outputs.
    pub async fn export(
        &self,
        output: &Output,
        number: u32,
        index: u32,
    ) -> Result<Option<Exported>> {
        let name = match &output.kind {
            Kind::Image { .. } => "exporting to image",
            Kind::Archive { docker: false, .. } => "exporting to oci image format",
            Kind::Archive { docker: true, .. } => "exporting to docker image format",
            Kind::Files => "exporting to client",
            Kind::Nothing => return Ok(None),
        };
        let exporting = self.one(output, number, index);
        self.events.step((index, name.to_owned()), exporting).await
    }

    async fn one(&self, output: &Output, number: u32, index: u32) -> Result<Option<Exported>> {
        match &output.kind {
            Kind::Nothing => Ok(None),
            Kind::Files => self.files(number).await.map(|()| None),
            Kind::Image { push } => {
                let whole = self.whole(output).await?;
                store::store(self.registry, &whole, &output.names).await?;
                if *push {
                    for name in &output.names {
                        self.push(name, index).await?;
                    }
                }
                Ok(Some(whole.exported()))
            }
            Kind::Archive { docker } => {
                let whole = self.whole(output).await?;
                self.archive(&whole, output, *docker, number).await?;
                Ok(Some(whole.exported()))
            }
        }
    }

    /// The image as it is wanted, not stored anywhere yet.
    async fn whole(&self, output: &Output) -> Result<image::Whole> {
        let mut images = Vec::new();
        for result in self.results {
            let layers = self
                .compressed(&result.built.layers, &output.format)
                .await?;
            let inline = carried::chosen(self.inline, carried::Mode::Min, &layers);
            let field = match self.inline.is_empty() {
                true => Vec::new(),
                false => vec![carried::field(&inline, &[], &layers)],
            };
            images.push(image::image(
                &result.built,
                result.platform.clone(),
                self.labels,
                &field,
                layers,
                output,
            ));
        }
        let mut whole = image::Whole::new(images);
        let said = whole.images.iter().zip(self.predicates);
        let said = said.filter(|(_, predicates)| !predicates.is_empty());
        whole.extras = said
            .map(|(image, predicates)| statement::manifest(image, &output.names, predicates))
            .collect();
        whole.finish(output, self.results.len() > 1)?;
        Ok(whole)
    }
}
