//! Where a container's processes are counted, and how much they get.

use serde::{Deserialize, Serialize};

use super::DeviceRule;

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
