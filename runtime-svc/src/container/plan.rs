//! From a container's record to the executor's plan: a pure function, docker's defaults in one place.

use std::path::{Path, PathBuf};

use slipway_proto::runtime::v1::{ContainerSpec, Resources, Ulimit};

use super::{mounts, record::Record};
use crate::{
    error::Error,
    executor::{
        capabilities,
        plan::{
            Cgroup, ContainerPlan, Device, Files, Limits, Namespace, Namespaces, Process, Rlimit,
            Root, Seccomp, Stdio,
        },
    },
};

/// What docker hides and makes read-only (moby, oci/defaults.go).
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_MORE: [&str; 1] = ["/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where things of this container are on the host.
pub struct Places<'a> {
    /// Its folder in the state directory.
    pub folder: &'a Path,
    /// Its folder in the run directory.
    pub run_folder: &'a Path,
    /// Folders of the image's layers, top first.
    pub lower: Vec<PathBuf>,
    /// Folder of a named or anonymous volume.
    pub volume: &'a (dyn Fn(&str) -> PathBuf + Sync),
}

/// The plan. `network` says whether a network namespace comes with the request.
pub fn plan(record: &Record, places: &Places<'_>, network: bool) -> Result<ContainerPlan, Error> {
    let spec = &record.spec;
    let effective = &record.effective;
    let has_option = |name: &str| spec.security_opt.iter().any(|o| o.starts_with(name));
    let private = |mode: &str| {
        if mode == "host" {
            Namespace::Host
        } else {
            Namespace::New
        }
    };
    let open_system = spec.privileged || has_option("systempaths=unconfined");
    let capabilities = if spec.privileged {
        capabilities::all()
    } else {
        capabilities::effective(&spec.cap_add, &spec.cap_drop)
            .map_err(|e| Error::Invalid(e.to_string()))?
    };
    let mode = spec
        .network
        .as_ref()
        .map(|n| n.mode.as_str())
        .unwrap_or_default();
    let paths = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let size = spec.terminal_size.unwrap_or_default();
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Ok(ContainerPlan {
        id: record.id.clone(),
        namespaces: Namespaces {
            net: match (network, mode) {
                (true, _) => Namespace::Fd,
                (false, "host") => Namespace::Host,
                (false, _) => Namespace::New,
            },
            pid: private(&spec.pid_mode),
            ipc: private(&spec.ipc_mode),
            uts: private(&spec.uts_mode),
            cgroup: private(&spec.cgroupns_mode),
        },
        hostname: effective.hostname.clone(),
        domainname: spec.domainname.clone(),
        root: Root::Overlay {
            lower: places.lower.clone(),
            upper: places.folder.join("upper"),
            work: places.folder.join("work"),
        },
        readonly_root: spec.read_only,
        mounts: mounts::all(record, places, open_system)?,
        devices: devices(),
        masked_paths: if open_system {
            Vec::new()
        } else {
            [paths(&MASKED), paths(&MASKED_MORE)].concat()
        },
        readonly_paths: if open_system {
            Vec::new()
        } else {
            paths(&READ_ONLY)
        },
        sysctls: sysctls(spec, mode)?,
        cgroup: Cgroup {
            path: format!("slipway/{}", record.id),
            limits: limits(spec.resources.as_ref().unwrap_or(&Resources::default()))?,
            all_devices: spec.privileged,
        },
        process: Process {
            args: effective.args(),
            env: effective.env.clone(),
            working_dir: effective.working_dir.clone(),
            user: effective.user.clone(),
            groups: spec.group_add.clone(),
            capabilities,
            no_new_privs: spec
                .security_opt
                .iter()
                .any(|o| o.starts_with("no-new-privileges") && !o.ends_with("false")),
            seccomp: if spec.privileged || has_option("seccomp=unconfined") {
                Seccomp::Unconfined
            } else {
                Seccomp::Default
            },
            rlimits: spec.ulimits.iter().map(rlimit).collect::<Result<_, _>>()?,
            init: spec.init,
            oom_score_adj: (spec.oom_score_adj != 0).then_some(spec.oom_score_adj),
        },
        stdio: match spec.tty {
            true => Stdio::Terminal {
                rows: clamp(size.rows),
                columns: clamp(size.columns),
                stdin: spec.open_stdin,
            },
            false => Stdio::Pipes {
                stdin: spec.open_stdin,
            },
        },
        files: Files {
            mount_point: places.run_folder.join("rootfs"),
            log: spec
                .log
                .as_ref()
                .is_none_or(|l| l.driver != "none")
                .then(|| places.folder.join("log")),
            exit: places.folder.join("exit.json"),
            socket: places.run_folder.join("monitor.sock"),
        },
    })
}

fn devices() -> Vec<Device> {
    [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ]
    .into_iter()
    .map(|(name, major, minor)| Device {
        path: format!("/dev/{name}"),
        block: false,
        major,
        minor,
        mode: 0o666,
    })
    .collect()
}

