//! Records that travel between sites: `--cache-to` and `--cache-from`.
//!
//! The form is an ordinary OCI image: its layers are those of the records, its config has a field with
//! the records. Any registry takes it, an image can carry the records of its own layers (`type=inline`),
//! and registry-svc mirrors the layers when they are needed. It is not BuildKit's cacheconfig.v0: the
//! keys in there are digests of BuildKit's own operations, so that neither would find anything of the
//! other's.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use slipway_image::{ImageConfig, Platform, manifest::ImageManifest};

use super::{Key, REPOSITORY, Record};
use crate::{
    error::{Error, Result},
    layer::Layer,
    output::spec::truth,
};

/// The field of an image config that holds records.
pub const FIELD: &str = "dev.slipway.build-cache.v1";

/// Most records of one import: what comes from elsewhere fills no memory.
const MOST: usize = 100_000;

/// Records as the field has them.
#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    records: Vec<One>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<OneMount>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OneMount {
    id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    base: String,
    /// Place among the image's layers.
    layer: usize,
}

/// Which cache mount: what Dockerfiles call it, and what it began with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId {
    /// With the namespace in front: `/pip`.
    pub id: String,
    /// A word.
    pub base: String,
}

/// What was found elsewhere.
#[derive(Debug, Default)]
pub struct Imported {
    /// Records by key.
    pub records: HashMap<String, Record>,
    /// Cache mounts as layers, and whether they take the place of what a worker has.
    pub mounts: HashMap<MountId, (Layer, bool)>,
}

/// Whether cache mounts are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mounts {
    /// No.
    #[default]
    No,
    /// Where a worker has none, or an empty one.
    Missing,
    /// In any case.
    Replace,
}

#[derive(Debug, Serialize, Deserialize)]
struct One {
    key: String,
    /// Place among the image's layers; none = the step changed no files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    created: String,
}

/// Which records go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Those whose layers the result has.
    Min,
    /// All.
    Max,
}

/// Where records come from or go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An image in a registry.
    Registry(String),
    /// The image that is built.
    Inline,
    /// A folder of the caller's.
    Local,
}

/// One `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// Where.
    pub kind: Kind,
    /// Which records.
    pub mode: Mode,
    /// With the cache mounts of the build's steps.
    pub mounts: bool,
    /// The build goes on when it fails.
    pub ignore_error: bool,
    /// Attributes of the image that carries them: its compression.
    pub attributes: BTreeMap<String, String>,
}

/// One `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Where it is.
    pub place: Place,
    /// With cache mounts.
    pub mounts: Mounts,
}

/// Where records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An image in a registry.
    Registry(String),
    /// Config and manifest of an image whose layers the caller has put into the cache's repository.
    Sent {
        /// Its config.
        config: String,
        /// Its manifest.
        manifest: String,
    },
}

fn elsewhere(option: &str, kind: &str) -> Error {
    match kind {
        "gha" | "s3" | "azblob" => Error::Unsupported(format!(
            "{option} type={kind} is not supported: use type=registry, which any builder can reach, or type=local"
        )),
        other => Error::Invalid(format!(
            "unknown type {other:?} of {option}: registry, inline or local"
        )),
    }
}

/// Reads a `--cache-to`.
pub fn to(kind: &str, attributes: &BTreeMap<String, String>) -> Result<To> {
    let mut to = To {
        kind: match kind {
            "registry" => Kind::Registry(String::new()),
            "inline" => Kind::Inline,
            "local" => Kind::Local,
            other => return Err(elsewhere("--cache-to", other)),
        },
        mode: Mode::Min,
        mounts: false,
        ignore_error: false,
        attributes: BTreeMap::new(),
    };
    for (name, value) in attributes {
        match (name.as_str(), &mut to.kind) {
            ("ref", Kind::Registry(name)) => value.clone_into(name),
            ("mode", Kind::Registry(_) | Kind::Local) => {
                to.mode = match value.as_str() {
                    "min" => Mode::Min,
                    "max" => Mode::Max,
                    other => {
                        return Err(Error::Invalid(format!(
                            "invalid mode {other:?} of --cache-to: min or max"
                        )));
                    }
                }
            }
            ("mounts", Kind::Registry(_) | Kind::Local) => to.mounts = truth(name, value)?,
            ("ignore-error", _) => to.ignore_error = truth(name, value)?,
            // It is an image with OCI's types always.
            ("image-manifest" | "oci-mediatypes", Kind::Registry(_) | Kind::Local)
                if truth(name, value)? => {}
            (
                "compression" | "compression-level" | "force-compression",
                Kind::Registry(_) | Kind::Local,
            ) => drop(to.attributes.insert(name.clone(), value.clone())),
            _ => {
                return Err(Error::Unsupported(format!(
                    "{name}={value} is not supported for --cache-to type={kind}"
                )));
            }
        }
    }
    if to.kind == Kind::Registry(String::new()) {
        return Err(Error::Invalid(
            "--cache-to type=registry needs ref=NAME".to_owned(),
        ));
    }
    Ok(to)
}

