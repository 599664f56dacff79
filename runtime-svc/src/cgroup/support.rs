//! Which limits this host can keep: a controller that is not there, or a kernel that was built without a
//! part of one, makes docker warn and go on without.

use std::path::Path;

use super::{Hierarchies, v2};

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// `--memory`
    pub memory: bool,
    /// `--memory-swap`
    pub swap: bool,
    /// `--memory-reservation`
    pub reservation: bool,
    /// `--memory-swappiness`: v1 only.
    pub swappiness: bool,
    /// `--oom-kill-disable`: v1 only.
    pub oom_kill_disable: bool,
    /// `--cpu-shares`
    pub cpu_shares: bool,
    /// `--cpus`, `--cpu-quota`, `--cpu-period`
    pub cpu_quota: bool,
    /// `--cpu-rt-*`: v1 only, and few kernels are built with it.
    pub real_time: bool,
    /// `--cpuset-*`
    pub cpuset: bool,
    /// `--pids-limit`
    pub pids: bool,
    /// `--blkio-weight`
    pub blkio_weight: bool,
    /// `--blkio-weight-device`
    pub blkio_weight_device: bool,
    /// `--device-read-bps` and the others.
    pub throttle: bool,
}

impl Support {
    /// A host that has everything.
    pub const ALL: Self = Self {
        memory: true,
        swap: true,
        reservation: true,
        swappiness: true,
        oom_kill_disable: true,
        cpu_shares: true,
        cpu_quota: true,
        real_time: true,
        cpuset: true,
        pids: true,
        blkio_weight: true,
        blkio_weight_device: true,
        throttle: true,
    };

    /// Looks at the trees. A v1 controller's files are all in its root group.
    pub fn of(hierarchies: &Hierarchies) -> Self {
        let v1 = |controller: &str, file: &str| {
            hierarchies
                .v1_of(controller)
                .is_some_and(|root| root.join(file).exists())
        };
        let v2 = |controller: &str| {
            let mut controllers = hierarchies.v2_controllers.iter();
            controllers.any(|c| c == controller)
        };
        // The root group of v2 has none of these files: look at the one that containers are in.
        let group = hierarchies.v2.as_deref().and_then(|root| {
            let group = root.join(super::PARENT);
            v2::create(root, &group).ok().map(|()| group)
        });
        let v2_file = |controller: &str, files: &[&str]| {
            let has = |group: &Path| files.iter().any(|file| group.join(file).exists());
            v2(controller) && group.as_deref().is_some_and(has)
        };
        let weights = ["io.bfq.weight", "io.weight"];
        Self {
            memory: v2("memory") || v1("memory", "memory.limit_in_bytes"),
            swap: v2_file("memory", &["memory.swap.max"])
                || v1("memory", "memory.memsw.limit_in_bytes"),
            reservation: v2("memory") || v1("memory", "memory.soft_limit_in_bytes"),
            swappiness: v1("memory", "memory.swappiness"),
            oom_kill_disable: v1("memory", "memory.oom_control"),
            cpu_shares: v2("cpu") || v1("cpu", "cpu.shares"),
            cpu_quota: v2("cpu") || v1("cpu", "cpu.cfs_quota_us"),
            real_time: v1("cpu", "cpu.rt_runtime_us"),
            cpuset: v2("cpuset") || hierarchies.v1_of("cpuset").is_some(),
            pids: v2("pids") || hierarchies.v1_of("pids").is_some(),
            blkio_weight: v2_file("io", &weights)
                || v1("blkio", "blkio.bfq.weight")
                || v1("blkio", "blkio.weight"),
            blkio_weight_device: v2_file("io", &weights)
                || v1("blkio", "blkio.bfq.weight_device")
                || v1("blkio", "blkio.weight_device"),
            throttle: v2("io") || v1("blkio", "blkio.throttle.read_bps_device"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_trees_has_nothing() {
        let none = Support::of(&Hierarchies::default());
        assert!(!none.memory && !none.swap && !none.pids && !none.throttle);
    }

    #[test]
    fn v1_controllers_are_known_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "memory.limit_in_bytes",
            "memory.swappiness",
            "memory.oom_control",
        ] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let hierarchies = Hierarchies {
            v1: vec![super::super::Hierarchy {
                path: folder.path().to_owned(),
                options: vec!["memory".into()],
            }],
            ..Hierarchies::default()
        };
        let found = Support::of(&hierarchies);
        assert!(found.memory && found.swappiness && found.oom_kill_disable);
        assert!(!found.swap && !found.cpuset);
    }
}
