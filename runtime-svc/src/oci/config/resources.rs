//! `linux.resources`, of config.json and of `update`.

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

use super::device_rules;
use crate::{
    cgroup::Hierarchies,
    executor::plan::{Cgroup, DeviceLimit, Limits, Throttle},
    oci::Error,
};

/// Where a container is limited, and by what.
pub fn cgroup(
    path: String,
    resources: Option<&LinuxResources>,
    hierarchies: &Hierarchies,
) -> Result<Cgroup, Error> {
    let devices = resources.and_then(|r| r.devices().as_deref());
    let answer = device_rules::answer(devices.unwrap_or_default())?;
    let (devices, denied_devices) = match answer.allowed {
        true => (Vec::new(), answer.exceptions),
        false => (answer.exceptions, Vec::new()),
    };
    let limits = match resources {
        Some(resources) => limits(resources)?,
        None => Limits::default(),
    };
    check(&limits, hierarchies)?;
    Ok(Cgroup {
        path,
        limits,
        all_devices: answer.allowed,
        devices,
        denied_devices,
    })
}

/// "Unlimited" is -1 here, and the largest number there.
fn number(given: Option<i64>) -> Option<u64> {
    given.map(|n| u64::try_from(n).unwrap_or(u64::MAX))
}

/// The limits in the executor's form.
pub fn limits(given: &LinuxResources) -> Result<Limits, Error> {
    let refuse = |what: &str| {
        Err(Error::Unsupported(format!(
            "resources: {what} is not supported"
        )))
    };
    let mut limits = Limits::default();
    if let Some(memory) = given.memory() {
        // Kernel memory has no limit of its own since Linux 5.16; runc passes over it, too.
        if memory.kernel_tcp().is_some_and(|n| n > 0) {
            return refuse("memory.kernelTCP");
        }
        limits.memory = number(memory.limit().filter(|n| *n != 0));
        limits.memory_reservation = number(memory.reservation().filter(|n| *n != 0));
        // As runc on v2 (ConvertMemorySwapToCgroupV2Value): without memory's limit swap has none.
        limits.memory_swap = match (memory.swap(), memory.limit()) {
            (None | Some(0), Some(-1)) => Some(-1),
            (swap, _) => swap.filter(|n| *n != 0),
        };
        limits.swappiness = memory.swappiness();
        limits.oom_kill_disable = memory.disable_oom_killer().unwrap_or(false);
    }
    if let Some(cpu) = given.cpu() {
        limits.cpu_shares = cpu.shares().filter(|n| *n != 0);
        limits.cpu_quota = number(cpu.quota().filter(|n| *n != 0));
        limits.cpu_period = cpu.period().filter(|n| *n != 0);
        limits.cpu_burst = cpu.burst();
        limits.cpu_idle = cpu.idle();
        limits.rt_runtime = number(cpu.realtime_runtime().filter(|n| *n != 0));
        limits.rt_period = cpu.realtime_period().filter(|n| *n != 0);
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        limits.cpuset_cpus = text(cpu.cpus());
        limits.cpuset_mems = text(cpu.mems());
    }
    // 0 asks for nothing, as with runc.
    let pids = given.pids().as_ref().map(|pids| pids.limit());
    limits.pids = number(pids.filter(|n| *n != 0));
    if let Some(block) = given.block_io() {
        let leaf = block.leaf_weight().is_some_and(|n| n != 0);
        if leaf {
            return refuse("blockIO.leafWeight");
        }
        limits.blkio_weight = block.weight().filter(|n| *n != 0).map(u64::from);
        for device in block.weight_device().iter().flatten() {
            if device.leaf_weight().is_some_and(|n| n != 0) {
                return refuse("blockIO.weightDevice: leafWeight");
            }
            if let Some(weight) = device.weight().filter(|n| *n != 0) {
                let limit = device_limit(device.major(), device.minor(), weight.into())?;
                limits.blkio_weight_devices.push(limit);
            }
        }
        for (what, list) in [
            (Throttle::ReadBytes, block.throttle_read_bps_device()),
            (Throttle::WriteBytes, block.throttle_write_bps_device()),
            (Throttle::ReadOperations, block.throttle_read_iops_device()),
            (
                Throttle::WriteOperations,
                block.throttle_write_iops_device(),
            ),
        ] {
            for device in list.iter().flatten() {
                limits.throttles.push((what, throttle(device)?));
            }
        }
    }
    for page in given.hugepage_limits().iter().flatten() {
        let size = page.page_size();
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::Invalid(format!(
                "hugepageLimits: {size:?} is no size of a page"
            )));
        }
        let limit = u64::try_from(page.limit()).unwrap_or(u64::MAX);
        limits.hugepages.push((size.clone(), limit));
    }
    if let Some(network) = given.network() {
        limits.net_class = network.class_id().filter(|n| *n != 0);
        let list = network.priorities().iter().flatten();
        limits.net_priorities = list.map(|p| (p.name().clone(), p.priority())).collect();
        if limits
            .net_priorities
            .iter()
            .any(|(name, _)| name.contains(char::is_whitespace))
        {
            return Err(Error::invalid("network.priorities: a name holds a blank"));
        }
    }
    for (device, rdma) in given.rdma().iter().flatten() {
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(Error::Invalid(format!(
                "rdma: {device:?} is no name of a device"
            )));
        }
        let mut line = device.clone();
        for (key, value) in [
            ("hca_handle", rdma.hca_handles()),
            ("hca_object", rdma.hca_objects()),
        ] {
            if let Some(value) = value {
                line += &format!(" {key}={value}");
            }
        }
        limits.rdma.push(line);
    }
    let mut unified: Vec<_> = given.unified().iter().flatten().collect();
    unified.sort_unstable();
    for (file, value) in unified {
        // A file of the group and nothing else.
        if file.is_empty()
            || file.contains('/')
            || file.starts_with('.')
            || file.starts_with("cgroup.")
        {
            return Err(Error::Invalid(format!(
                "resources.unified: {file:?} is no file of a controller"
            )));
        }
        limits.unified.push((file.clone(), value.clone()));
    }
    Ok(limits)
}

