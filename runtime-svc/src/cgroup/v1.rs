//! cgroup v1: a tree a controller (Documentation/admin-guide/cgroup-v1/).

use std::{fs, io, path::Path};

use super::{Hierarchy, write};
use crate::executor::plan::Limits;

/// Makes a group and its parents.
pub fn create(path: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    let cpuset = hierarchy.options.iter().any(|o| o == "cpuset");
    let mut so_far = hierarchy.path.clone();
    for part in path.strip_prefix(&hierarchy.path).unwrap_or(path) {
        let parent = so_far.clone();
        so_far.push(part);
        match fs::create_dir(&so_far) {
            Ok(()) if cpuset => inherit_cpuset(&parent, &so_far)?,
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A new cpuset is empty, and nothing can run in it (cpusets.rst, 1.4).
fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(parent.join(file))?;
        write(&child.join(file), value.trim())?;
    }
    Ok(())
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
            }
            "cpu" => {
                set("cpu.shares", text(limits.cpu_shares))?;
                set("cpu.cfs_period_us", text(limits.cpu_period))?;
                let quota = |quota: u64| match quota {
                    u64::MAX => "-1".to_owned(),
                    quota => quota.to_string(),
                };
                set("cpu.cfs_quota_us", limits.cpu_quota.map(quota))?;
            }
            "cpuset" => {
                set("cpuset.cpus", limits.cpuset_cpus.clone())?;
                set("cpuset.mems", limits.cpuset_mems.clone())?;
            }
            "pids" => set("pids.max", limits.pids.map(super::pids))?,
            _ => {}
        }
    }
    Ok(())
}

/// Only the devices of [`super::devices::ALLOWED`].
pub fn restrict_devices(path: &Path) -> io::Result<()> {
    write(&path.join("devices.deny"), "a")?;
    for rule in super::devices::ALLOWED {
        write(&path.join("devices.allow"), &rule.to_string())?;
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
