//! cgroup v1: a tree a controller (Documentation/admin-guide/cgroup-v1/).

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use super::{Hierarchy, write};
use crate::executor::plan::{DeviceLimit, DeviceRule, Limits, Throttle};

/// Makes a group and its parents.
pub fn create(path: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    let cpuset = hierarchy.options.iter().any(|o| o == "cpuset");
    if !cpuset {
        // Nearly always the parents are there.
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            done => return done,
        }
    }
    let mut so_far = hierarchy.path.clone();
    for part in path.strip_prefix(&hierarchy.path).unwrap_or(path) {
        let parent = so_far.clone();
        so_far.push(part);
        let new = match fs::create_dir(&so_far) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e),
        };
        if cpuset {
            inherit_cpuset(&parent, &so_far, new, so_far != path)?;
        }
    }
    Ok(())
}

/// A new cpuset is empty, and nothing can run in it (cpusets.rst, 1.4).
///
/// One that is there may have been made a moment ago, or by somebody who was killed then.
///
/// One that is made to hold others lets the kernel give them what it has itself (cpusets.rst, 1.10): who writes
/// it instead has every write compared with all groups beside it, and scheduling domains made anew for all.
fn inherit_cpuset(parent: &Path, child: &Path, new: bool, holds_others: bool) -> io::Result<()> {
    let mut empty = false;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(child.join(file))?.trim().is_empty() {
            empty = true;
            let value = fs::read_to_string(parent.join(file))?;
            write(&child.join(file), value.trim())?;
        }
    }
    match holds_others && (new || empty) {
        true => write(&child.join("cgroup.clone_children"), "1"),
        false => Ok(()),
    }
}