fn throttle(device: &LinuxThrottleDevice) -> Result<DeviceLimit, Error> {
    device_limit(device.major(), device.minor(), device.rate())
}

fn device_limit(major: i64, minor: i64, number: u64) -> Result<DeviceLimit, Error> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(DeviceLimit {
            major,
            minor,
            number,
        }),
        _ => Err(Error::Invalid(format!(
            "blockIO: {major}:{minor} is no device"
        ))),
    }
}

/// Limits that nobody would keep are refused: whoever asks for one counts on it.
pub fn check(limits: &Limits, hierarchies: &Hierarchies) -> Result<(), Error> {
    let v1 = |controller: &str| hierarchies.v1_of(controller).is_some();
    let v2 = |controller: &str| hierarchies.v2_controllers.iter().any(|c| c == controller);
    let memory = limits.memory.is_some()
        || limits.memory_swap.is_some()
        || limits.memory_reservation.is_some();
    let cpu = limits.cpu_shares.is_some()
        || limits.cpu_quota.is_some()
        || limits.cpu_period.is_some()
        || limits.cpu_burst.is_some()
        || limits.cpu_idle.is_some();
    let cpuset = limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some();
    let block = limits.blkio_weight.is_some()
        || !limits.blkio_weight_devices.is_empty()
        || !limits.throttles.is_empty();
    let real_time = limits.rt_runtime.is_some() || limits.rt_period.is_some();
    let no_swap = limits.memory_swap.is_some()
        && hierarchies
            .v1_of("memory")
            .is_some_and(|root| !root.join("memory.memsw.limit_in_bytes").exists());
    for (asked, there, what) in [
        (
            memory,
            v1("memory") || v2("memory"),
            "the memory controller",
        ),
        (no_swap, false, "limits of swap"),
        (
            limits.swappiness.is_some(),
            v1("memory"),
            "the memory controller of cgroup v1, for swappiness",
        ),
        (
            limits.oom_kill_disable,
            v1("memory"),
            "the memory controller of cgroup v1, for disableOOMKiller",
        ),
        (cpu, v1("cpu") || v2("cpu"), "the cpu controller"),
        (
            real_time,
            v1("cpu"),
            "the cpu controller of cgroup v1, for real-time limits",
        ),
        (
            cpuset,
            v1("cpuset") || v2("cpuset"),
            "the cpuset controller",
        ),
        (
            limits.pids.is_some_and(|n| n != u64::MAX),
            v1("pids") || v2("pids"),
            "the pids controller",
        ),
        (
            block,
            v1("blkio") || v2("io"),
            "a controller of block devices",
        ),
        (
            !limits.hugepages.is_empty(),
            v1("hugetlb") || v2("hugetlb"),
            "the hugetlb controller",
        ),
        (
            !limits.rdma.is_empty(),
            v1("rdma") || v2("rdma"),
            "the rdma controller",
        ),
        (
            limits.net_class.is_some(),
            v1("net_cls"),
            "the net_cls controller (cgroup v1)",
        ),
        (
            !limits.net_priorities.is_empty(),
            v1("net_prio"),
            "the net_prio controller (cgroup v1)",
        ),
        (
            !limits.unified.is_empty(),
            hierarchies.v2.is_some(),
            "cgroup v2, for resources.unified",
        ),
    ] {
        if asked && !there {
            return Err(Error::Unsupported(format!(
                "resources: this host does not have {what}"
            )));
        }
    }
    Ok(())
}
