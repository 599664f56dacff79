//! What is remembered of a container between calls: a folder below `--root` with a record and, while the
//! container waits for its start, two FIFOs.
//!
//! The folder is the claim on the id; whoever changes something holds it locked. The record is replaced by
//! rename, so that a reader sees one or the other. Whether a process is still the one that was made is
//! told by the time at which it began: a pid alone may be another's by now.

use std::{
    fs, io,
    os::fd::OwnedFd,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{FlockOperation, Mode, OFlags},
    process::{Pid, PidfdFlags},
};
use serde::{Deserialize, Serialize};

use super::{
    config::Outside,
    error::{Error, Tried as _},
    notify,
};
use crate::{
    cgroup::{Group, Hierarchies},
    executor::plan::ContainerPlan,
};

const RECORD: &str = "state.json";
const START: &str = "start";
const ANSWER: &str = "answer";

/// All containers below one `--root`.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// One container's folder, locked.
#[derive(Debug)]
pub struct Held {
    folder: PathBuf,
    lock: OwnedFd,
}

/// What is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// What it was made as; its `hooks.about` has id, bundle and annotations.
    pub plan: ContainerPlan,
    /// Hooks that are not the executor's.
    pub outside: Outside,
    /// Its first process, once there is one.
    pub process: Option<Process>,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// A process, for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, in ticks since the boot.
    pub started: u64,
}

/// A container's state (runtime.md, "State"; `paused` is runc's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has no process yet.
    Creating,
    /// Its process waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl Store {
    /// Names a folder; it is made when the first container is.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Takes an id for a new container.
    pub fn claim(&self, id: &str) -> Result<Held, Error> {
        check_id(id)?;
        let what = || {
            format!(
                "cannot make the folder of container {id} in {}",
                self.root.display()
            )
        };
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .tried(what)?;
        // CVE-2021-43784 and others came from ids that others may meddle with: root's own folder only.
        let folder = self.root.join(id);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists(id.to_owned())),
            made => {
                made.tried(what)?;
                Held::lock(folder, id)
            }
        }
    }

    /// Takes a container that is there, for a change.
    pub fn hold(&self, id: &str) -> Result<Held, Error> {
        check_id(id)?;
        let folder = self.root.join(id);
        if !folder.is_dir() {
            return Err(Error::Missing(id.to_owned()));
        }
        Held::lock(folder, id)
    }

    /// What is remembered of a container.
    pub fn read(&self, id: &str) -> Result<Record, Error> {
        check_id(id)?;
        read(&self.root.join(id))?.ok_or_else(|| Error::Missing(id.to_owned()))
    }

    /// Whether a container still waits for its start: its first process is the FIFO's only reader.
    fn waits(&self, id: &str) -> bool {
        knock(&self.root.join(id)).is_ok()
    }

    /// Ids of all containers.
    pub fn ids(&self) -> Result<Vec<String>, Error> {
        let what = || format!("cannot list {}", self.root.display());
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.tried(what)?,
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| check_id(id).is_ok() && self.root.join(id).join(RECORD).exists())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// What a container does now, and its first process if there is one.
    pub fn status(&self, record: &Record) -> (Status, Option<Alive>) {
        let Some(process) = record.process else {
            return (Status::Creating, None);
        };
        let Some(alive) = Alive::find(process) else {
            return (Status::Stopped, None);
        };
        let id = &record.plan.id;
        // First of all: who waits can be paused, too, and would hear of no start.
        let status = if record.group().is_ok_and(|group| group.is_frozen()) {
            Status::Paused
        } else if self.waits(id) {
            Status::Created
        } else {
            Status::Running
        };
        (status, Some(alive))
    }
}

fn read(folder: &Path) -> Result<Option<Record>, Error> {
    let path = folder.join(RECORD);
    let what = || format!("cannot read {}", path.display());
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.tried(what)?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(io::Error::from)
        .tried(what)
}

/// Opens the way to a container that waits; an error when it does not.
fn knock(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(folder.join(START), flags, Mode::empty())
}

impl Held {
    fn lock(folder: PathBuf, id: &str) -> Result<Self, Error> {
        let what = || format!("cannot lock container {id}");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = match rustix::fs::open(&folder, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Err(Error::Missing(id.to_owned())),
            lock => lock.tried(what)?,
        };
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
            .tried(what)?;
        let held = Self { folder, lock };
        let locked = rustix::fs::fstat(&held.lock).tried(what)?;
        match fs::metadata(&held.folder) {
            Ok(now) if (now.dev(), now.ino()) == (locked.st_dev, locked.st_ino) => Ok(held),
            // Deleted while we waited; what has the name now is another's, who has the lock of that.
            _ => Err(Error::Missing(id.to_owned())),
        }
    }

    /// Where what is remembered is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is remembered; `None` of one whose making was cut off at its very beginning.
    pub fn record(&self) -> Result<Option<Record>, Error> {
        read(&self.folder)
    }

