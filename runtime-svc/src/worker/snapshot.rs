//! Snapshots: writable root filesystems upon layers, or upon each other.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::{
    caches::Caches,
    lease::{Leases, Limits},
    quota::Quota,
};
use crate::{
    container::{
        files::{self, Change},
        manager::Manager,
    },
    disk::Broom,
    error::{Error, Tried as _},
    executor::rootfs,
    ids,
    layers::{Holder, Kept, Layers},
    registry::{Layer, Registry},
};

/// A root filesystem under construction. Its folder goes with the last that uses it: its lease, what is
/// being done with it, and snapshots upon it.
#[derive(Debug)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// Since when.
    pub created: SystemTime,
    /// Its folder: `upper`, `work`, and the files of a running step.
    pub folder: Folder,
    /// Folders of what is below, top first.
    pub lower: Vec<PathBuf>,
    /// Keeps them here, where they are layers.
    kept: Option<Kept>,
    /// What is below, where that is another snapshot.
    parent: Option<Parent>,
    /// Each snapshot upon it has one more of these.
    upon: Arc<()>,
    /// Held while something is done with it, until that has really ended: what works on the blocking
    /// pool takes the guard along.
    busy: Arc<Mutex<()>>,
    /// Cancelled when it is released or its lease ends.
    pub ended: CancellationToken,
    pub(super) quota: Arc<Quota>,
    /// What the quota counts of it.
    pub(super) bytes: AtomicU64,
}

#[derive(Debug)]
struct Parent {
    snapshot: Arc<Snapshot>,
    _upon: Arc<()>,
}

/// A snapshot's folder; it is removed when this is dropped, where nobody waits for it.
#[derive(Debug)]
pub struct Folder(pub PathBuf, Broom);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is cut off is removed at the next start.
        drop(self.1.sweep(std::mem::take(&mut self.0), None));
    }
}

impl std::ops::Deref for Folder {
    type Target = std::path::Path;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.leave_quota();
    }
}

impl Snapshot {
    /// The merged view: a mount that is visible nowhere and goes with the descriptor. To be written to only
    /// by who has the turn for that.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        let (upper, work) = (self.folder.join("upper"), self.folder.join("work"));
        if self.has_others_upon() {
            // overlayfs does not want to write where another reads.
            let mut layers = vec![upper];
            layers.extend(self.lower.iter().cloned());
            return Ok(rootfs::overlay_in_service(&layers, None)?);
        }
        self.forget_mount()?;
        let upper = rootfs::Upper {
            upper: &upper,
            work: &work,
            volatile: true,
        };
        Ok(rootfs::overlay_in_service(&self.lower, Some(upper))?)
    }

    /// Before each mount that writes to it, which is volatile: no snapshot outlives a power loss, and unmounting
    /// another one writes everything on that file system to the disk first, in the middle of a build.
    pub(super) fn forget_mount(&self) -> Result<(), Error> {
        rootfs::forget_volatile(&self.folder.join("work"))
            .tried(|| format!("cannot mount snapshot {}", self.id))
    }

    /// The snapshot that it is based upon.
    pub fn parent(&self) -> Option<&Self> {
        self.parent.as_ref().map(|p| &*p.snapshot)
    }

    fn has_others_upon(&self) -> bool {
        Arc::strong_count(&self.upon) > 1
    }

    /// Waits until nobody else does anything with it, to read it.
    pub async fn turn(&self) -> Result<OwnedMutexGuard<()>, Error> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(Error::SnapshotEnded(self.id.clone())),
            turn = self.busy.clone().lock_owned() => Ok(turn),
        }
    }

    /// The same to change it, which is over when others are based upon it.
    pub async fn turn_to_change(&self) -> Result<OwnedMutexGuard<()>, Error> {
        let turn = self.turn().await?;
        if self.has_others_upon() {
            return Err(Error::SnapshotInUse(self.id.clone()));
        }
        Ok(turn)
    }

    /// Does something with it, but no longer than it is there.
    pub async fn while_there<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            () = self.ended.cancelled() => Err(Error::SnapshotEnded(self.id.clone())),
        }
    }

    /// What it changes of what is below it. Blocks.
    pub fn changes(&self) -> Result<Vec<(String, Change)>, Error> {
        files::changes_upon(&self.lower, &self.folder.join("upper"))
            .tried(|| format!("cannot read the changes of snapshot {}", self.id))
    }
}

/// The worker of this host. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    pub(super) manager: Manager,
    pub(super) registry: Registry,
    folder: PathBuf,
    /// Who has what.
    pub leases: Leases,
    /// What steps find again.
    pub caches: Caches,
}

