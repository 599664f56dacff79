//! Everything that a container's process is to be, as a plain value.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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

/// Programs of the caller's, by the moment at which they run (OCI Runtime Specification, config.md,
/// "POSIX-platform Hooks"). Those of the host's side are run by who makes the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// The container stops and asks when its mounts are made, before it pivots.
    pub ask: bool,
    /// In the container's namespaces, before it pivots.
    pub create_container: Vec<Hook>,
    /// In the container, just before its program.
    pub start_container: Vec<Hook>,
    /// What they are told.
    pub about: About,
}

/// What hooks are told of their container, besides what changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its id.
    pub id: String,
    /// The folder that it was made from.
    pub bundle: PathBuf,
    /// The caller's own words.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A program of the caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute.
    pub path: String,
    /// With the name of the program; empty = just that.
    pub args: Vec<String>,
    /// All of its environment.
    pub env: Vec<String>,
    /// Seconds after which it is killed, and has failed.
    pub timeout: Option<u32>,
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

/// Something mounted into the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside. Links in it are resolved inside; what is missing is made.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// `MOUNT_ATTR_*` bits.
    pub attributes: u64,
    /// Also for what is mounted below the source.
    pub recursive: bool,
    /// Attributes for the topmost mount only, also when what is below comes along.
    pub only_top: bool,
    /// Whose mounts and unmounts it shows.
    pub propagation: Propagation,
    /// Owners on disk are ids of the container, whatever they are on the host. Only with a
    /// [`ContainerPlan::user`].
    pub idmapped: bool,
    /// A new file system gets the permissions of the folder that it covers, as runc gives a tmpfs.
    pub keep_mode: bool,
    /// `MOUNT_ATTR_*` bits that are taken away.
    #[serde(default)]
    pub cleared: u64,
    /// Bits that are set and taken away on all mounts below, too.
    #[serde(default)]
    pub deep: (u64, u64),
    /// Owners are shown by a map of its own: which of those that come with the container, and whether
    /// on mounts below, too.
    #[serde(default)]
    pub mapping: Option<(usize, bool)>,
    /// A new file system begins with what it covers.
    #[serde(default)]
    pub copy_up: bool,
}

impl Mount {
    /// A private mount of just the source.
    pub fn new(target: impl Into<String>, source: MountSource) -> Self {
        Self {
            target: target.into(),
            source,
            attributes: 0,
            recursive: false,
            only_top: false,
            propagation: Propagation::default(),
            idmapped: false,
            keep_mode: false,
            cleared: 0,
            deep: (0, 0),
            mapping: None,
            copy_up: false,
        }
    }
}

/// How mounts and unmounts cross between a bind mount and its source (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the source into the container.
    Slave {
        /// Also for what is mounted below.
        recursive: bool,
    },
    /// Both ways.
    Shared {
        /// Also for what is mounted below.
        recursive: bool,
    },
    /// Not at all, and it cannot be the source of another bind mount.
    Unbindable {
        /// Also for what is mounted below.
        recursive: bool,
    },
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A new file system of this type with these options (`("size", Some("64m"))`).
    Filesystem {
        /// `tmpfs`, `proc`, ...
        kind: String,
        /// Options; a flag has no value.
        options: Vec<(String, Option<String>)>,
    },
    /// A folder or file of the host.
    Bind(PathBuf),
    /// The cgroup trees that the host has, as seen from the container's cgroup namespace.
    Cgroups {
        /// `--privileged`
        writable: bool,
        /// In the host's cgroup namespace just the container's own groups are shown, as runc does.
        own: bool,
    },
    /// /dev/shm of the container whose ipc namespace is joined.
    SharedMemory,
    /// A folder or file below a folder of the host; no link leads out of that.
    Beneath {
        /// The folder.
        base: PathBuf,
        /// Relative to it.
        path: String,
    },
    /// A detached mount that comes with the request, or what is below its root; no link leads out of that.
    Given {
        /// Which one, from 0.
        number: usize,
        /// Relative path in it; "" = all of it.
        path: String,
    },
    /// Layers of another image as one tree, read-only.
    Layers {
        /// Top first.
        lower: Vec<PathBuf>,
        /// Relative path in the tree; "" = all of it.
        path: String,
    },
}

