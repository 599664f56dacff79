//! What is in an image: packages that its package managers know, as a document of SPDX 2.3.
//!
//! [`scan`] looks through a layer; [`found`] tells which files name packages, and puts the layers together;
//! [`system`] and [`language`] read these files; [`spdx`] writes the document.
//!
//! The layers are read as registry-svc has them: nothing is unpacked, and a layer is looked through once, then
//! what was found is in the build cache. Layers are anybody's: everything in them is bounded.

pub mod found;
pub mod language;
pub mod scan;
pub mod spdx;
pub mod system;

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use slipway_dockerfile::{Dockerfile, Instruction};
use slipway_image::{Descriptor, Digest, layer::limits::Limits};
use slipway_service::chunks::ChunkReader;
use tokio::sync::mpsc;

use super::Predicate;
use crate::{
    cache::{Cache, Key, KeyBuilder, REPOSITORY, Record},
    error::{Error, Result},
    layer::Layer,
    registry::Registry,
};
use found::Facts;

/// The kind of statement (in-toto/attestation, spec/predicates/spdx.md).
const KIND: &str = "https://spdx.dev/Document";
/// Of what was found in a layer, in the cache.
const MEDIA_TYPE: &str = "application/vnd.slipway.packages.v1+json";
/// Changes whenever the same layer would be read differently.
const VERSION: u64 = 1;
/// Layers that are looked through at once.
const AT_ONCE: usize = 2;
/// Most bytes of what is found in a layer.
const MAX_FACTS: usize = 256 << 20;
/// Chunks that wait between registry-svc and the scan.
const CHUNKS: usize = 8;

/// Refuses what asks for more than the result (BuildKit, frontend/dockerfile/docs: SBOM scan arguments).
pub fn check(file: &Dockerfile, given: &BTreeMap<String, String>) -> Result<()> {
    const MORE: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];
    let stages = file.stages.iter().flat_map(|s| &s.instructions);
    for located in file.arguments.iter().chain(stages) {
        let Instruction::Arg(arguments) = &located.instruction else {
            continue;
        };
        for (name, default) in arguments {
            let value = given.get(name).or(default.as_ref());
            if MORE.contains(&name.as_str())
                && value.is_some_and(|v| !matches!(v.as_str(), "" | "false" | "0"))
            {
                return Err(Error::Unsupported(file.error(
                    located.place,
                    &format!("{name} is not supported: --sbom lists what is in the result only"),
                )));
            }
        }
    }
    Ok(())
}

/// Looks through layers.
pub struct Scanner<'a> {
    /// Where they are.
    pub registry: &'a Registry,
    /// Where it is kept what was found.
    pub cache: &'a Cache,
}

impl Scanner<'_> {
    /// The document about these layers, base first. `name` and `created` (RFC 3339) stand in it.
    pub async fn predicate(
        &self,
        layers: &[Layer],
        name: &str,
        created: &str,
    ) -> Result<Predicate> {
        let mut once: HashMap<Digest, Layer> = HashMap::new();
        for layer in layers {
            once.insert(layer.diff_id.clone(), layer.clone());
        }
        let facts: HashMap<Digest, Facts> =
            stream::iter(once)
                .map(|(digest, layer)| async move {
                    Ok::<_, Error>((digest, self.facts(&layer).await?))
                })
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
        let stack = layers
            .iter()
            .filter_map(|l| Some((l, facts.get(&l.diff_id)?)));
        let document = spdx::document(&found::merged(stack), name, created);
        Ok(Predicate {
            kind: KIND,
            file: Some("sbom.spdx.json".to_owned()),
            content: document,
        })
    }

    async fn facts(&self, layer: &Layer) -> Result<Facts> {
        let key = key(layer);
        if let Some(Record {
            layer: Some(kept), ..
        }) = self.cache.find(&key).await?
            && let Some(facts) = self.kept(&kept.descriptor).await?
        {
            return Ok(facts);
        }
        let mut facts = self.scan(layer, scan::Wanted::default()).await?;
        if let Some(wanted) = facts.unresolved() {
            let more = self.scan(layer, wanted).await?;
            facts.add(more);
        }
        let text = serde_json::to_vec(&facts.facts).unwrap_or_default();
        let size = text.len() as u64;
        let digest = self.registry.put_blob(REPOSITORY, text.into()).await?;
        let record = Record {
            layer: Some(Layer {
                descriptor: Descriptor::new(MEDIA_TYPE, digest.clone(), size),
                diff_id: digest,
                repository: REPOSITORY.to_owned(),
            }),
            created: jiff::Timestamp::now().to_string(),
        };
        self.cache
            .keep(&key, &record, "packages of a layer")
            .await?;
        Ok(facts.facts)
    }

    /// What was found before. What cannot be read is found again.
    async fn kept(&self, blob: &Descriptor) -> Result<Option<Facts>> {
        if blob.size > MAX_FACTS as u64 {
            return Ok(None);
        }
        let (send, mut receive) = mpsc::channel::<bytes::Bytes>(CHUNKS);
        let collecting = async {
            let mut all: Vec<u8> = Vec::new();
            while let Some(chunk) = receive.recv().await {
                all.extend_from_slice(&chunk);
            }
            all
        };
        let reading = self.registry.read_blob(REPOSITORY, &blob.digest, send);
        let (read, all) = tokio::join!(reading, collecting);
        Ok(read.ok().and_then(|()| serde_json::from_slice(&all).ok()))
    }

    async fn scan(&self, layer: &Layer, wanted: scan::Wanted) -> Result<scan::Scanned> {
        let (send, receive) = mpsc::channel(CHUNKS);
        let working = tokio::task::spawn_blocking(move || {
            scan::scan(ChunkReader::new(receive), &wanted, Limits::default())
        });
        let digest = &layer.descriptor.digest;
        let reading = self.registry.read_blob(&layer.repository, digest, send);
        let (read, scanned) = tokio::join!(reading, working);
        let scanned = scanned.map_err(io::Error::other).and_then(|r| r);
        // What cannot be looked through ends the reading too: then its own sentence is the cause.
        let (scanned, diff_id) = match (scanned, read) {
            (Ok(scanned), Ok(())) => scanned,
            (Ok(_), Err(error)) => return Err(error),
            (Err(error), _) => {
                return Err(Error::Invalid(format!(
                    "cannot list what is in the layer {digest}: {error}"
                )));
            }
        };
        // What is kept by this digest is found by other builds.
        match diff_id == layer.diff_id {
            true => Ok(scanned),
            false => Err(Error::Invalid(format!(
                "the layer {digest} unpacks to {diff_id}, not to {}: the image is broken",
                layer.diff_id
            ))),
        }
    }
}

fn key(layer: &Layer) -> Key {
    let mut key = KeyBuilder::new("packages");
    key.number(VERSION).part(layer.diff_id.to_string());
    key.finish()
}