impl Worker {
    /// Opens the folder; what is left of an earlier instance is removed, while everything else goes on.
    pub fn open(
        manager: Manager,
        registry: Registry,
        limits: Limits,
        cache_bytes: u64,
    ) -> io::Result<Self> {
        let folder = manager.state_folder().join("snapshots");
        fs::create_dir_all(&folder)?;
        super::step::end_orphans(&manager);
        slipway_fault::point("runtime.recover.orphans");
        for entry in fs::read_dir(&folder)? {
            // Something may still be writing there: then it takes room until the next start, no more.
            manager.layers().broom().sweep(entry?.path(), None);
        }
        slipway_fault::point("runtime.recover.snapshots");
        let broom = manager.layers().broom().clone();
        let caches = Caches::open(manager.state_folder().join("caches"), broom, cache_bytes)?;
        tokio::spawn(caches.clone().recount());
        Ok(Self {
            manager,
            registry,
            folder,
            caches,
            leases: Leases::new(limits),
        })
    }

    /// The layers that snapshots are based upon.
    pub fn layers(&self) -> &Layers {
        self.manager.layers()
    }

    /// A writable snapshot upon these layers, base first.
    pub async fn prepare(&self, lease: &str, layers: &[Layer]) -> Result<String, Error> {
        let (quota, ended) = self.leases.room_for_snapshot(lease)?;
        let id = ids::new_id();
        let holder = Holder::Snapshot(id.clone());
        let ensuring = self.manager.layers().ensure(layers, holder);
        let kept = tokio::select! {
            kept = ensuring => kept?,
            () = ended.cancelled() => return Err(Error::NoSuchLease(lease.to_owned())),
        };
        slipway_fault::point("runtime.prepare.held");
        let mut lower = kept.folders.clone();
        if lower.is_empty() {
            let empty = self.manager.empty_layer();
            lower.push(empty.tried(|| "cannot make an empty layer".to_owned())?);
        }
        let mut snapshot = self.make(id, lower, quota, ended)?;
        snapshot.kept = Some(kept);
        self.give(lease, snapshot)
    }

    /// A writable snapshot upon another one of the same lease, which cannot be changed from now on.
    pub async fn prepare_upon(&self, lease: &str, parent: &str) -> Result<String, Error> {
        let (quota, ended) = self.leases.room_for_snapshot(lease)?;
        let parent = self.leases.find_in(lease, parent)?;
        // What is being done with it comes first.
        let turn = parent.turn().await?;
        let mut lower = vec![parent.folder.join("upper")];
        lower.extend(parent.lower.iter().cloned());
        let mut snapshot = self.make(ids::new_id(), lower, quota, ended)?;
        let upon = parent.upon.clone();
        drop(turn);
        slipway_fault::point("runtime.prepare.upon");
        snapshot.parent = Some(Parent {
            snapshot: parent,
            _upon: upon,
        });
        self.give(lease, snapshot)
    }

    fn make(
        &self,
        id: String,
        lower: Vec<PathBuf>,
        quota: Arc<Quota>,
        ended: CancellationToken,
    ) -> Result<Snapshot, Error> {
        // Removed again when something fails.
        let folder = self.own_folder(&id);
        for name in ["upper", "work"] {
            use std::os::unix::fs::DirBuilderExt as _;
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder.join(name))
                .tried(|| "cannot make a snapshot".to_owned())?;
        }
        slipway_fault::fallible("runtime.prepare.made")
            .tried(|| "cannot make a snapshot".to_owned())?;
        Ok(Snapshot {
            id,
            created: SystemTime::now(),
            folder,
            lower,
            kept: None,
            parent: None,
            upon: Arc::default(),
            busy: Arc::default(),
            ended,
            quota,
            bytes: AtomicU64::new(0),
        })
    }

    /// A folder beside the others; it goes when the answer is dropped.
    pub(super) fn own_folder(&self, id: &str) -> Folder {
        Folder(self.folder.join(id), self.manager.layers().broom().clone())
    }

    fn give(&self, lease: &str, snapshot: Snapshot) -> Result<String, Error> {
        let id = snapshot.id.clone();
        self.leases.insert(lease, Arc::new(snapshot))?;
        slipway_fault::point("runtime.prepare.given");
        Ok(id)
    }

    /// A snapshot by id.
    pub fn find(&self, id: &str) -> Result<Arc<Snapshot>, Error> {
        self.leases.find(id)
    }

    /// Takes a snapshot back; what is being done with it ends. Not there is fine.
    pub fn release(&self, id: &str) {
        if let Some(snapshot) = self.leases.take(id) {
            snapshot.ended.cancel();
            slipway_fault::point("runtime.release.ended");
        }
    }
}
