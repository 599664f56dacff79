//! What is mounted into the root file system.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// `ContainerPlan::user`.
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
