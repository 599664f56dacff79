//! What a step sees besides its root filesystem: `RUN --mount`.
//!
//! Every source is looked up once, here, and goes on as a descriptor of a detached mount: nobody can exchange
//! a path between its check and its use (CVE-2024-23651), and no link or `..` leads out of what a source is a
//! part of (CVE-2024-9675, CVE-2024-1753): a path is resolved with the source's own root as `/`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use tokio::sync::OwnedMutexGuard;
use zeroize::Zeroizing;

use super::{
    Snapshot, Target, Worker,
    agent::{self, Agent, Ask},
    caches::{self, Sharing, Wanted},
    read_path,
    snapshot::Folder,
};
use crate::{
    error::{Error, Tried as _},
    executor::{
        self,
        plan::{Mount, MountSource},
        rootfs,
    },
    ids,
};

/// Most mounts of a step: each takes a descriptor in one message.
const MOST: usize = 100;
/// Most bytes of a secret (BuildKit, session/secrets/secrets.go).
pub const LARGEST_SECRET: usize = 500 << 10;

/// A mount of a step.
#[derive(Debug)]
pub struct StepMount {
    /// Absolute, inside.
    pub target: String,
    /// Nothing can be written to it.
    pub read_only: bool,
    /// What is mounted.
    pub source: StepSource,
}

/// Who owns something, and its permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What a step's mount shows.
pub enum StepSource {
    /// A path of a snapshot; what is written to it is thrown away.
    Bind {
        /// Which one.
        snapshot: Arc<Snapshot>,
        /// Where in it.
        path: String,
    },
    /// A folder that steps find again.
    Cache {
        /// Which one.
        wanted: Wanted,
        /// Where in it.
        path: String,
        /// A new one begins as this folder.
        from: Option<Arc<Snapshot>>,
        /// A new one belongs to.
        owner: Option<Owner>,
    },
    /// An empty folder in memory.
    Tmpfs {
        /// Bytes; 0 = the kernel's default.
        size: u64,
    },
    /// A file in memory.
    Secret {
        /// Its content.
        data: Zeroizing<Vec<u8>>,
        /// Whose.
        owner: Owner,
        /// It can be executed.
        program: bool,
    },
    /// A socket that leads to the caller's agent.
    Ssh {
        /// Which agent.
        name: String,
        /// Whose.
        owner: Owner,
    },
}

/// Never shows a secret.
impl std::fmt::Debug for StepSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bind { .. } => "bind",
            Self::Cache { .. } => "cache",
            Self::Tmpfs { .. } => "tmpfs",
            Self::Secret { .. } => "secret",
            Self::Ssh { .. } => "ssh",
        })
    }
}

/// Mounts that are ready, and what must stay until the step is over.
#[derive(Default)]
pub struct Ready {
    /// For the plan, in their order.
    pub mounts: Vec<Mount>,
    /// What they count.
    pub given: Vec<OwnedFd>,
    _turns: Vec<OwnedMutexGuard<()>>,
    _caches: Vec<caches::Use>,
    _folders: Vec<Folder>,
    _agents: Vec<Agent>,
}

impl Ready {
    fn add(&mut self, mount: &StepMount, tree: OwnedFd, path: &str, attributes: u64) {
        let source = MountSource::Given {
            number: self.given.len(),
            path: path.to_owned(),
        };
        let read_only = match mount.read_only {
            true => libc::MOUNT_ATTR_RDONLY,
            false => 0,
        };
        self.given.push(tree);
        self.mounts.push(Mount {
            attributes: attributes | read_only,
            ..Mount::new(mount.target.clone(), source)
        });
    }
}

const IN_MEMORY: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

