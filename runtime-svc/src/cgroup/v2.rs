//! cgroup v2: one tree (Documentation/admin-guide/cgroup-v2.rst).

use std::{fs, io, path::Path};

use super::write;
use crate::executor::plan::Limits;

/// Controllers that containers use.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// Makes a group and its parents, each handing on the controllers that it has.
pub fn create(root: &Path, path: &Path) -> io::Result<()> {
    let mut so_far = root.to_owned();
    for part in path.strip_prefix(root).unwrap_or(path) {
        enable_controllers(&so_far)?;
        so_far.push(part);
        match fs::create_dir(&so_far) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn enable_controllers(path: &Path) -> io::Result<()> {
    let available = fs::read_to_string(path.join("cgroup.controllers"))?;
    let enabled = fs::read_to_string(path.join("cgroup.subtree_control"))?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|c| c == name);
    for controller in CONTROLLERS {
        if has(&available, controller) && !has(&enabled, controller) {
            write(
                &path.join("cgroup.subtree_control"),
                &format!("+{controller}"),
            )?;
        }
    }
    Ok(())
}

/// Sets the limits whose controllers there are.
pub fn limit(path: &Path, limits: &Limits, controllers: &[String]) -> io::Result<()> {
    for (controller, file, value) in settings(limits) {
        if controllers.iter().any(|c| c == controller) {
            write(&path.join(file), &value)?;
        }
    }
    Ok(())
}

/// Limits as files and values.
fn settings(limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value: Option<String>| {
        settings.extend(value.map(|value| (controller, file, value)));
    };
    set("memory", "memory.max", limits.memory.map(|n| n.to_string()));
    set(
        "memory",
        "memory.low",
        limits.memory_reservation.map(|n| n.to_string()),
    );
    let swap = limits.memory_swap.map(|both| match u64::try_from(both) {
        // docker counts memory and swap together, the kernel swap alone.
        Ok(both) => both
            .saturating_sub(limits.memory.unwrap_or_default())
            .to_string(),
        Err(_) => "max".to_owned(),
    });
    set("memory", "memory.swap.max", swap);
    let quota = (limits.cpu_quota.is_some() || limits.cpu_period.is_some()).then(|| {
        let quota = limits
            .cpu_quota
            .filter(|quota| *quota != u64::MAX)
            .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        format!("{quota} {}", limits.cpu_period.unwrap_or(100_000))
    });
    set("cpu", "cpu.max", quota);
    set(
        "cpu",
        "cpu.weight",
        limits.cpu_shares.map(|shares| weight(shares).to_string()),
    );
    set("cpuset", "cpuset.cpus", limits.cpuset_cpus.clone());
    set("cpuset", "cpuset.mems", limits.cpuset_mems.clone());
    set("pids", "pids.max", limits.pids.map(super::pids));
    settings
}

/// v1's shares (2 to 262144) as v2's weight (1 to 10000), by the OCI runtimes' common formula.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Stops or continues a group and waits until the kernel says so in `cgroup.events`.
pub fn freeze(path: &Path, frozen: bool) -> io::Result<()> {
    write(&path.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    for _ in 0..1000 {
        if fs::read_to_string(path.join("cgroup.events"))?
            .lines()
            .any(|l| l == wanted)
        {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "the group did not freeze within a second",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_kernels_files() {
        let limits = Limits {
            memory: Some(64 << 20),
            memory_swap: Some(128 << 20),
            cpu_quota: Some(50_000),
            cpu_shares: Some(1024),
            pids: Some(100),
            ..Limits::default()
        };
        assert_eq!(
            settings(&limits),
            [
                ("memory", "memory.max", "67108864".to_owned()),
                ("memory", "memory.swap.max", "67108864".to_owned()),
                ("cpu", "cpu.max", "50000 100000".to_owned()),
                ("cpu", "cpu.weight", "39".to_owned()),
                ("pids", "pids.max", "100".to_owned()),
            ]
        );
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }
}
