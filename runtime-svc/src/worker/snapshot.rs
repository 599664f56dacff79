//! Leases and the snapshots that belong to them.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    container::manager::Manager,
    error::{Error, Tried as _},
    executor::rootfs,
    ids,
    layers::Kept,
    registry::{Layer, Registry},
};

/// How long a lease lives when nothing else is said, and at most.
const TTL: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(3600);

/// A root filesystem under construction.
#[derive(Debug)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// Its folder: `upper`, `work`, and the files of a running step.
    pub folder: PathBuf,
    /// Folders of the layers below, top first.
    pub lower: Vec<PathBuf>,
    /// Keeps them here.
    _kept: Kept,
    /// Held while something is done with it, until that has really ended: what works on the blocking
    /// pool takes the guard along.
    pub busy: Arc<tokio::sync::Mutex<()>>,
}

impl Snapshot {
    /// The merged view: a mount that is visible nowhere and goes with the descriptor.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        let (upper, work) = (self.folder.join("upper"), self.folder.join("work"));
        Ok(rootfs::overlay_in_service(
            &self.lower,
            Some((&upper, &work)),
        )?)
    }
}

#[derive(Debug)]
struct Lease {
    until: Instant,
    snapshots: HashMap<String, Arc<Snapshot>>,
}

/// The worker of this host. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    pub(super) manager: Manager,
    pub(super) registry: Registry,
    folder: PathBuf,
    leases: Arc<Mutex<HashMap<String, Lease>>>,
}

impl Worker {
    /// Opens the folder; what is left of an earlier instance is removed.
    pub fn open(manager: Manager, registry: Registry) -> io::Result<Self> {
        let folder = manager.state_folder().join("snapshots");
        fs::create_dir_all(&folder)?;
        super::step::end_orphans(&manager);
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            // Something may still be writing there: it takes room until the next start, no more.
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, snapshot = %path.display(), "could not be removed");
            }
        }
        Ok(Self {
            manager,
            registry,
            folder,
            leases: Arc::default(),
        })
    }

    /// Makes or renews a lease; returns its id.
    pub fn lease(&self, id: &str, ttl: Option<Duration>) -> Result<String, Error> {
        let until = Instant::now() + ttl.unwrap_or(TTL).min(MAX_TTL);
        let mut leases = self.lock();
        if id.is_empty() {
            let id = ids::new_id();
            leases.insert(
                id.clone(),
                Lease {
                    until,
                    snapshots: HashMap::new(),
                },
            );
            return Ok(id);
        }
        let lease = leases
            .get_mut(id)
            .ok_or_else(|| Error::Conflict("the lease has lapsed".to_owned()))?;
        lease.until = until;
        Ok(id.to_owned())
    }

    /// Ends a lease and takes back what belongs to it. Not there is fine.
    pub async fn end_lease(&self, id: &str) {
        let lease = self.lock().remove(id);
        for snapshot in lease.into_iter().flat_map(|l| l.snapshots.into_values()) {
            remove(snapshot).await;
        }
    }

    /// Takes back what belongs to leases that have lapsed; runs until the service stops.
    pub async fn expire(self) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            let now = Instant::now();
            let lapsed: Vec<String> = self
                .lock()
                .iter()
                .filter(|(_, l)| l.until < now)
                .map(|(id, _)| id.clone())
                .collect();
            for id in lapsed {
                tracing::warn!(lease = id, "a lease has lapsed");
                self.end_lease(&id).await;
            }
        }
    }

    /// A writable snapshot upon these layers, base first.
    pub async fn prepare(&self, lease: &str, layers: &[Layer]) -> Result<String, Error> {
        let kept = self.manager.layers().ensure(layers).await?;
        let mut lower = kept.folders.clone();
        if lower.is_empty() {
            let empty = self.manager.state_folder().join("empty");
            fs::create_dir_all(&empty).tried(|| "cannot make an empty layer".to_owned())?;
            lower.push(empty);
        }
        let id = ids::new_id();
        let folder = self.folder.join(&id);
        for name in ["upper", "work"] {
            use std::os::unix::fs::DirBuilderExt as _;
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder.join(name))
                .tried(|| "cannot make a snapshot".to_owned())?;
        }
        let snapshot = Arc::new(Snapshot {
            id: id.clone(),
            folder,
            lower,
            _kept: kept,
            busy: Arc::default(),
        });
        let kept = match self.lock().get_mut(lease) {
            Some(lease) => {
                lease.snapshots.insert(id.clone(), snapshot.clone());
                true
            }
            None => false,
        };
        if kept {
            return Ok(id);
        }
        remove(snapshot).await;
        Err(Error::Conflict("the lease has lapsed".to_owned()))
    }

    /// A snapshot by id.
    pub fn find(&self, id: &str) -> Result<Arc<Snapshot>, Error> {
        self.lock()
            .values()
            .find_map(|lease| lease.snapshots.get(id).cloned())
            .ok_or_else(|| {
                Error::Conflict(format!(
                    "there is no snapshot {id}: its lease may have lapsed"
                ))
            })
    }

    /// Takes a snapshot back. Not there is fine.
    pub async fn release(&self, id: &str) {
        if let Some(snapshot) = self.forget(id) {
            remove(snapshot).await;
        }
    }

    /// Takes a snapshot out of its lease.
    pub(super) fn forget(&self, id: &str) -> Option<Arc<Snapshot>> {
        self.lock()
            .values_mut()
            .find_map(|lease| lease.snapshots.remove(id))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a snapshot's folder when nothing uses it any more.
async fn remove(snapshot: Arc<Snapshot>) {
    let _turn = snapshot.busy.lock().await;
    let folder = snapshot.folder.clone();
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(folder)).await;
    if let Ok(Err(error)) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(snapshot = snapshot.id, %error, "a snapshot could not be removed");
    }
}