/// Only parameters that the container's own namespaces have, as docker checks them.
fn sysctls(spec: &ContainerSpec, network_mode: &str) -> Result<Vec<(String, String)>, Error> {
    let mut all: Vec<(String, String)> = Vec::new();
    if network_mode != "host" {
        // docker sets these two, so that servers may bind low ports and ping works without privileges.
        all.push((
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        ));
        all.push((
            "net.ipv4.ping_group_range".to_owned(),
            "0 2147483647".to_owned(),
        ));
    }
    let ipc = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for (key, value) in &spec.sysctls {
        let word = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let net = key.starts_with("net.") && network_mode != "host";
        let own_ipc = (key.starts_with("fs.mqueue.") || ipc.contains(&key.as_str()))
            && spec.ipc_mode != "host";
        if !word || key.contains("..") || !(net || own_ipc) {
            return Err(Error::Invalid(format!(
                "sysctl '{key}' is not allowed: it is not of the container's own namespaces"
            )));
        }
        all.retain(|(k, _)| k != key);
        all.push((key.clone(), value.clone()));
    }
    Ok(all)
}

/// Limits in the executor's form, checked.
pub fn limits(resources: &Resources) -> Result<Limits, Error> {
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    if resources.memory != 0 && resources.memory < 6 << 20 {
        return Err(Error::Invalid(
            "Minimum memory limit allowed is 6MB".to_owned(),
        ));
    }
    if resources.memory_swap > 0 && resources.memory_swap < resources.memory {
        return Err(Error::Invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage".to_owned(),
        ));
    }
    let quota = match positive(resources.nano_cpus) {
        // 100 ms periods, as docker.
        Some(nano) => Some(nano / 10_000),
        None => positive(resources.cpu_quota),
    };
    let memory_swap = match (resources.memory_swap, positive(resources.memory)) {
        (0, None) => None,
        // docker: as much swap as memory again.
        (0, Some(memory)) => i64::try_from(memory.saturating_mul(2)).ok(),
        (swap, _) => Some(swap),
    };
    Ok(Limits {
        memory: positive(resources.memory),
        memory_swap,
        memory_reservation: positive(resources.memory_reservation),
        cpu_quota: quota,
        cpu_period: positive(resources.cpu_period).or(quota.map(|_| 100_000)),
        cpu_shares: (resources.cpu_shares > 0).then_some(resources.cpu_shares),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        pids: positive(resources.pids_limit),
    })
}

fn rlimit(ulimit: &Ulimit) -> Result<Rlimit, Error> {
    let resource = match ulimit.name.as_str() {
        "as" => libc::RLIMIT_AS,
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        other => return Err(Error::Invalid(format!("invalid ulimit type: {other}"))),
    };
    // -1 = unlimited, which is the kernel's largest number.
    Ok(Rlimit {
        resource,
        soft: ulimit.soft as u64,
        hard: ulimit.hard as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::merge::Effective;

    fn planned(spec: ContainerSpec) -> Result<ContainerPlan, Error> {
        let record = Record {
            id: "0".repeat(64),
            name: "x".into(),
            created: 0,
            spec,
            effective: Effective {
                command: vec!["sh".into()],
                hostname: "h".into(),
                ..Effective::default()
            },
            image_id: String::new(),
            image_digest: String::new(),
            layers: vec![],
            own_volumes: Vec::new(),
            starting: false,
            life: Default::default(),
        };
        let places = Places {
            folder: Path::new("/s"),
            run_folder: Path::new("/r"),
            lower: vec!["/l".into()],
            volume: &|name| PathBuf::from("/v").join(name),
        };
        plan(&record, &places, true)
    }

    #[test]
    fn the_default_is_dockers() {
        let plan = planned(ContainerSpec::default()).unwrap();
        assert_eq!(plan.process.capabilities, 0xa804_25fb);
        assert_eq!(
            (plan.process.no_new_privs, &plan.process.seccomp),
            (false, &Seccomp::Default)
        );
        assert!(plan.masked_paths.contains(&"/proc/kcore".to_owned()));
        let sys = plan.mounts.iter().find(|m| m.target == "/sys").unwrap();
        assert_ne!(sys.attributes & libc::MOUNT_ATTR_RDONLY, 0);
        assert_eq!(plan.namespaces.net, Namespace::Fd);
    }

    #[test]
    fn limits_are_docker_units() {
        let resources = Resources {
            memory: 64 << 20,
            nano_cpus: 500_000_000,
            pids_limit: -1,
            ..Resources::default()
        };
        let limits = limits(&resources).unwrap();
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
    fn parameters_of_the_host_are_refused() {
        for key in [
            "kernel.panic",
            "vm.swappiness",
            "net/../kernel.panic",
            "net.ipv4..x",
        ] {
            let spec = ContainerSpec {
                sysctls: [(key.to_owned(), "1".to_owned())].into(),
                ..ContainerSpec::default()
            };
            assert!(planned(spec).is_err(), "{key}");
        }
        let spec = ContainerSpec {
            sysctls: [("net.core.somaxconn".to_owned(), "5".to_owned())].into(),
            ..ContainerSpec::default()
        };
        assert!(
            planned(spec)
                .unwrap()
                .sysctls
                .contains(&("net.core.somaxconn".into(), "5".into()))
        );
    }
}
