//! Limits as they are asked for, checked by docker's rules and brought into the executor's form.
//!
//! The rules and sentences are those of moby's daemon/daemon_unix.go (verifyPlatformContainerResources)
//! and runconfig/hostconfig_unix.go (validateResources).

use std::collections::BTreeSet;

use slipway_proto::runtime::v1::{ContainerSpec, DeviceNumber, Resources};

use crate::{
    cgroup::{Hierarchies, Support},
    error::Error,
    executor::plan::{DeviceLimit, Limits, Throttle},
};

/// docker's least memory limit: below it the kernel kills the program before it runs.
const LEAST_MEMORY: i64 = 6 << 20;

/// What a host has, for the checks.
#[derive(Debug, Clone)]
pub struct Host {
    /// Of the cgroup trees.
    pub support: Support,
    /// Processors.
    pub cpus: u32,
    /// Processors and memory nodes that groups may be given, as lists; "" = not known.
    pub available: (String, String),
}

impl Host {
    /// This one.
    pub fn of(hierarchies: &Hierarchies) -> Self {
        Self {
            support: Support::of(hierarchies),
            // As docker: those that this process may run on, whatever its share of them is.
            cpus: rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count()),
            available: hierarchies.cpuset(),
        }
    }
}

/// Checks the limits of a new container; takes out what this host cannot keep and fills in what docker
/// does. Returns warnings.
pub fn settle(spec: &mut ContainerSpec, host: &Host) -> Result<Vec<String>, Error> {
    if !(-1000..=1000).contains(&spec.oom_score_adj) {
        return Err(Error::Invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            spec.oom_score_adj
        )));
    }
    let mut resources = spec.resources.clone().unwrap_or_default();
    let mut warnings = check(&mut resources, host, false)?;
    if spec.oom_kill_disable && !host.support.oom_kill_disable {
        warnings.push(
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned(),
        );
        spec.oom_kill_disable = false;
    }
    if spec.oom_kill_disable && resources.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result \
             in the system running out of resources."
                .to_owned(),
        );
    }
    spec.resources = Some(resources);
    Ok(warnings)
}

