//! Device nodes, and which devices may be used.

use serde::{Deserialize, Serialize};

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