/// Sets the limits that this tree's controllers know.
pub fn limit(path: &Path, hierarchy: &Hierarchy, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: Option<String>| match value {
        Some(value) => write(&path.join(file), &value),
        None => Ok(()),
    };
    let text = |n: Option<u64>| n.map(|n| n.to_string());
    for controller in &hierarchy.options {
        match controller.as_str() {
            "memory" => {
                // Absent where swap accounting is off.
                let swap = path.join("memory.memsw.limit_in_bytes");
                let set_swap = || match limits.memory_swap {
                    Some(limit) if swap.exists() => write(&swap, &limit.to_string()),
                    _ => Ok(()),
                };
                // Memory may never be above memory and swap, not even between the two writes: which
                // one comes first depends on what is there.
                if set("memory.limit_in_bytes", text(limits.memory)).is_err() {
                    set_swap()?;
                    set("memory.limit_in_bytes", text(limits.memory))?;
                }
                set_swap()?;
                set(
                    "memory.soft_limit_in_bytes",
                    text(limits.memory_reservation),
                )?;
                set("memory.swappiness", text(limits.swappiness))?;
                if limits.oom_kill_disable {
                    set("memory.oom_control", Some("1".to_owned()))?;
                }
            }
            "cpu" => {
                real_time(path, hierarchy, limits)?;
                set("cpu.shares", text(limits.cpu_shares))?;
                set("cpu.cfs_period_us", text(limits.cpu_period))?;
                let quota = |quota: u64| match quota {
                    u64::MAX => "-1".to_owned(),
                    quota => quota.to_string(),
                };
                set("cpu.cfs_quota_us", limits.cpu_quota.map(quota))?;
                set("cpu.cfs_burst_us", text(limits.cpu_burst))?;
                set("cpu.idle", limits.cpu_idle.map(|n| n.to_string()))?;
            }
            "cpuset" => {
                set("cpuset.cpus", limits.cpuset_cpus.clone())?;
                set("cpuset.mems", limits.cpuset_mems.clone())?;
            }
            "pids" => set("pids.max", limits.pids.map(super::pids))?,
            "blkio" => {
                for (file, value) in block_settings(limits, path.join("blkio.bfq.weight").exists())
                {
                    write(&path.join(file), &value)?;
                }
            }
            "hugetlb" => {
                for (size, limit) in &limits.hugepages {
                    let file = format!("hugetlb.{size}.limit_in_bytes");
                    write(&path.join(file), &limit.to_string())?;
                }
            }
            "rdma" => {
                for line in &limits.rdma {
                    write(&path.join("rdma.max"), line)?;
                }
            }
            "net_cls" => set("net_cls.classid", limits.net_class.map(|n| n.to_string()))?,
            "net_prio" => {
                for (name, priority) in &limits.net_priorities {
                    write(
                        &path.join("net_prio.ifpriomap"),
                        &format!("{name} {priority}"),
                    )?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Limits of block devices as files and values (blkio-controller.rst). Weights belong to the scheduler
/// bfq, and before Linux 5.0 to cfq, whose files had no name of a scheduler.
fn block_settings(limits: &Limits, bfq: bool) -> Vec<(&'static str, String)> {
    let (weight, weight_device) = match bfq {
        true => ("blkio.bfq.weight", "blkio.bfq.weight_device"),
        false => ("blkio.weight", "blkio.weight_device"),
    };
    let line = |limit: &DeviceLimit| format!("{}:{} {}", limit.major, limit.minor, limit.number);
    let mut settings: Vec<_> = limits
        .blkio_weight
        .iter()
        .map(|n| (weight, n.to_string()))
        .collect();
    settings.extend(
        limits
            .blkio_weight_devices
            .iter()
            .map(|d| (weight_device, line(d))),
    );
    settings.extend(limits.throttles.iter().map(|(what, limit)| {
        let file = match what {
            Throttle::ReadBytes => "blkio.throttle.read_bps_device",
            Throttle::WriteBytes => "blkio.throttle.write_bps_device",
            Throttle::ReadOperations => "blkio.throttle.read_iops_device",
            Throttle::WriteOperations => "blkio.throttle.write_iops_device",
        };
        (file, line(limit))
    }));
    settings
}

/// Real-time scheduling: a group can only give what its parent has (sched-rt-group.rst), so the parents
/// get at least as much.
fn real_time(path: &Path, hierarchy: &Hierarchy, limits: &Limits) -> io::Result<()> {
    let set = |group: &Path, file: &str, wanted: Option<u64>, at_least: bool| {
        let Some(wanted) = wanted else { return Ok(()) };
        let file = group.join(file);
        let now: i64 = fs::read_to_string(&file)?.trim().parse().unwrap_or(0);
        let enough = u64::try_from(now).is_ok_and(|now| now >= wanted);
        match at_least && enough {
            true => Ok(()),
            false => write(&file, &wanted.to_string()),
        }
    };
    if limits.rt_period.is_none() && limits.rt_runtime.is_none() {
        return Ok(());
    }
    let mut group = hierarchy.path.clone();
    let below = path.strip_prefix(&hierarchy.path).unwrap_or(path);
    let depth = below.components().count();
    for (n, part) in below.components().enumerate() {
        group.push(part);
        let parent = n + 1 < depth;
        set(&group, "cpu.rt_period_us", limits.rt_period, parent)?;
        set(&group, "cpu.rt_runtime_us", limits.rt_runtime, parent)?;
    }
    Ok(())
}

/// Only the devices of [`super::devices::ALLOWED`] and those that are granted.
pub fn restrict_devices(path: &Path, granted: &[DeviceRule]) -> io::Result<()> {
    write(&path.join("devices.deny"), "a")?;
    let place = path.join("devices.allow");
    let mut allow = fs::File::options().write(true).open(&place)?;
    for rule in super::devices::ALLOWED.iter().chain(granted) {
        for line in super::devices::lines(rule) {
            // One rule a write, at the beginning: the file has no other place.
            allow.write_all(line.as_bytes()).map_err(|e| {
                let place = place.display();
                io::Error::new(e.kind(), format!("cannot write {line:?} to {place}: {e}"))
            })?;
        }
    }
    Ok(())
}

/// All devices but these.
pub fn deny_devices(path: &Path, denied: &[DeviceRule]) -> io::Result<()> {
    write(&path.join("devices.allow"), "a")?;
    for line in denied.iter().flat_map(super::devices::lines) {
        write(&path.join("devices.deny"), &line)?;
    }
    Ok(())
}

/// freezer-subsystem.rst: FROZEN is reached some time after it was written.
pub fn freeze(path: &Path, frozen: bool) -> io::Result<()> {
    let state = if frozen { "FROZEN" } else { "THAWED" };
    let file = path.join("freezer.state");
    for _ in 0..1000 {
        write(&file, state)?;
        if fs::read_to_string(&file)?.trim() == state {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the group did not become {state} within a second"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_block_devices_become_lines() {
        let disk = |number| DeviceLimit {
            major: 254,
            minor: 0,
            number,
        };
        let limits = Limits {
            blkio_weight: Some(300),
            blkio_weight_devices: vec![disk(500)],
            throttles: vec![
                (Throttle::ReadBytes, disk(1 << 20)),
                (Throttle::WriteOperations, disk(100)),
            ],
            ..Limits::default()
        };
        let expected = |weight: &'static str, device: &'static str| {
            [
                (weight, "300".to_owned()),
                (device, "254:0 500".to_owned()),
                ("blkio.throttle.read_bps_device", "254:0 1048576".to_owned()),
                ("blkio.throttle.write_iops_device", "254:0 100".to_owned()),
            ]
        };
        assert_eq!(
            block_settings(&limits, true),
            expected("blkio.bfq.weight", "blkio.bfq.weight_device")
        );
        assert_eq!(
            block_settings(&limits, false),
            expected("blkio.weight", "blkio.weight_device")
        );
    }
}