/// The checks; `update` = of a container that is there.
pub fn check(r: &mut Resources, host: &Host, update: bool) -> Result<Vec<String>, Error> {
    let has = &host.support;
    let mut warnings = Vec::new();
    let refuse = |why: &str| Err(Error::Invalid(why.to_owned()));
    if r.memory < 0 || r.memory_reservation < 0 || r.memory_swap < -1 {
        return refuse("invalid memory limit: it must not be negative");
    }
    if r.memory != 0 && r.memory < LEAST_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if r.memory > 0 && !has.memory {
        warnings.push("Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.".to_owned());
        (r.memory, r.memory_swap) = (0, -1);
    }
    // docker: as much swap as memory again.
    if r.memory > 0 && r.memory_swap == 0 {
        r.memory_swap = r.memory.saturating_mul(2);
    } else if r.memory > 0 && r.memory_swap != -1 && !has.swap {
        warnings.push("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.".to_owned());
        r.memory_swap = -1;
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory == 0 && r.memory_swap > 0 && !update {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if let Some(swappiness) = r.memory_swappiness {
        if !has.swappiness {
            warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".to_owned());
            r.memory_swappiness = None;
        } else if !(0..=100).contains(&swappiness) {
            return Err(Error::Invalid(format!(
                "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
            )));
        }
    }
    if r.memory_reservation > 0 && !has.reservation {
        warnings.push("Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.".to_owned());
        r.memory_reservation = 0;
    }
    if r.memory_reservation > 0 && r.memory_reservation < LEAST_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if r.memory > 0 && r.memory_reservation > r.memory {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if r.pids_limit > 0 && !has.pids {
        warnings.push("Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.".to_owned());
        r.pids_limit = 0;
    }
    processors(r, host, &mut warnings)?;
    block_devices(r, has, &mut warnings)?;
    Ok(warnings)
}

fn processors(r: &mut Resources, host: &Host, warnings: &mut Vec<String>) -> Result<(), Error> {
    let has = &host.support;
    let refuse = |why: String| Err(Error::Invalid(why));
    if r.nano_cpus > 0 && r.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set".into());
    }
    if r.nano_cpus > 0 && r.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set".into());
    }
    if r.nano_cpus > 0 && !has.cpu_quota {
        return refuse("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted".into());
    }
    if r.nano_cpus < 0 || r.nano_cpus > i64::from(host.cpus) * 1_000_000_000 {
        return refuse(format!(
            "Range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
            host.cpus
        ));
    }
    if r.cpu_shares > 0 && !has.cpu_shares {
        warnings.push(
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."
                .to_owned(),
        );
        r.cpu_shares = 0;
    }
    if r.cpu_shares > 0 {
        // The kernel's range, as docker.
        r.cpu_shares = r.cpu_shares.clamp(2, 262_144);
    }
    if (r.cpu_period != 0 || r.cpu_quota != 0) && !has.cpu_quota {
        warnings.push(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
                .to_owned(),
        );
        (r.cpu_period, r.cpu_quota) = (0, 0);
    }
    if r.cpu_period != 0 && !(1000..=1_000_000).contains(&r.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
                .into(),
        );
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    if (r.cpu_rt_period != 0 || r.cpu_rt_runtime != 0) && !has.real_time {
        return refuse("Your kernel does not support CPU real-time scheduler".into());
    }
    if r.cpu_rt_period < 0 || r.cpu_rt_runtime < 0 {
        return refuse("invalid cpu real-time period or runtime: it must not be negative".into());
    }
    if r.cpu_rt_period != 0 && r.cpu_rt_runtime > r.cpu_rt_period {
        return refuse("cpu real-time runtime cannot be higher than cpu real-time period".into());
    }
    let (cpus, mems) = &host.available;
    for (what, noun, text, available) in [
        ("cpus", "CPUs", &r.cpuset_cpus, cpus),
        ("mems", "memory nodes", &r.cpuset_mems, mems),
    ] {
        let Some(asked) = list(text) else {
            return refuse(format!("Invalid value {text} for cpuset {what}"));
        };
        let there = list(available).unwrap_or_default();
        if has.cpuset && !there.is_empty() && !asked.is_subset(&there) {
            return refuse(format!(
                "Requested {noun} are not available - requested {text}, available: {available}"
            ));
        }
    }
    let asked = !r.cpuset_cpus.is_empty() || !r.cpuset_mems.is_empty();
    if asked && !has.cpuset {
        warnings.push(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
                .to_owned(),
        );
        r.cpuset_cpus.clear();
        r.cpuset_mems.clear();
    }
    Ok(())
}

/// "0-2,7", or nothing (cpuset(7), list format).
fn list(text: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    let number = |t: &str| t.parse::<u32>().ok().filter(|n| *n < 8192);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return None;
        }
        numbers.extend(from..=to);
    }
    Some(numbers)
}

fn block_devices(
    r: &mut Resources,
    has: &Support,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    if r.blkio_weight > 0 && !has.blkio_weight {
        warnings.push("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.".to_owned());
        r.blkio_weight = 0;
    }
    let in_range = |weight: u64| weight == 0 || (10..=1000).contains(&weight);
    if !in_range(u64::from(r.blkio_weight)) {
        return Err(Error::Invalid(
            "Range of blkio weight is from 10 to 1000".to_owned(),
        ));
    }
    if let Some(device) = r
        .blkio_weight_device
        .iter()
        .find(|device| !in_range(device.number))
    {
        return Err(Error::Invalid(format!(
            "invalid weight for device: {}:{}",
            device.path, device.number
        )));
    }
    if !r.blkio_weight_device.is_empty() && !has.blkio_weight_device {
        warnings.push("Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.".to_owned());
        r.blkio_weight_device.clear();
    }
    for (list, what, short) in [
        (
            &mut r.device_read_bps,
            "BPS Block I/O read",
            "Block I/O BPS read",
        ),
        (
            &mut r.device_write_bps,
            "BPS Block I/O write",
            "Block I/O BPS write",
        ),
        (
            &mut r.device_read_iops,
            "IOPS Block read",
            "Block I/O IOPS read",
        ),
        (
            &mut r.device_write_iops,
            "IOPS Block write",
            "Block I/O IOPS write",
        ),
    ] {
        if !list.is_empty() && !has.throttle {
            warnings.push(format!(
                "Your kernel does not support {what} limit or the cgroup is not mounted. {short} limit discarded."
            ));
            list.clear();
        }
    }
    Ok(())
}

