//! Everything that a container's process is to be, as a plain value.

mod cgroup;
mod devices;
mod hooks;
mod mounts;
mod process;
mod users;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use cgroup::{Cgroup, DeviceLimit, Limits, Throttle};
pub use devices::{Device, DeviceKind, DeviceRule};
pub use hooks::{About, Hook, Hooks};
pub use mounts::{Mount, MountSource, Propagation};
pub use process::{CapabilitySets, Identity, Label, Process, Rlimit, Scheduler, Seccomp, Tuning};
pub use users::{IdRange, UserMap};

/// All of it. Paths are the host's unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The container's id.
    pub id: String,
    /// Which namespaces are new and which are joined.
    pub namespaces: Namespaces,
    /// Host name inside; "" = leave it.
    pub hostname: String,
    /// NIS domain name inside; "" = leave it.
    pub domainname: String,
    /// Its ids are other ones on the host.
    pub user: Option<UserMap>,
    /// The root file system.
    pub root: Root,
    /// `MS_SHARED` when mounts below the container's root reach the host; 0 = private.
    pub root_propagation: u64,
    /// The root file system is read-only.
    pub readonly_root: bool,
    /// In the order in which they are made.
    pub mounts: Vec<Mount>,
    /// /dev is the container's own: nodes and links are made in it.
    pub own_dev: bool,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Nodes for all devices of the host as well (`--privileged`).
    pub host_devices: bool,
    /// Paths inside that are made unreadable.
    pub masked_paths: Vec<String>,
    /// Paths inside that are made read-only.
    pub readonly_paths: Vec<String>,
    /// Kernel parameters of the new namespaces, `net.ipv4.ip_unprivileged_port_start` = `0`.
    pub sysctls: Vec<(String, String)>,
    /// Where it is accounted and limited.
    pub cgroup: Cgroup,
    /// The first process.
    pub process: Process,
    /// Its streams.
    pub stdio: Stdio,
    /// Where the monitor keeps what.
    pub files: Files,
    /// The clocks that it sees.
    #[serde(default)]
    pub time: Time,
    /// It joins this user namespace instead of having one made; [`ContainerPlan::user`] says what is in it.
    #[serde(default)]
    pub user_path: Option<PathBuf>,
    /// Its keys are its own: a new session keyring (keyrings(7)).
    #[serde(default)]
    pub new_keyring: bool,
    /// Programs of the caller's that run on the way.
    #[serde(default)]
    pub hooks: Hooks,
}

/// The clocks that a container sees (time_namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Whose.
    pub namespace: Namespace,
    /// Of a new one: `monotonic` or `boottime`, seconds, nanoseconds.
    pub offsets: Vec<(String, i64, u32)>,
}

impl Default for Time {
    fn default() -> Self {
        Self {
            namespace: Namespace::Host,
            offsets: Vec::new(),
        }
    }
}

/// Namespaces of the first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network: `Fd` is the descriptor that comes with the request.
    pub net: Namespace,
    /// Processes.
    pub pid: Namespace,
    /// System V and POSIX message queues, shared memory.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// What it sees as the root of the cgroup trees.
    pub cgroup: Namespace,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// The host's.
    Host,
    /// A new one.
    New,
    /// The one whose descriptor comes with the request.
    Fd,
    /// The one that this path names, as `/proc/<pid>/ns/ipc`.
    Path(PathBuf),
    /// That of another container's first process, whose pidfd comes with the request: which one, from 0.
    Peer(u8),
}

impl Namespaces {
    /// How many pidfds come with the request.
    pub fn peers(&self) -> usize {
        [&self.net, &self.pid, &self.ipc, &self.uts, &self.cgroup]
            .into_iter()
            .filter_map(|namespace| match namespace {
                Namespace::Peer(number) => Some(usize::from(*number) + 1),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// overlayfs.
    Overlay {
        /// Read-only layers, top first.
        lower: Vec<PathBuf>,
        /// Writable layer.
        upper: PathBuf,
        /// overlayfs' work folder, on the same file system as `upper`.
        work: PathBuf,
        /// Nothing of it is wanted after a power loss: unmounting it does not write everything to the
        /// disk first, that is all data of that file system (ovl_sync_fs in fs/overlayfs/super.c).
        #[serde(default)]
        volatile: bool,
    },
    /// A folder as it is; owners are shown as the container's.
    Folder(PathBuf),
    /// A folder and what is mounted below it, owners included: the caller has seen to them.
    Bundle(PathBuf),
}

/// Streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Three pipes; without `stdin` it reads from /dev/null.
    Pipes {
        /// Keep standard input open.
        stdin: bool,
    },
    /// A terminal.
    Terminal {
        /// Lines; 0 = leave it.
        rows: u16,
        /// Columns; 0 = leave it.
        columns: u16,
        /// Keep standard input open.
        stdin: bool,
    },
}

impl Stdio {
    /// Whether clients may write to it.
    pub const fn stdin_open(self) -> bool {
        match self {
            Self::Pipes { stdin } | Self::Terminal { stdin, .. } => stdin,
        }
    }
}

/// Files of one container's monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// An empty folder, for the root file system to be mounted on, inside the container's own mount
    /// namespace.
    pub mount_point: PathBuf,
    /// The folder of the log; absent = output is thrown away.
    pub log: Option<PathBuf>,
    /// How much of the log is kept.
    pub log_limits: LogLimits,
    /// Where the exit record goes.
    pub exit: PathBuf,
    /// The monitor's socket.
    pub socket: PathBuf,
    /// The container's mounts may stay a moment longer than its first process. Else they are gone when
    /// its end is known: what they show may be unmounted then.
    #[serde(default)]
    pub mounts_may_linger: bool,
}

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes a file.
    pub max_size: u64,
    /// Files, the one that is written to included.
    pub max_files: u32,
    /// Bytes beyond that, for attached clients that are behind.
    pub hold: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            max_size: 10 << 20,
            max_files: 3,
            hold: 256 << 20,
        }
    }
}

/// Another process in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// What runs.
    pub process: Process,
    /// With a terminal of this many lines and columns.
    pub terminal: Option<(u16, u16)>,
    /// It and its process group are killed when the client that asked for it goes.
    #[serde(default)]
    pub ends_with_client: bool,
    /// The container's ids on the host, when they are other ones.
    #[serde(default)]
    pub user: Option<UserMap>,
    /// The container has clocks of its own.
    #[serde(default)]
    pub time: bool,
}
