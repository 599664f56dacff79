//! What is kept of a container on disk: `config.json` in its folder, the truth about it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};
use slipway_proto::runtime::v1::ContainerSpec;
use tokio::sync::Semaphore;

use super::merge::Effective;
use crate::executor::plan::UserMap;

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
    /// A start was asked for and its outcome is not known yet.
    #[serde(default)]
    pub starting: bool,
    /// Its limits are being changed: the kernel may not have them all yet.
    #[serde(default)]
    pub updating: bool,
    /// What its restart policy has to know.
    #[serde(default)]
    pub life: Life,
}

/// What a restart policy has to know of a container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Somebody asked for its end since it was last started by hand.
    #[serde(default)]
    pub stopped_by_hand: bool,
    /// How often its policy has brought it back since then.
    #[serde(default)]
    pub restarts: u32,
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

/// How many records are synced at the same time: each waits for the disk on a thread that others need, and
/// of many that begin at once the short-lived ones are gone before their turn.
const SYNCED_AT_ONCE: usize = 4;

/// Makes sure that a file in a container's folder survives power loss. Not on the way of a start.
pub fn sync_soon(file: PathBuf) {
    static TURNS: LazyLock<Arc<Semaphore>> =
        LazyLock::new(|| Arc::new(Semaphore::new(SYNCED_AT_ONCE)));
    tokio::spawn(async move {
        let Ok(turn) = TURNS.clone().acquire_owned().await else {
            return;
        };
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // Removed already is fine; a disk that fails is noticed by whatever is written next.
            if let Err(error) = sync(&file) {
                tracing::debug!(%error, "a container's record could not be synced");
            }
        });
    });
}

/// Its name, and that of the folder, too.
fn sync(file: &Path) -> io::Result<()> {
    for path in file.ancestors().take(3) {
        fs::File::open(path)?.sync_all()?;
    }
    Ok(())
}

impl Record {
    /// Path of its groups below the root of each tree.
    pub fn cgroup(&self) -> String {
        match self.spec.cgroup_parent.trim_matches('/') {
            "" => format!("{}/{}", crate::cgroup::PARENT, self.id),
            parent => format!("{parent}/{}", self.id),
        }
    }

    /// Reads a container's record.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(
            folder.join("config.json"),
        )?)?)
    }

    /// Writes it: the old one or the new one is there, never half of one.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join("config.json.new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(&temporary, folder.join("config.json"))
    }
}