/// Limits in the executor's form. Those of single devices are added by [`add_devices`].
pub fn limits(r: &Resources) -> Limits {
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    let quota = match positive(r.nano_cpus) {
        // 100 ms periods, as docker.
        Some(nano) => Some(nano / 10_000),
        None => positive(r.cpu_quota),
    };
    let memory_swap = match (r.memory_swap, positive(r.memory)) {
        (0, None) => None,
        // Of a record that an older version wrote.
        (0, Some(memory)) => i64::try_from(memory.saturating_mul(2)).ok(),
        (swap, _) => Some(swap),
    };
    Limits {
        memory: positive(r.memory),
        memory_swap,
        memory_reservation: positive(r.memory_reservation),
        cpu_quota: quota,
        cpu_period: positive(r.cpu_period).or(quota.map(|_| 100_000)),
        cpu_shares: (r.cpu_shares > 0).then_some(r.cpu_shares),
        cpuset_cpus: text(&r.cpuset_cpus),
        cpuset_mems: text(&r.cpuset_mems),
        pids: positive(r.pids_limit),
        swappiness: r.memory_swappiness.and_then(|n| u64::try_from(n).ok()),
        rt_period: positive(r.cpu_rt_period),
        rt_runtime: positive(r.cpu_rt_runtime),
        blkio_weight: (r.blkio_weight > 0).then_some(r.blkio_weight.into()),
        ..Limits::default()
    }
}

/// Adds the limits of single block devices, whose numbers are looked up on this host now.
pub fn add_devices(limits: &mut Limits, r: &Resources) -> Result<(), Error> {
    for device in &r.blkio_weight_device {
        limits.blkio_weight_devices.push(numbered(device)?);
    }
    for (what, list) in [
        (Throttle::ReadBytes, &r.device_read_bps),
        (Throttle::WriteBytes, &r.device_write_bps),
        (Throttle::ReadOperations, &r.device_read_iops),
        (Throttle::WriteOperations, &r.device_write_iops),
    ] {
        for device in list {
            limits.throttles.push((what, numbered(device)?));
        }
    }
    Ok(())
}