/// Reads a `--cache-from`.
pub fn from(kind: &str, attributes: &BTreeMap<String, String>) -> Result<From> {
    let only = |allowed: &[&str]| match attributes.iter().find(|(k, _)| !allowed.contains(&&***k)) {
        Some((name, value)) => Err(Error::Unsupported(format!(
            "{name}={value} is not supported for --cache-from type={kind}"
        ))),
        None => Ok(()),
    };
    let get = |name: &str| attributes.get(name).cloned().unwrap_or_default();
    let mounts = match &*get("mounts") {
        "" => Mounts::No,
        "replace" => Mounts::Replace,
        other => match truth("mounts", other)? {
            true => Mounts::Missing,
            false => Mounts::No,
        },
    };
    let place = match kind {
        "registry" => {
            only(&["ref", "mounts"])?;
            match get("ref") {
                name if name.is_empty() => Err(Error::Invalid(
                    "--cache-from type=registry needs ref=NAME".to_owned(),
                )),
                name => Ok(Place::Registry(name)),
            }
        }
        "local" => {
            only(&["config", "manifest", "mounts"])?;
            Ok(Place::Sent {
                config: get("config"),
                manifest: get("manifest"),
            })
        }
        other => Err(elsewhere("--cache-from", other)),
    };
    Ok(From {
        place: place?,
        mounts,
    })
}

/// The records that go out in a mode, sorted: those of `layers` only, or all.
pub fn chosen(records: &[(Key, Record)], mode: Mode, layers: &[Layer]) -> Vec<(Key, Record)> {
    let result: HashSet<_> = layers.iter().map(|l| &l.diff_id).collect();
    let mut seen = HashSet::new();
    let mut out: Vec<_> = records
        .iter()
        .filter(|(_, record)| match &record.layer {
            Some(layer) => mode == Mode::Max || result.contains(&layer.diff_id),
            None => true,
        })
        .filter(|(key, _)| seen.insert(key.clone()))
        .cloned()
        .collect();
    out.sort_by_key(|(key, _)| key.to_string());
    out
}

/// The field for these records and cache mounts, of an image with these layers.
pub fn field(
    records: &[(Key, Record)],
    mounts: &[(MountId, Layer)],
    layers: &[Layer],
) -> (String, Value) {
    let records = records
        .iter()
        .filter_map(|(key, record)| {
            let layer = match &record.layer {
                None => None,
                Some(layer) => Some(layers.iter().position(|l| l.diff_id == layer.diff_id)?),
            };
            Some(One {
                key: key.to_string(),
                layer,
                created: record.created.clone(),
            })
        })
        .collect();
    let mounts = mounts.iter().filter_map(|(mount, layer)| {
        Some(OneMount {
            id: mount.id.clone(),
            base: mount.base.clone(),
            layer: layers.iter().position(|l| l.diff_id == layer.diff_id)?,
        })
    });
    let mounts = mounts.collect();
    let value = serde_json::to_value(Carried { records, mounts }).unwrap_or_default();
    (FIELD.to_owned(), value)
}

/// An image that only carries records and cache mounts: its config and layers.
pub fn image(records: &[(Key, Record)], mounts: &[(MountId, Layer)]) -> (ImageConfig, Vec<Layer>) {
    let mut layers: Vec<Layer> = Vec::new();
    let of_records = records.iter().filter_map(|(_, r)| r.layer.as_ref());
    for layer in of_records.chain(mounts.iter().map(|(_, layer)| layer)) {
        if !layers.iter().any(|l| l.diff_id == layer.diff_id) {
            layers.push(layer.clone());
        }
    }
    let host = Platform::host();
    let mut config = ImageConfig {
        os: host.os,
        architecture: host.architecture,
        ..ImageConfig::default()
    };
    config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id.clone()).collect();
    config.other.extend([field(records, mounts, &layers)]);
    (config, layers)
}

/// The records of an image, by key; none when it has none.
pub fn records(config: &ImageConfig, layers: &[Layer]) -> Option<HashMap<String, Record>> {
    let carried: Carried = serde_json::from_value(config.other.get(FIELD)?.clone()).ok()?;
    let record = |one: One| {
        let layer = match one.layer {
            None => None,
            Some(place) => Some(layers.get(place)?.clone()),
        };
        let record = Record {
            layer,
            created: one.created,
        };
        Some((one.key, record))
    };
    Some(
        carried
            .records
            .into_iter()
            .take(MOST)
            .filter_map(record)
            .collect(),
    )
}

