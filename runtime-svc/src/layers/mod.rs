//! Unpacked layers: read-only, one folder each, named by diff id, shared by all containers.
//!
//! A layer is unpacked under a temporary name and renamed: a folder under its own name is whole, also after
//! a power loss (`durable`). They are a cache: what is missing is fetched again (`fetch`), what
//! nobody needs is taken away (`collect`), except while somebody is about to use it (`hold`).

mod collect;
mod durable;
mod fetch;
mod hold;
mod import;
mod pieces;
mod settle;
mod size;
mod stack;

pub use collect::{Collected, Listed, Present, Reach};
use fetch::Temporary;
pub use hold::{Held, Holder};
use hold::{Hold, Holds};
pub use import::Import;
pub use pieces::Piece;
pub use stack::stack;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use slipway_image::{
    Digest,
    layer::{limits::Limits, pack::Packed},
};
use tokio::sync::Semaphore;

use crate::{
    disk::Broom,
    error::{Error, Tried as _},
    registry::{Layer, Registry},
};

/// The file with the note beside a layer; without it there is no layer.
const NOTE: &str = "layer.json";

/// Layers that are unpacked at once: each keeps one processor busy and another one half, and some wait for
/// what arrives. More than these only share a disk.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(3, |n| n.get().clamp(3, 8))
}

/// The layers of this host.
#[derive(Clone)]
pub struct Layers {
    folder: PathBuf,
    registry: Registry,
    /// One unpacking a layer, however many want it.
    flights: Arc<Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
    slots: Arc<Semaphore>,
    /// Places of layers that a builder sends.
    imports: Arc<Semaphore>,
    holds: Holds,
    /// One collection at a time.
    collecting: Arc<Mutex<()>>,
    broom: Broom,
    /// Told when layers have come: there may be too many now.
    pub arrived: Arc<tokio::sync::Notify>,
    keeper: durable::Keeper,
    limits: Limits,
}

/// Layers that are here, and stay while this lives.
#[derive(Debug)]
pub struct Kept {
    /// Their folders, top first as overlayfs wants them, each once.
    pub folders: Vec<PathBuf>,
    _hold: Hold,
}

/// What is noted beside an unpacked layer, in `layer.json`. The file's time is that of its last use.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Note {
    /// Content, bytes.
    size: u64,
    entries: u64,
    /// Made by a build here, not fetched: no image may name it yet.
    #[serde(default)]
    built: bool,
    /// The boot in which it was unpacked, while the disk may not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unsynced: Option<durable::Boot>,
}

impl Layers {
    /// Opens the folder; what an earlier instance left half done is removed, while everything else goes on.
    pub fn open(folder: PathBuf, registry: Registry, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        slipway_service::disk::spread(&folder)?;
        let keeper = durable::Keeper::open(&folder)?;
        let layers = Self {
            folder,
            registry,
            flights: Arc::default(),
            slots: Arc::new(Semaphore::new(at_once())),
            imports: Arc::new(Semaphore::new(at_once())),
            holds: Holds::default(),
            collecting: Arc::default(),
            broom: Broom::start()?,
            arrived: Arc::default(),
            keeper,
            limits,
        };
        let listed = layers.list()?;
        for half_done in listed.temporary {
            layers.broom.sweep(half_done, None);
        }
        for name in listed.foreign {
            tracing::warn!(
                name,
                "the folder of layers has something in it that is no layer: it is left alone"
            );
        }
        Ok(layers)
    }

    /// What takes away whatever is not needed any more.
    pub const fn broom(&self) -> &Broom {
        &self.broom
    }

    /// Whether a layer is here whole. The note is written last and gives the folder its name with it, so a
    /// folder without one was put there by somebody else.
    pub fn is_here(&self, diff_id: &Digest) -> bool {
        let home = self.folder.join(diff_id.encoded());
        fs::metadata(home.join(NOTE)).is_ok_and(|note| note.len() > 2) && home.join("fs").is_dir()
    }

    /// The folder that layers are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of an unpacked layer.
    pub fn path_of(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join(diff_id.encoded()).join("fs")
    }

    /// Makes all layers present, for somebody. They stay while the answer lives.
    pub async fn ensure(&self, layers: &[Layer], holder: Holder) -> Result<Kept, Error> {
        // Before looking whether they are there, so that they still are afterwards.
        let hold = self.hold(holder, layers.iter().map(|l| l.diff_id.clone()).collect());
        let mut tasks = tokio::task::JoinSet::new();
        for layer in layers {
            if !self.is_here(&layer.diff_id) {
                let (this, layer) = (self.clone(), layer.clone());
                tasks.spawn(async move { this.fetch(&layer).await });
            }
        }
        let fetched = !tasks.is_empty();
        while let Some(done) = tasks.join_next().await {
            done.map_err(|e| Error::Invalid(format!("unpacking was interrupted: {e}")))??;
        }
        if fetched {
            self.arrived.notify_one();
            self.refuse_broken(layers)?;
        }
        self.settle(layers).await?;
        slipway_fault::point("runtime.settle.done");
        let folders = layers.iter().rev().map(|l| self.path_of(&l.diff_id));
        Ok(Kept {
            folders: stack(folders),
            _hold: hold,
        })
    }

    /// What stands in a layer's place and is none is not shown to anybody.
    fn refuse_broken(&self, layers: &[Layer]) -> Result<(), Error> {
        match layers.iter().find(|l| !self.is_here(&l.diff_id)) {
            None => Ok(()),
            Some(layer) => Err(Error::Layer {
                digest: layer.digest.to_string(),
                why: "what is unpacked of it on this host is broken: remove the containers that use it, \
                      then run: ctl image prune"
                    .to_owned(),
            }),
        }
    }

    /// Gives folders that archives did not name the looks of those below; before anything shows them.
    async fn settle(&self, layers: &[Layer]) -> Result<(), Error> {
        let home = |layer: &Layer| self.folder.join(layer.diff_id.encoded());
        for (at, layer) in layers.iter().enumerate() {
            if !settle::is_open(&home(layer)) {
                continue;
            }
            let below = layers[..at].iter().rev();
            let below: Vec<PathBuf> = below.map(|l| self.path_of(&l.diff_id)).collect();
            let home = home(layer);
            tokio::task::spawn_blocking(move || settle::settle(&home, &below))
                .await
                .map_err(io::Error::other)
                .and_then(|r| r)
                .tried(|| format!("cannot keep layer {}", layer.diff_id.short()))?;
        }
        Ok(())
    }

    /// Keeps a committed snapshot's upper folder as the unpacked form of its layer.
    pub async fn adopt(&self, packed: &Packed, snapshot: &Path) -> Result<(), Error> {
        let target = self.folder.join(packed.diff_id.encoded());
        let upper = snapshot.join("upper");
        // Goes when it does not become the layer.
        let temporary = Temporary(self.folder.join(format!("tmp-{}", crate::ids::new_id())));
        let note = Note {
            size: packed.size,
            entries: packed.entries,
            built: true,
            unsynced: None,
        };
        let keeper = self.keeper.clone();
        let kept = tokio::task::spawn_blocking(move || {
            if target.exists() {
                return Ok(());
            }
            fs::create_dir(&temporary.0)?;
            slipway_fault::point("runtime.pack.begun");
            fs::rename(upper, temporary.0.join("fs"))?;
            slipway_fault::point("runtime.pack.moved");
            keeper.keep(note, &temporary.0, &target)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot keep layer {}", packed.diff_id.short()));
        self.arrived.notify_one();
        kept
    }
}