impl Worker {
    /// Makes a step's mounts ready. `ask` forwards what is asked of an agent.
    pub(super) async fn make_ready(
        &self,
        own: &Snapshot,
        mounts: Vec<StepMount>,
        ask: &Ask,
    ) -> Result<Ready, Error> {
        if mounts.len() > MOST {
            return Err(Error::Invalid(format!(
                "a step has more than {MOST} mounts"
            )));
        }
        let mut ready = Ready::default();
        self.take_turns(own, &mounts, &mut ready).await?;
        let caches = self.take_caches(&mounts, &mut ready).await?;
        for mount in &mounts {
            let what = || format!("cannot mount on {}", mount.target);
            match &mount.source {
                StepSource::Bind { snapshot, path } => {
                    let tree = self.view(snapshot, mount.read_only, &mut ready)?;
                    let path = inside(&tree, path)?;
                    ready.add(mount, tree, &path, 0);
                }
                StepSource::Cache { wanted, path, .. } => {
                    let folder = caches.get(&key(wanted)).ok_or_else(|| {
                        Error::Invalid("a cache mount was not made ready".to_owned())
                    })?;
                    let root = open_folder(folder).tried(what)?;
                    let path = inside(&root, path)?;
                    let path = if path.is_empty() { "." } else { &path };
                    let part = rootfs::bind_in_root(&root, path)?;
                    let part = part.ok_or(rustix::io::Errno::INVAL).tried(what)?;
                    ready.add(mount, part, "", 0);
                }
                StepSource::Tmpfs { size } => {
                    let size = (*size > 0).then(|| ("size", size.to_string()));
                    let options = size.into_iter().chain([("mode", "1777".to_owned())]);
                    let options = options.map(|(k, v)| (k.to_owned(), Some(v)));
                    let source = MountSource::Filesystem {
                        kind: "tmpfs".to_owned(),
                        options: options.collect(),
                    };
                    ready.mounts.push(Mount {
                        attributes: libc::MOUNT_ATTR_NOSUID
                            | if mount.read_only {
                                libc::MOUNT_ATTR_RDONLY
                            } else {
                                0
                            },
                        ..Mount::new(mount.target.clone(), source)
                    });
                }
                StepSource::Secret {
                    data,
                    owner,
                    program,
                } => {
                    let memory = memory(data.len())?;
                    secret(&memory, data, *owner).tried(what)?;
                    let forbidden = match program {
                        true => IN_MEMORY & !libc::MOUNT_ATTR_NOEXEC,
                        false => IN_MEMORY,
                    };
                    ready.add(mount, memory, "secret", forbidden | libc::MOUNT_ATTR_RDONLY);
                }
                StepSource::Ssh { name, owner } => {
                    let memory = memory(0)?;
                    let agent = agent::listen(&memory, name.clone(), ask.clone()).tried(what)?;
                    chown(&memory, agent::NAME, *owner).tried(what)?;
                    ready._agents.push(agent);
                    ready.add(mount, memory, agent::NAME, 0);
                }
            }
        }
        Ok(ready)
    }

    /// Keeps everybody else off the snapshots that are looked at, always in the same order.
    async fn take_turns(
        &self,
        own: &Snapshot,
        mounts: &[StepMount],
        ready: &mut Ready,
    ) -> Result<(), Error> {
        let mut sources: BTreeMap<&str, &Arc<Snapshot>> = BTreeMap::new();
        for mount in mounts {
            let snapshot = match &mount.source {
                StepSource::Bind { snapshot, .. } => snapshot,
                StepSource::Cache {
                    from: Some(snapshot),
                    ..
                } => snapshot,
                _ => continue,
            };
            if snapshot.id == own.id {
                return Err(Error::Invalid(
                    "a step's root filesystem cannot be mounted into itself".to_owned(),
                ));
            }
            sources.insert(&snapshot.id, snapshot);
        }
        for snapshot in sources.values() {
            ready._turns.push(snapshot.turn().await?);
        }
        Ok(())
    }

    /// Takes each cache once, always in the same order: two steps that lock the same ones do not wait for
    /// each other.
    async fn take_caches(
        &self,
        mounts: &[StepMount],
        ready: &mut Ready,
    ) -> Result<HashMap<(String, String), std::path::PathBuf>, Error> {
        let mut wanted = BTreeMap::new();
        for mount in mounts {
            if let StepSource::Cache { wanted: w, .. } = &mount.source {
                let known = wanted.entry(key(w)).or_insert(mount);
                // The strictest sharing of several mounts counts.
                if w.sharing != Sharing::Shared {
                    *known = mount;
                }
            }
        }
        let mut folders = HashMap::new();
        for (key, mount) in wanted {
            let StepSource::Cache {
                wanted,
                from,
                owner,
                ..
            } = &mount.source
            else {
                continue;
            };
            let (from, owner) = (from.clone(), *owner);
            let begin = move |folder: &Path| begin(folder, from.as_deref(), owner);
            let cache = self.caches.get(wanted, begin).await?;
            folders.insert(key, cache.folder.clone());
            ready._caches.push(cache);
        }
        Ok(folders)
    }

