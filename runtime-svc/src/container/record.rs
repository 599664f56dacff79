//! What is kept of a container on disk: `config.json` in its folder, the truth about it.
//!
//! A new one waits for the disk behind the start of its container (`durable`), and is replaced only by one that
//! the disk has. So a power cut leaves none of a container that was there before.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};
use slipway_proto::runtime::v1::ContainerSpec;

use super::{durable, etc::Own, merge::Effective};
use crate::{executor::plan::UserMap, network::Who};

/// Its name in a container's folder.
pub const FILE: &str = "config.json";

/// Everything that does not change while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created: u64,
    /// As asked for.
    #[serde(with = "spec_as_hex")]
    pub spec: ContainerSpec,
    /// As it runs.
    pub effective: Effective,
    /// Digest of the image's config.
    pub image_id: String,
    /// Digest that the image's name stood for.
    pub image_digest: String,
    /// Diff ids of the image's layers, base first.
    pub layers: Vec<String>,
    /// Volumes that were made for this container alone, and go with it when that is asked for.
    #[serde(default)]
    pub own_volumes: Vec<String>,
    /// Its ids on the host, when they are other ones.
    #[serde(default)]
    pub user_map: Option<UserMap>,
    /// Diff ids of the layers of images that are mounted, top first, by target.
    #[serde(default)]
    pub image_mounts: BTreeMap<String, Vec<String>>,
    /// Its limits are being changed: the kernel may not have them all yet.
    #[serde(default)]
    pub updating: bool,
    /// Its published ports are being changed while it runs: netd may not have them all yet.
    #[serde(default)]
    pub publishing: bool,
    /// Its networks are being changed while it runs: what its files had of ours before.
    #[serde(default)]
    pub changing: Option<Own>,
}

/// Protobuf has no JSON form here that keeps every field, so the message stands in it as hex.
mod spec_as_hex {
    use super::ContainerSpec;
    use prost::Message as _;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(
        spec: &ContainerSpec,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(spec.encode_to_vec()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ContainerSpec, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(text).map_err(D::Error::custom)?;
        ContainerSpec::decode(&bytes[..]).map_err(D::Error::custom)
    }
}

impl Record {
    /// As netd is told of it.
    pub fn who(&self) -> Who<'_> {
        Who {
            id: &self.id,
            name: &self.name,
            hostname: &self.effective.hostname,
        }
    }

    /// Path of its groups below the root of each tree.
    pub fn cgroup(&self) -> String {
        match self.spec.cgroup_parent.trim_matches('/') {
            "" => format!("{}/{}", crate::cgroup::PARENT, self.id),
            parent => format!("{parent}/{}", self.id),
        }
    }

    /// Reads a container's record.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join(FILE))?)?)
    }

    /// Writes the first one, into a folder that has no name yet by which it would be looked for.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        durable::create(&folder.join(FILE))?.write_all(&serde_json::to_vec(self)?)
    }

    /// Writes another one in its place: from then on the disk has that, at every instant before the old one.
    /// Blocks.
    pub fn replace(&self, folder: &Path) -> io::Result<()> {
        let file = folder.join(FILE);
        let temporary = file.with_extension("json.new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        durable::keep(&fs::File::open(&temporary)?)?;
        fs::rename(temporary, file)?;
        durable::sync_names(folder, true)
    }
}
