//! Unpacked layers: read-only, one folder each, named by diff id, shared by all containers.
//!
//! A layer is unpacked under a temporary name, synced, and renamed: a folder under its own name is
//! whole, also after a power loss. They are a cache: what is missing is fetched again (`fetch`), what
//! nobody needs is taken away (`collect`), except while somebody is about to use it (`hold`).

mod collect;
mod fetch;
mod hold;
mod settle;

pub use collect::{Collected, Reach};
use hold::{Hold, Holds};

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use slipway_image::{Digest, layer::pack::Packed};
use tokio::sync::Semaphore;

use crate::{
    error::{Error, Tried as _},
    registry::{Layer, Registry},
};

/// Layers that are unpacked at once.
const AT_ONCE: usize = 3;

/// The layers of this host.
#[derive(Clone)]
pub struct Layers {
    folder: PathBuf,
    registry: Registry,
    /// One unpacking a layer, however many want it.
    flights: Arc<Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
    slots: Arc<Semaphore>,
    holds: Holds,
    /// One collection at a time.
    collecting: Arc<Mutex<()>>,
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
}

impl Note {
    /// Makes a complete folder the layer's, durably.
    fn keep(&self, temporary: &Path, target: &Path) -> io::Result<()> {
        fs::write(temporary.join("layer.json"), serde_json::to_vec(self)?)?;
        let folder = fs::File::open(temporary)?;
        rustix::fs::syncfs(&folder)?;
        match fs::rename(temporary, target) {
            // Somebody else made the same layer meanwhile.
            Err(_) if target.exists() => fs::remove_dir_all(temporary),
            other => other,
        }
    }
}

impl Layers {
    /// Opens the folder; what an earlier instance left half done is removed.
    pub fn open(folder: PathBuf, registry: Registry) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("tmp-")
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "could not be removed");
            }
        }
        Ok(Self {
            folder,
            registry,
            flights: Arc::default(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            holds: Holds::default(),
            collecting: Arc::default(),
        })
    }

    /// The folder of an unpacked layer.
    pub fn path_of(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join(diff_id.encoded()).join("fs")
    }

    /// Makes all layers present. They stay while the answer lives.
    pub async fn ensure(&self, layers: &[Layer]) -> Result<Kept, Error> {
        // Before looking whether they are there, so that they still are afterwards.
        let hold = self.hold(layers.iter().map(|l| l.diff_id.clone()).collect());
        let mut tasks = tokio::task::JoinSet::new();
        for layer in layers {
            if !self.path_of(&layer.diff_id).exists() {
                let (this, layer) = (self.clone(), layer.clone());
                tasks.spawn(async move { this.fetch(&layer).await });
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|e| Error::Invalid(format!("unpacking was interrupted: {e}")))??;
        }
        self.settle(layers).await?;
        let mut folders: Vec<PathBuf> = Vec::new();
        for layer in layers.iter().rev() {
            let folder = self.path_of(&layer.diff_id);
            // overlayfs takes no folder twice; the upper one of two hides the other anyway.
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        Ok(Kept {
            folders,
            _hold: hold,
        })
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
        let (temporary, upper) = (
            self.folder.join(format!("tmp-{}", crate::ids::new_id())),
            snapshot.join("upper"),
        );
        let note = Note {
            size: packed.size,
            entries: packed.entries,
            built: true,
        };
        tokio::task::spawn_blocking(move || {
            if target.exists() {
                return Ok(());
            }
            fs::create_dir(&temporary)?;
            fs::rename(upper, temporary.join("fs"))?;
            note.keep(&temporary, &target)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|r| r)
        .tried(|| format!("cannot keep layer {}", packed.diff_id.short()))
    }
}