    /// A snapshot's merged view; one that can be written to has a layer of its own for that.
    fn view(
        &self,
        snapshot: &Snapshot,
        read_only: bool,
        ready: &mut Ready,
    ) -> Result<OwnedFd, Error> {
        let mut layers = vec![snapshot.folder.join("upper")];
        layers.extend(snapshot.lower.iter().cloned());
        if read_only {
            return Ok(rootfs::overlay_in_service(&layers, None)?);
        }
        let folder = self.folder_for_a_moment(&ids::new_id())?;
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        let upper = rootfs::Upper {
            upper: &upper,
            work: &work,
            volatile: true,
        };
        let tree = rootfs::overlay_in_service(&layers, Some(upper))?;
        ready._folders.push(folder);
        Ok(tree)
    }
}

fn key(wanted: &Wanted) -> (String, String) {
    (wanted.id.clone(), wanted.base.clone())
}

/// A source's path as the executor wants it, once it is known to be there.
fn inside(root: &OwnedFd, path: &str) -> Result<String, Error> {
    let relative = path.trim_matches('/');
    let at = if relative.is_empty() { "." } else { relative };
    match rootfs::open_inside(root, at, OFlags::empty()) {
        Ok(_) => Ok(relative.to_owned()),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            Err(Error::Invalid(format!("\"/{relative}\": not found")))
        }
        Err(e) => Err(e).tried(|| format!("cannot look up {path}")),
    }
}

pub(super) fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Fills a new cache.
fn begin(folder: &Path, from: Option<&Snapshot>, owner: Option<Owner>) -> Result<(), Error> {
    let what = || "cannot fill a cache mount".to_owned();
    let into = open_folder(folder).tried(what)?;
    if let Some(from) = from {
        let mut layers = vec![from.folder.join("upper")];
        layers.extend(from.lower.iter().cloned());
        let root = rootfs::overlay_in_service(&layers, None)?;
        copy(&root, &into)?;
    }
    let owner = owner.unwrap_or(Owner {
        uid: 0,
        gid: 0,
        mode: 0o755,
    });
    own(&into, owner).tried(what)
}

/// Gives a folder to its owner.
pub(super) fn own(folder: &OwnedFd, owner: Owner) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::fchown(folder, Some(uid), Some(gid))?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(owner.mode & 0o7777))
}

fn copy(root: &OwnedFd, into: &OwnedFd) -> Result<(), Error> {
    let (read, write) = std::io::pipe().tried(|| "cannot make a pipe".to_owned())?;
    let place = Target {
        path: "/".to_owned(),
        ..Target::default()
    };
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_path(root, "/", true, std::io::BufWriter::new(write)));
        let applied = super::apply(into, &place, std::io::BufReader::new(read));
        // A panic there is one here.
        let read = reading
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What could not be written explains a reader that was cut off.
        applied.map(drop).and(read)
    })
}

/// A file system in memory that is mounted nowhere; its pages never go to a swap file where the kernel can
/// see to that (Linux 6.4).
fn memory(bytes: usize) -> Result<OwnedFd, Error> {
    let option = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let size = (bytes + (64 << 10)).to_string();
    let mut options = vec![
        option("mode", "755"),
        option("size", &size),
        ("noswap".to_owned(), None),
    ];
    if let Ok(made) = executor::mounts::filesystem("tmpfs", &options) {
        return Ok(made);
    }
    options.pop();
    Ok(executor::mounts::filesystem("tmpfs", &options)?)
}

fn secret(memory: &OwnedFd, data: &[u8], owner: Owner) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(memory, "secret", flags, Mode::from_raw_mode(0o400))?;
    let mut rest = data;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    drop(file);
    chown(memory, "secret", owner)
}

fn chown(folder: &OwnedFd, name: &str, owner: Owner) -> rustix::io::Result<()> {
    use rustix::fs::AtFlags;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::chownat(
        folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    let mode = Mode::from_raw_mode(owner.mode & 0o7777);
    rustix::fs::chmodat(folder, name, mode, AtFlags::empty())
}

impl Worker {
    /// A folder beside the snapshots with an empty writable layer, removed when it is dropped.
    fn folder_for_a_moment(&self, id: &str) -> Result<Folder, Error> {
        let folder = self.own_folder(id);
        for name in ["upper", "work"] {
            fs::create_dir_all(folder.join(name))
                .tried(|| "cannot make a folder for a mount".to_owned())?;
        }
        Ok(folder)
    }
}
