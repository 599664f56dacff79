//! A process: what it runs, who it is, and what it may do.

use serde::{Deserialize, Serialize};

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
