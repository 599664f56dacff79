//! cgroup v2: one tree (Documentation/admin-guide/cgroup-v2.rst).

use std::{fs, io, path::Path};

use super::write;
use crate::executor::plan::{Limits, Throttle};

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

/// Hands controllers on that few containers need, and each group of which costs.
pub fn create_for(root: &Path, path: &Path, limits: &Limits) -> io::Result<()> {
    let wanted = [
        ("hugetlb", !limits.hugepages.is_empty()),
        ("rdma", !limits.rdma.is_empty()),
    ];
    for (controller, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        let mut so_far = root.to_owned();
        for part in path.strip_prefix(root).unwrap_or(path) {
            write(
                &so_far.join("cgroup.subtree_control"),
                &format!("+{controller}"),
            )?;
            so_far.push(part);
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
    if controllers.iter().any(|c| c == "io") {
        for (file, value) in block_settings(limits, path.join("io.bfq.weight").exists()) {
            write(&path.join(file), &value)?;
        }
    }
    for (size, limit) in &limits.hugepages {
        write(
            &path.join(format!("hugetlb.{size}.max")),
            &limit.to_string(),
        )?;
    }
    for line in &limits.rdma {
        write(&path.join("rdma.max"), line)?;
    }
    // Last, so that they may say something else than the limits above, as with runc.
    for (file, value) in &limits.unified {
        write(&path.join(file), value)?;
    }
    Ok(())
}

/// Limits of block devices as files and values. bfq takes blkio's own weights; the kernel's other
/// policy, io.cost, has a scale of its own, 1 to 10000.
fn block_settings(limits: &Limits, bfq: bool) -> Vec<(&'static str, String)> {
    let (file, scaled): (_, fn(u64) -> u64) = match bfq {
        true => ("io.bfq.weight", |weight| weight),
        false => ("io.weight", |weight| {
            1 + (weight.clamp(10, 1000) - 10) * 9_999 / 990
        }),
    };
    let mut settings = Vec::new();
    if let Some(weight) = limits.blkio_weight {
        settings.push((file, format!("default {}", scaled(weight))));
    }
    for limit in &limits.blkio_weight_devices {
        let line = format!("{}:{} {}", limit.major, limit.minor, scaled(limit.number));
        settings.push((file, line));
    }
    for (what, limit) in &limits.throttles {
        let key = match what {
            Throttle::ReadBytes => "rbps",
            Throttle::WriteBytes => "wbps",
            Throttle::ReadOperations => "riops",
            Throttle::WriteOperations => "wiops",
        };
        let line = format!("{}:{} {key}={}", limit.major, limit.minor, limit.number);
        settings.push(("io.max", line));
    }
    settings
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
    set(
        "cpu",
        "cpu.max.burst",
        limits.cpu_burst.map(|n| n.to_string()),
    );
    set("cpu", "cpu.idle", limits.cpu_idle.map(|n| n.to_string()));
    set("cpuset", "cpuset.cpus", limits.cpuset_cpus.clone());
    set("cpuset", "cpuset.mems", limits.cpuset_mems.clone());
    set("pids", "pids.max", limits.pids.map(super::pids));
    settings
}

/// v1's shares (2 to 262144) as v2's weight (1 to 10000), so that the least, the usual and the most are
/// that on both: 2 is 1, 1024 is 100, 262144 is 10000. Between them a power of ten whose exponent is
/// quadratic in the logarithm, as runc 1.3 and crun 1.23 have it (ConvertCPUSharesToCgroupV2Value); the
/// straight line of earlier versions made 39 of 1024.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
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
                ("cpu", "cpu.weight", "100".to_owned()),
                ("pids", "pids.max", "100".to_owned()),
            ]
        );
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
        assert_eq!((weight(512), weight(2048)), (59, 174));
    }

    #[test]
    fn limits_of_block_devices_become_lines() {
        use crate::executor::plan::DeviceLimit;
        let disk = |number| DeviceLimit {
            major: 8,
            minor: 16,
            number,
        };
        let limits = Limits {
            blkio_weight: Some(1000),
            blkio_weight_devices: vec![disk(10)],
            throttles: vec![
                (Throttle::WriteBytes, disk(5)),
                (Throttle::ReadOperations, disk(7)),
            ],
            ..Limits::default()
        };
        assert_eq!(
            block_settings(&limits, false),
            [
                ("io.weight", "default 10000".to_owned()),
                ("io.weight", "8:16 1".to_owned()),
                ("io.max", "8:16 wbps=5".to_owned()),
                ("io.max", "8:16 riops=7".to_owned()),
            ]
        );
        assert_eq!(
            block_settings(&limits, true)[0],
            ("io.bfq.weight", "default 1000".to_owned())
        );
    }
}