/// Which ids of the host stand for the ids of a container (user_namespaces(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMap {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first one in the container.
    pub inside: u32,
    /// The first one on the host.
    pub host: u32,
    /// How many.
    pub size: u32,
}

impl UserMap {
    /// The host's number of a user of the container; `None` when it has none.
    pub fn uid(&self, inside: u32) -> Option<u32> {
        on_host(&self.uids, inside)
    }

    /// The host's number of a group of the container.
    pub fn gid(&self, inside: u32) -> Option<u32> {
        on_host(&self.gids, inside)
    }
}

impl UserMap {
    /// The container's number of a user of the host; nobody's when it has none (user_namespaces(7)).
    pub fn uid_inside(&self, host: u32) -> u32 {
        inside(&self.uids, host)
    }

    /// The container's number of a group of the host.
    pub fn gid_inside(&self, host: u32) -> u32 {
        inside(&self.gids, host)
    }
}

fn inside(ranges: &[IdRange], host: u32) -> u32 {
    let found = ranges.iter().find_map(|range| {
        let offset = host.checked_sub(range.host)?;
        (offset < range.size).then(|| range.inside.checked_add(offset))?
    });
    found.unwrap_or(65_534)
}

fn on_host(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.size).then(|| range.host.checked_add(offset))?
    })
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path inside.
    pub path: String,
    /// Block instead of character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A FIFO instead of a device.
    #[serde(default)]
    pub fifo: bool,
}

/// Which use of which devices is allowed besides docker's default ones. Absent numbers mean all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Which kind.
    pub kind: DeviceKind,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// Bits of [`DeviceRule::MKNOD`], [`DeviceRule::READ`], [`DeviceRule::WRITE`].
    pub access: u32,
}

impl DeviceRule {
    /// Making nodes; the bits are the kernel's `BPF_DEVCG_ACC_*`.
    pub const MKNOD: u32 = 1;
    /// Opening for reading.
    pub const READ: u32 = 2;
    /// Opening for writing.
    pub const WRITE: u32 = 4;
    /// Everything.
    pub const ALL: u32 = Self::MKNOD | Self::READ | Self::WRITE;
}

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Block devices.
    Block,
    /// Character devices.
    Character,
    /// Both.
    All,
}

/// The first process, or one that joins later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Absolute path inside; made when missing.
    pub working_dir: String,
    /// `user[:group]`, names or numbers, looked up inside; "" = root.
    pub user: String,
    /// Further groups, names or numbers.
    pub groups: Vec<String>,
    /// Capability bits.
    pub capabilities: u64,
    /// No exec may give more.
    pub no_new_privs: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// -1000 to 1000; absent = as it is.
    pub oom_score_adj: Option<i32>,
    /// An init of ours is the first process, and this its child.
    #[serde(default)]
    pub init: bool,
    /// What a security module of the kernel confines the program by, from the exec on.
    #[serde(default)]
    pub label: Label,
    /// Who it is, in numbers that nothing is looked up for: instead of `user` and `groups`.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// Each capability set by itself; [`Process::capabilities`] is the effective one then.
    #[serde(default)]
    pub sets: Option<CapabilitySets>,
    /// How the kernel runs it.
    #[serde(default)]
    pub tuning: Tuning,
    /// So many descriptors from 3 on are handed to it.
    #[serde(default)]
    pub descriptors: u32,
    /// It goes on when who made it is gone.
    #[serde(default)]
    pub outlives: bool,
}

/// Who a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, just these.
    pub groups: Vec<u32>,
    /// Permission bits that new files do not get.
    pub umask: u32,
}

