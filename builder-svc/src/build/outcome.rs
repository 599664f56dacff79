//! What a build gives its caller.

use std::collections::BTreeMap;

use slipway_image::Reference;

use crate::{check::report, output::Exported};

/// A build that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the first output that is an image gave.
    pub image: Option<Exported>,
    /// What `--metadata-file` says.
    pub metadata: BTreeMap<String, String>,
    /// Its names, in full.
    pub tags: Vec<String>,
    /// Steps that change files.
    pub steps: u32,
    /// How many of them were cached.
    pub cached: u32,
}

/// What a prune took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Keys of records, and names of cache mounts.
    pub removed: Vec<String>,
    /// What became free.
    pub bytes: u64,
    /// Workers whose cache mounts could not be looked at.
    pub warnings: Vec<String>,
}

impl Outcome {
    /// Of a call that built nothing.
    pub(super) fn answer(answer: report::Answer) -> Self {
        let pairs = [
            ("result.txt", answer.text),
            ("result.json", answer.json),
            ("result.statuscode", answer.status.to_string()),
        ];
        Self {
            metadata: pairs.map(|(k, v)| (k.to_owned(), v)).into(),
            ..Self::default()
        }
    }
}

/// buildx' `--metadata-file`: its keys (docs: buildx build, "Write build result metadata to a file").
pub(super) fn metadata(
    id: &str,
    image: Option<&Exported>,
    names: &[Reference],
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([(
        "buildx.build.ref".to_owned(),
        format!("default/default/{id}"),
    )]);
    let Some(image) = image else {
        return out;
    };
    let descriptor = serde_json::json!({
        "mediaType": image.media_type,
        "digest": image.manifest,
        "size": image.manifest_size,
    });
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let known = [
        ("containerimage.config.digest", image.image_id.clone()),
        ("containerimage.descriptor", descriptor.to_string()),
        ("containerimage.digest", image.manifest.clone()),
        ("image.name", names.join(",")),
    ];
    let known = known.into_iter().filter(|(_, value)| !value.is_empty());
    out.extend(known.map(|(key, value)| (key.to_owned(), value)));
    out
}