    /// Remembers.
    pub fn save(&self, record: &Record) -> Result<(), Error> {
        let (path, new) = (self.folder.join(RECORD), self.folder.join("state.new"));
        let what = || format!("cannot write {}", path.display());
        let text = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .tried(what)?;
        fs::write(&new, text).tried(what)?;
        fs::rename(&new, &path).tried(what)
    }

    /// Makes the two FIFOs and opens them for both directions: so the container's end neither waits for the
    /// other side nor ends with it.
    pub fn make_gate(&self) -> Result<(OwnedFd, OwnedFd), Error> {
        let open = |name: &str| {
            let path = self.folder.join(name);
            let what = || format!("cannot make {}", path.display());
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o600), 0)
                .tried(what)?;
            rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).tried(what)
        };
        Ok((open(START)?, open(ANSWER)?))
    }

    /// Lets a container that waits go on, and hears how it went: empty = its program runs. With `patience`
    /// that has to come within so long, else the error is [`io::ErrorKind::WouldBlock`].
    pub fn begin(&self, patience: Option<Duration>) -> io::Result<Vec<u8>> {
        use std::io::Read as _;
        // Open for reading before the word is out: else its end might come and go unheard.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let answer = rustix::fs::open(self.folder.join(ANSWER), flags, Mode::empty())?;
        let start = knock(&self.folder)?;
        rustix::io::write(&start, b"g")?;
        drop(start);
        if let Some(patience) = patience {
            let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
            // Hung up, or with something to be read.
            let mut polled = [PollFd::new(&answer, PollFlags::IN)];
            let ready =
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&patience)))?;
            if ready == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        rustix::io::ioctl_fionbio(&answer, false)?;
        let mut said = Vec::new();
        fs::File::from(answer)
            .take(64 << 10)
            .read_to_end(&mut said)?;
        for name in [START, ANSWER] {
            fs::remove_file(self.folder.join(name))?;
        }
        Ok(said)
    }

    /// Takes the folder away: the id is free.
    pub fn forget(self) -> Result<(), Error> {
        let what = || format!("cannot remove {}", self.folder.display());
        for name in [START, ANSWER, "state.new", RECORD] {
            match fs::remove_file(self.folder.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).tried(what),
                _ => {}
            }
        }
        let place = self.folder.join(notify::FOLDER);
        for removed in [
            fs::remove_file(place.join(notify::NAME)),
            fs::remove_dir(&place),
        ] {
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).tried(what),
                _ => {}
            }
        }
        fs::remove_dir(&self.folder).tried(what)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A first process that waits has a copy of the descriptor, which a tight filter of system calls may
        // keep it from closing: the lock is given back for all copies. It cannot fail.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

impl Record {
    /// The container's cgroups.
    pub fn group(&self) -> Result<Group, Error> {
        let hierarchies =
            Hierarchies::detect().tried(|| "cannot find the cgroup trees".to_owned())?;
        Ok(Group::open(&hierarchies, &self.plan.cgroup.path))
    }
}

/// A process that was there when it was looked for, by a descriptor that means no other.
#[derive(Debug)]
pub struct Alive {
    /// Its number.
    pub pid: Pid,
    /// It and no other.
    pub pidfd: OwnedFd,
}

impl Alive {
    /// Looks for a process; one that has ended and was not collected is gone, too.
    pub fn find(process: Process) -> Option<Self> {
        let pid = Pid::from_raw(process.pid)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Read after the descriptor was opened: what is read is of the process that it is for.
        let (state, started) = stat(process.pid)?;
        (started == process.started && !matches!(state, 'Z' | 'X')).then_some(Self { pid, pidfd })
    }
}

impl Process {
    /// The process of this number now.
    pub fn of(pid: Pid) -> Option<Self> {
        let pid = pid.as_raw_pid();
        let (_, started) = stat(pid)?;
        Some(Self { pid, started })
    }
}

/// State and start of a process (proc_pid_stat(5), fields 3 and 22).
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, in brackets, may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// As runc: it becomes a name of a folder.
fn check_id(id: &str) -> Result<(), Error> {
    let valid = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b));
    if id.is_empty() || id.len() > 255 || !valid || id == "." || id == ".." {
        return Err(Error::Invalid(format!(
            "invalid container ID {id:?}: it is made of letters, digits and _+-."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_folders() {
        for good in ["a", "a-b_c.d+e", "0123"] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Process::of(rustix::process::getpid()).unwrap();
        assert!(Alive::find(own).is_some());
        let other = Process {
            started: own.started + 1,
            ..own
        };
        assert!(Alive::find(other).is_none());
    }

    #[test]
    fn an_id_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("root"));
        assert!(store.ids().unwrap().is_empty());
        let held = store.claim("x").unwrap();
        assert!(matches!(store.claim("x"), Err(Error::Exists(_))));
        assert!(held.record().unwrap().is_none() && !store.waits("x"));
        let (start, answer) = held.make_gate().unwrap();
        assert!(store.waits("x"));
        drop((start, answer));
        assert!(!store.waits("x"));
        held.forget().unwrap();
        assert!(matches!(store.hold("x"), Err(Error::Missing(_))));
    }
}