fn numbered(device: &DeviceNumber) -> Result<DeviceLimit, Error> {
    let refuse = |why: &str| Error::Invalid(format!("{}: {why}", device.path));
    let stat = rustix::fs::stat(&*device.path).map_err(|e| refuse(&e.to_string()))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_block_device() {
        return Err(refuse("not a block device"));
    }
    Ok(DeviceLimit {
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
        number: device.number,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(mut resources: Resources) -> Result<Resources, String> {
        let host = Host {
            support: Support::ALL,
            cpus: 4,
            available: ("0-3,7".to_owned(), "0".to_owned()),
        };
        check(&mut resources, &host, false)
            .map(|_| resources)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn limits_are_docker_units() {
        let resources = Resources {
            memory: 64 << 20,
            nano_cpus: 500_000_000,
            pids_limit: -1,
            ..Resources::default()
        };
        let limits = limits(&checked(resources).unwrap());
        assert_eq!(
            (limits.memory, limits.memory_swap),
            (Some(64 << 20), Some(128 << 20))
        );
        assert_eq!(
            (limits.cpu_quota, limits.cpu_period, limits.pids),
            (Some(50_000), Some(100_000), None)
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused_as_docker_does() {
        let r = Resources::default;
        for (resources, part) in [
            (
                Resources {
                    memory: 5 << 20,
                    ..r()
                },
                "6MB",
            ),
            (
                Resources {
                    memory: 9 << 20,
                    memory_swap: 8 << 20,
                    ..r()
                },
                "larger than memory limit",
            ),
            (
                Resources {
                    memory_swap: 8 << 20,
                    ..r()
                },
                "always set the Memory limit",
            ),
            (
                Resources {
                    memory: 9 << 20,
                    memory_reservation: 10 << 20,
                    ..r()
                },
                "less than memory reservation",
            ),
            (
                Resources {
                    memory_reservation: 1 << 20,
                    ..r()
                },
                "Minimum memory reservation",
            ),
            (
                Resources {
                    memory_swappiness: Some(101),
                    ..r()
                },
                "0-100",
            ),
            (
                Resources {
                    nano_cpus: 5_000_000_000,
                    ..r()
                },
                "only 4 CPUs",
            ),
            (
                Resources {
                    nano_cpus: 1,
                    cpu_quota: 5000,
                    ..r()
                },
                "CPU Quota cannot both",
            ),
            (
                Resources {
                    nano_cpus: 1,
                    cpu_period: 5000,
                    ..r()
                },
                "CPU Period cannot both",
            ),
            (
                Resources {
                    cpu_period: 999,
                    ..r()
                },
                "cfs period",
            ),
            (
                Resources {
                    cpu_quota: 999,
                    ..r()
                },
                "cfs quota",
            ),
            (
                Resources {
                    cpuset_cpus: "0-".into(),
                    ..r()
                },
                "Invalid value 0- for cpuset cpus",
            ),
            (
                Resources {
                    cpuset_mems: "0\n1".into(),
                    ..r()
                },
                "for cpuset mems",
            ),
            (
                Resources {
                    blkio_weight: 9,
                    ..r()
                },
                "from 10 to 1000",
            ),
            (
                Resources {
                    cpu_rt_period: 10,
                    cpu_rt_runtime: 11,
                    ..r()
                },
                "real-time runtime",
            ),
        ] {
            let error = checked(resources).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(
            checked(Resources {
                cpu_shares: 1,
                ..r()
            })
            .unwrap()
            .cpu_shares,
            2
        );
        assert!(
            checked(Resources {
                cpuset_cpus: "0-2,7".into(),
                ..r()
            })
            .is_ok()
        );
    }

    #[test]
    fn what_the_host_lacks_is_left_out_with_a_warning() {
        let nothing = Host {
            support: Support::of(&Hierarchies::default()),
            cpus: 4,
            available: Default::default(),
        };
        let disk = || {
            vec![DeviceNumber {
                path: "/dev/sda".into(),
                number: 100,
            }]
        };
        let mut resources = Resources {
            memory: 64 << 20,
            memory_reservation: 32 << 20,
            memory_swappiness: Some(5),
            pids_limit: 5,
            cpu_shares: 5,
            cpu_quota: 5000,
            cpuset_cpus: "0".into(),
            blkio_weight: 10,
            blkio_weight_device: disk(),
            device_read_bps: disk(),
            device_write_iops: disk(),
            ..Resources::default()
        };
        let warnings = check(&mut resources, &nothing, false).unwrap();
        assert_eq!(warnings.len(), 11, "{warnings:#?}");
        let left = Resources {
            memory_swap: -1,
            ..Resources::default()
        };
        assert_eq!(resources, left);
        let mut resources = Resources {
            cpu_rt_runtime: 5,
            ..Resources::default()
        };
        assert!(check(&mut resources, &nothing, false).is_err());
    }
}