/// Capability bits by set (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// What can be had at all.
    pub bounding: u64,
    /// What counts.
    pub effective: u64,
    /// What file capabilities can add to.
    pub inheritable: u64,
    /// What can be made effective.
    pub permitted: u64,
    /// What an exec keeps.
    pub ambient: u64,
}

/// How the kernel runs a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// sched_setattr(2)
    pub scheduler: Option<Scheduler>,
    /// ioprio_set(2): class and priority.
    pub io_priority: Option<(u32, u32)>,
    /// personality(2)
    pub personality: Option<u64>,
    /// Processors that it may run on.
    pub processors: Option<Vec<usize>>,
}

/// Arguments of sched_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// -20 to 19
    pub nice: i32,
    /// 1 to 99 for real-time policies.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// What a security module of the kernel confines the program by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Label {
    /// Nothing is asked for.
    #[default]
    None,
    /// A loaded AppArmor profile.
    AppArmor(String),
}

/// Filter of system calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    Unconfined,
    /// docker's default profile, for the process's capabilities.
    Default,
    /// A profile of the caller's, compiled for the process's capabilities.
    Custom {
        /// The BPF instructions as hex, eight bytes each: the shortest form that JSON takes.
        program: String,
        /// `SECCOMP_FILTER_FLAG_*`
        flags: u32,
    },
}

/// One resource limit (getrlimit(2)); `u64::MAX` = unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*`
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Placement and limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Path below each hierarchy's root, without a leading slash: `slipway/<id>`.
    pub path: String,
    /// Limits.
    pub limits: Limits,
    /// No restriction of devices (`--privileged`).
    pub all_devices: bool,
    /// Devices that are allowed besides docker's default ones.
    pub devices: Vec<DeviceRule>,
    /// With `all_devices`: but these.
    #[serde(default)]
    pub denied_devices: Vec<DeviceRule>,
}

/// Limits, in docker's units. Absent = none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Memory and swap together, bytes; -1 = unlimited.
    pub memory_swap: Option<i64>,
    /// Soft limit, bytes.
    pub memory_reservation: Option<u64>,
    /// Microseconds of processor time per period.
    pub cpu_quota: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Relative weight, 2 to 262144; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// `0-2,7`
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// 0 to 100; v1 only.
    pub swappiness: Option<u64>,
    /// Processes wait for memory instead of being killed; v1 only.
    pub oom_kill_disable: bool,
    /// Microseconds of real-time scheduling per period; v1 only.
    pub rt_runtime: Option<u64>,
    /// Microseconds.
    pub rt_period: Option<u64>,
    /// Relative share of block devices, 10 to 1000.
    pub blkio_weight: Option<u64>,
    /// The same for single devices.
    pub blkio_weight_devices: Vec<DeviceLimit>,
    /// Rates of single devices.
    pub throttles: Vec<(Throttle, DeviceLimit)>,
    /// Microseconds of processor time that may be saved up.
    #[serde(default)]
    pub cpu_burst: Option<u64>,
    /// The group gets what nobody else wants (SCHED_IDLE).
    #[serde(default)]
    pub cpu_idle: Option<i64>,
    /// Bytes by size of a page, `2MB`.
    #[serde(default)]
    pub hugepages: Vec<(String, u64)>,
    /// Lines of `rdma.max`.
    #[serde(default)]
    pub rdma: Vec<String>,
    /// Mark of its packets; v1 only.
    #[serde(default)]
    pub net_class: Option<u32>,
    /// Priority by network interface; v1 only.
    #[serde(default)]
    pub net_priorities: Vec<(String, u32)>,
    /// Files of the v2 group and what is written to them.
    #[serde(default)]
    pub unified: Vec<(String, String)>,
}

/// A number for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Weight, or so many a second.
    pub number: u64,
}

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Throttle {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Read operations.
    ReadOperations,
    /// Write operations.
    WriteOperations,
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
