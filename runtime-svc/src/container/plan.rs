//! From a container's record to the executor's plan: a pure function, docker's defaults in one place.

use std::path::{Path, PathBuf};

use slipway_proto::runtime::v1::{ContainerSpec, Resources, Ulimit};

use super::{mounts, peers, record::Record, resources, sysctls};
use crate::{
    error::Error,
    executor::{
        self, capabilities, dev,
        plan::{
            Cgroup, ContainerPlan, Files, Hooks, Label, Limits, Namespace, Namespaces, Process,
            Rlimit, Root, Seccomp, Stdio, Time, Tuning,
        },
    },
    logs,
    monitor::protocol,
};

/// What docker hides and makes read-only (moby, oci/defaults.go).
const MASKED: [&str; 12] = [
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
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Counters of single processors that tell what runs on others; bare metal has them.
fn thermal_throttle() -> &'static [String] {
    static FOUND: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        let folder = |cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        // What is not possible has no folder; 8192 is the kernel's most.
        let mut cpus = (0..8192)
            .take_while(|cpu| Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}")).exists());
        cpus.by_ref()
            .map(folder)
            .filter(|folder| Path::new(folder).exists())
            .collect()
    });
    &FOUND
}

fn open_system(spec: &ContainerSpec) -> bool {
    let option = |o: &String| o.starts_with("systempaths=unconfined");
    spec.privileged || spec.security_opt.iter().any(option)
}

/// What a container cannot see, and what it cannot write to.
pub fn protected(spec: &ContainerSpec) -> (Vec<String>, Vec<String>) {
    let paths = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    match open_system(spec) {
        true => (Vec::new(), Vec::new()),
        false => (
            [paths(&MASKED), thermal_throttle().to_vec()].concat(),
            paths(&READ_ONLY),
        ),
    }
}

/// Where things of this container are on the host.
pub struct Places<'a> {
    /// Its folder in the state directory.
    pub folder: &'a Path,
    /// Its folder in the run directory.
    pub run_folder: &'a Path,
    /// Folders of the image's layers, top first.
    pub lower: Vec<PathBuf>,
    /// Nothing that is written is wanted after a power loss.
    pub volatile: bool,
    /// Folder of a named or anonymous volume.
    pub volume: &'a (dyn Fn(&str) -> PathBuf + Sync),
    /// Folder of an unpacked layer by its diff id.
    pub layer: &'a (dyn Fn(&str) -> PathBuf + Sync),
}

/// The plan. `network` says whether a network namespace comes with the request. Devices of the host are
/// looked up and added at the start, by [`super::devices::grant`].
pub fn plan(record: &Record, places: &Places<'_>, network: bool) -> Result<ContainerPlan, Error> {
    let spec = &record.spec;
    let effective = &record.effective;
    let namespace = |mode: &str| peers::namespace(spec, mode);
    let (masked_paths, readonly_paths) = protected(spec);
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
    let size = spec.terminal_size.unwrap_or_default();
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Ok(ContainerPlan {
        id: record.id.clone(),
        namespaces: Namespaces {
            net: if network {
                Namespace::Fd
            } else {
                namespace(mode)
            },
            pid: namespace(&spec.pid_mode),
            ipc: namespace(&spec.ipc_mode),
            uts: namespace(&spec.uts_mode),
            cgroup: namespace(&spec.cgroupns_mode),
        },
        hostname: effective.hostname.clone(),
        domainname: spec.domainname.clone(),
        user: record.user_map.clone(),
        root_propagation: match spec
            .mounts
            .iter()
            .any(|m| m.propagation.ends_with("shared"))
        {
            true => libc::MS_SHARED,
            false => 0,
        },
        own_dev: !spec.mounts.iter().any(|m| m.target == "/dev"),
        root: Root::Overlay {
            lower: places.lower.clone(),
            upper: places.folder.join("upper"),
            work: places.folder.join("work"),
            volatile: places.volatile,
        },
        readonly_root: spec.read_only,
        mounts: mounts::all(record, places)?,
        devices: dev::usual(),
        host_devices: false,
        masked_paths,
        readonly_paths,
        sysctls: sysctls::all(spec)?,
        cgroup: Cgroup {
            path: record.cgroup(),
            limits: Limits {
                oom_kill_disable: spec.oom_kill_disable,
                ..resources::limits(spec.resources.as_ref().unwrap_or(&Resources::default()))
            },
            all_devices: spec.privileged,
            devices: Vec::new(),
            denied_devices: Vec::new(),
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
            seccomp: seccomp(spec, capabilities)?,
            rlimits: spec.ulimits.iter().map(rlimit).collect::<Result<_, _>>()?,
            init: spec.init,
            oom_score_adj: (spec.oom_score_adj != 0).then_some(spec.oom_score_adj),
            label: Label::None,
            identity: None,
            sets: None,
            tuning: Tuning::default(),
            descriptors: 0,
            outlives: false,
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
            log: Some(places.folder.to_owned()),
            log_limits: logs::config::logging(spec)?.limits,
            exit: places.folder.join(protocol::EXIT_FILE),
            socket: places.run_folder.join("monitor.sock"),
            // One that stays may be started again at once, and what is mounted into it be needed.
            mounts_may_linger: spec.auto_remove && spec.mounts.iter().all(|m| m.r#type == "tmpfs"),
        },
        time: Time::default(),
        user_path: None,
        new_keyring: false,
        hooks: Hooks::default(),
    })
}

/// The last `seccomp=` counts, as docker; `--privileged` has none.
fn seccomp(spec: &ContainerSpec, capabilities: u64) -> Result<Seccomp, Error> {
    let mut options = spec.security_opt.iter().rev();
    let asked = options.find_map(|o| o.strip_prefix("seccomp="));
    match asked {
        _ if spec.privileged => Ok(Seccomp::Unconfined),
        Some("unconfined") => Ok(Seccomp::Unconfined),
        None | Some("builtin") => Ok(Seccomp::Default),
        Some(profile) => {
            let (program, flags) = executor::seccomp::custom(profile, capabilities)
                .map_err(|e| Error::Invalid(e.to_string()))?;
            Ok(Seccomp::Custom {
                program: crate::sys::bpf::to_hex(&program),
                flags,
            })
        }
    }
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
            user_map: None,
            image_mounts: Default::default(),
            updating: false,
            publishing: false,
            changing: None,
        };
        let places = Places {
            folder: Path::new("/s"),
            run_folder: Path::new("/r"),
            lower: vec!["/l".into()],
            volatile: false,
            volume: &|name| PathBuf::from("/v").join(name),
            layer: &|id| PathBuf::from("/l").join(id),
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
}