/// The cache mounts of an image.
pub fn mounts(config: &ImageConfig, layers: &[Layer]) -> HashMap<MountId, Layer> {
    let field = config.other.get(FIELD).cloned();
    let carried = field.and_then(|f| serde_json::from_value::<Carried>(f).ok());
    let all = carried.into_iter().flat_map(|c| c.mounts).take(MOST);
    let mount = |one: OneMount| {
        let id = MountId {
            id: one.id,
            base: one.base,
        };
        Some((id, layers.get(one.layer)?.clone()))
    };
    all.filter_map(mount).collect()
}

/// Config and layers of an image that the caller sent.
pub fn sent(config: &str, manifest: &str) -> Result<(ImageConfig, Vec<Layer>)> {
    let broken = |e: String| Error::Invalid(format!("it cannot be read: {e}"));
    let config = ImageConfig::parse(config.as_bytes()).map_err(|e| broken(e.to_string()))?;
    let manifest: ImageManifest =
        serde_json::from_str(manifest).map_err(|e| broken(e.to_string()))?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(broken("it has not as many layers as diff ids".to_owned()));
    }
    let layers = manifest.layers.into_iter().zip(diff_ids);
    let layers = layers.map(|(descriptor, diff_id)| Layer {
        descriptor,
        diff_id: diff_id.clone(),
        repository: REPOSITORY.to_owned(),
    });
    let layers = layers.collect();
    Ok((config, layers))
}

#[cfg(test)]
mod tests {
    use slipway_image::{Descriptor, Digest};

    use super::*;
    use crate::cache::KeyBuilder;

    fn layer(text: &str) -> Layer {
        Layer {
            descriptor: Descriptor::new("x", Digest::of(format!("blob {text}")), 1),
            diff_id: Digest::of(text),
            repository: "r".to_owned(),
        }
    }

    fn record(text: &str, layer: Option<Layer>) -> (Key, Record) {
        let record = Record {
            layer,
            created: "2026-01-01T00:00:00Z".to_owned(),
        };
        (KeyBuilder::new(text).finish(), record)
    }

    #[test]
    fn records_come_back() {
        let all = [
            record("a", Some(layer("1"))),
            record("b", None),
            record("c", Some(layer("2"))),
            record("a", Some(layer("1"))),
        ];
        let max = chosen(&all, Mode::Max, &[layer("2")]);
        assert_eq!(max.len(), 3);
        let min = chosen(&all, Mode::Min, &[layer("2")]);
        assert_eq!(min.len(), 2);
        let mount = MountId {
            id: "/pip".to_owned(),
            base: String::new(),
        };
        let carried = [(mount.clone(), layer("3"))];
        let (config, layers) = image(&max, &carried);
        let config = ImageConfig::parse(&config.to_bytes()).unwrap();
        let back = records(&config, &layers).unwrap();
        for (key, record) in &max {
            assert_eq!(back.get(&key.to_string()), Some(record));
        }
        assert_eq!(mounts(&config, &layers).get(&mount), Some(&layer("3")));
        assert_eq!(records(&ImageConfig::default(), &[]), None);
    }

    #[test]
    fn attributes_are_read_or_refused() {
        let map = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            all.iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect()
        };
        let made = to("registry", &map(&[("ref", "a"), ("mode", "max")])).unwrap();
        assert_eq!(
            (made.kind, made.mode),
            (Kind::Registry("a".into()), Mode::Max)
        );
        assert!(to("local", &map(&[("compression", "zstd")])).is_ok());
        for (kind, wrong) in [
            ("registry", map(&[])),
            (
                "registry",
                map(&[("ref", "a"), ("image-manifest", "false")]),
            ),
            ("inline", map(&[("mode", "max")])),
            ("gha", map(&[])),
            ("ftp", map(&[])),
        ] {
            assert!(to(kind, &wrong).is_err(), "{kind} {wrong:?}");
        }
        assert!(from("registry", &map(&[("ref", "a"), ("x", "y")])).is_err());
        assert!(from("s3", &map(&[])).is_err());
        let with = |value: &str| {
            let read = from("registry", &map(&[("ref", "a"), ("mounts", value)]));
            read.map(|f| f.mounts).ok()
        };
        assert_eq!(with("true"), Some(Mounts::Missing));
        assert_eq!(with("replace"), Some(Mounts::Replace));
        assert_eq!(with("some"), None);
        assert!(
            to("registry", &map(&[("ref", "a"), ("mounts", "true")]))
                .unwrap()
                .mounts
        );
        assert!(to("inline", &map(&[("mounts", "true")])).is_err());
    }
}
