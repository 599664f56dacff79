//! What config.json says below `linux`, and hooks.

use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxPersonalityDomain,
};

use super::idmap;
use crate::{
    container::sysctls::{self, Hosts},
    executor::{
        plan::{Device, Hook, Namespace, Namespaces, Seccomp, UserMap},
        seccomp as filters,
    },
    oci::{Error, agent::Agent},
};

/// Namespaces of a container.
#[derive(Debug)]
pub struct Spaces {
    /// Those that a plan has together.
    pub namespaces: Namespaces,
    /// Clocks.
    pub time: Namespace,
    /// Ids.
    pub user: Option<UserMap>,
    /// The user namespace that is joined.
    pub user_path: Option<PathBuf>,
    /// Which are the caller's.
    pub shared: Hosts,
}

/// By type; a type twice is an error (config-linux.md, "Namespaces").
pub fn namespaces(given: &[LinuxNamespace], linux: &Linux) -> Result<Spaces, Error> {
    let find = |typ: LinuxNamespaceType, name: &str| -> Result<Namespace, Error> {
        let mut found = given.iter().filter(|n| n.typ() == typ);
        let first = found.next();
        if found.next().is_some() {
            return Err(Error::Invalid(format!("namespaces: {name} is there twice")));
        }
        match first.map(LinuxNamespace::path) {
            None => Ok(Namespace::Host),
            Some(Some(path)) if !path.as_os_str().is_empty() => match path.is_absolute() {
                true => Ok(Namespace::Path(path.clone())),
                false => Err(Error::Invalid(format!(
                    "namespaces: the path of {name} is not absolute: {}",
                    path.display()
                ))),
            },
            Some(_) => Ok(Namespace::New),
        }
    };
    match find(LinuxNamespaceType::Mount, "mount")? {
        Namespace::New => {}
        Namespace::Host => {
            return Err(Error::Unsupported(
                "namespaces: a container without a mount namespace of its own is not supported"
                    .to_owned(),
            ));
        }
        _ => {
            return Err(Error::Unsupported(
                "namespaces: joining a mount namespace by its path is not supported: the root file system would be changed for everybody who is in it".to_owned(),
            ));
        }
    }
    let namespaces = Namespaces {
        net: find(LinuxNamespaceType::Network, "network")?,
        pid: find(LinuxNamespaceType::Pid, "pid")?,
        ipc: find(LinuxNamespaceType::Ipc, "ipc")?,
        uts: find(LinuxNamespaceType::Uts, "uts")?,
        cgroup: find(LinuxNamespaceType::Cgroup, "cgroup")?,
    };
    let time = find(LinuxNamespaceType::Time, "time")?;
    let map = idmap::map(
        linux.uid_mappings().as_deref(),
        linux.gid_mappings().as_deref(),
    )?;
    let (user, user_path) = match (find(LinuxNamespaceType::User, "user")?, map) {
        (Namespace::New, Some(map)) => (Some(map), None),
        (Namespace::New, None) => {
            return Err(Error::invalid(
                "namespaces: a new user namespace needs uidMappings and gidMappings",
            ));
        }
        (Namespace::Path(_), Some(_)) => {
            return Err(Error::invalid(
                "uidMappings: a user namespace that is joined has its own",
            ));
        }
        (Namespace::Path(path), None) => (Some(idmap::of_namespace(&path)?), Some(path)),
        (_, Some(_)) => {
            return Err(Error::invalid("uidMappings without a user namespace"));
        }
        (_, None) => (None, None),
    };
    let has_offsets = linux
        .time_offsets()
        .as_ref()
        .is_some_and(|offsets| !offsets.is_empty());
    if has_offsets && time != Namespace::New {
        return Err(Error::invalid("timeOffsets without a new time namespace"));
    }
    let shared = Hosts {
        ipc: namespaces.ipc == Namespace::Host,
        net: namespaces.net == Namespace::Host,
        uts: namespaces.uts == Namespace::Host,
    };
    Ok(Spaces {
        namespaces,
        time,
        user,
        user_path,
        shared,
    })
}

/// What is not offered.
pub fn refuse(linux: &Linux) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error::Unsupported(format!("{what} is not supported")));
    if linux
        .mount_label()
        .as_ref()
        .is_some_and(|label| !label.is_empty())
    {
        return refuse("mountLabel: SELinux");
    }
    if linux.intel_rdt().is_some() {
        return refuse("intelRdt");
    }
    if linux.memory_policy().is_some() {
        return refuse("memoryPolicy");
    }
    if linux
        .net_devices()
        .as_ref()
        .is_some_and(|devices| !devices.is_empty())
    {
        return refuse("netDevices: moving network devices into a container");
    }
    Ok(())
}

/// The filter: the same form as docker's profiles, and the same compiler.
pub fn seccomp(linux: &Linux, capabilities: u64) -> Result<(Seccomp, Option<Agent>), Error> {
    let Some(profile) = linux.seccomp() else {
        return Ok((Seccomp::Unconfined, None));
    };
    let json = serde_json::to_string(profile).map_err(Error::invalid)?;
    let (program, flags, listener) =
        filters::with_agent(&json, capabilities).map_err(Error::invalid)?;
    let filter = Seccomp::Custom {
        program: crate::sys::bpf::to_hex(&program),
        flags,
    };
    let agent = listener.map(|listener| Agent {
        path: listener.path.into(),
        metadata: listener.metadata,
    });
    Ok((filter, agent))
}

/// `PER_*` of personality(2).
pub fn personality(linux: &Linux) -> Result<Option<u64>, Error> {
    let Some(personality) = linux.personality() else {
        return Ok(None);
    };
    if personality
        .flags()
        .as_ref()
        .is_some_and(|flags| !flags.is_empty())
    {
        return Err(Error::Unsupported(
            "personality: flags are not supported".to_owned(),
        ));
    }
    Ok(Some(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

/// config-linux.md, "Rootfs Mount Propagation".
pub fn root_propagation(word: Option<&str>) -> Result<u64, Error> {
    match word {
        None | Some("" | "private" | "rprivate") => Ok(0),
        Some("slave" | "rslave") => Ok(libc::MS_SLAVE),
        Some("shared" | "rshared") => Ok(libc::MS_SHARED),
        Some("unbindable" | "runbindable") => Ok(libc::MS_UNBINDABLE),
        Some(other) => Err(Error::Invalid(format!(
            "rootfsPropagation={other} is not supported"
        ))),
    }
}

/// The six nodes that each container has (config-linux.md, "Default Devices"), and those that are asked for.
pub fn devices(asked: &[LinuxDevice]) -> Result<Vec<Device>, Error> {
    let asked = asked.iter().map(device).collect::<Result<Vec<_>, _>>()?;
    let mut all = crate::executor::dev::usual();
    all.retain(|usual| !asked.iter().any(|device| device.path == usual.path));
    all.extend(asked);
    Ok(all)
}

fn device(device: &LinuxDevice) -> Result<Device, Error> {
    let path = device.path().to_string_lossy().into_owned();
    let refuse = |why: &str| Error::Invalid(format!("devices: {path}: {why}"));
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.ends_with('/') {
        return Err(refuse("it is not an absolute path of a node"));
    }
    let (block, fifo) = match device.typ() {
        LinuxDeviceType::B => (true, false),
        LinuxDeviceType::C | LinuxDeviceType::U => (false, false),
        LinuxDeviceType::P => (false, true),
        LinuxDeviceType::A => return Err(refuse("type \"a\" is for rules, not for nodes")),
    };
    let number = |n: i64| match (fifo, u32::try_from(n)) {
        (true, _) => Ok(0),
        (false, number) => number.map_err(|_| refuse("it has no number")),
    };
    Ok(Device {
        block,
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        fifo,
        path,
    })
}

/// Paths that are hidden or made read-only.
pub fn paths(what: &str, paths: Option<&[String]>) -> Result<Vec<String>, Error> {
    let paths = paths.unwrap_or_default();
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(Error::Invalid(format!("{what}: {path:?} is not absolute"))),
        None => Ok(paths.to_vec()),
    }
}

/// Kernel parameters, in the same order each time.
pub fn sysctls(linux: &Linux, hosts: &Hosts) -> Result<Vec<(String, String)>, Error> {
    let given = linux.sysctl().iter().flatten();
    let mut all: Vec<_> = given.map(|(k, v)| (k.clone(), v.clone())).collect();
    all.sort_unstable();
    for (key, value) in &all {
        sysctls::check(key, hosts).map_err(Error::Invalid)?;
        if value.chars().any(char::is_control) {
            return Err(Error::Invalid(format!(
                "the value of sysctl '{key}' is not allowed: {value:?}"
            )));
        }
    }
    Ok(all)
}

/// config-linux.md, "Time".
pub fn time_offsets(linux: &Linux) -> Result<Vec<(String, i64, u32)>, Error> {
    let given = linux.time_offsets().iter().flatten();
    let mut all = given
        .map(|(clock, offset)| match clock.as_str() {
            "monotonic" | "boottime" => Ok((
                clock.clone(),
                offset.secs().unwrap_or(0),
                offset.nanosecs().unwrap_or(0),
            )),
            _ => Err(Error::Invalid(format!(
                "timeOffsets: {clock:?} is neither monotonic nor boottime"
            ))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    all.sort_unstable();
    Ok(all)
}

/// Hooks of one moment.
pub fn hooks(given: Option<&[oci_spec::runtime::Hook]>) -> Result<Vec<Hook>, Error> {
    given.unwrap_or_default().iter().map(hook).collect()
}

fn hook(given: &oci_spec::runtime::Hook) -> Result<Hook, Error> {
    let path = given.path().to_string_lossy().into_owned();
    if !path.starts_with('/') {
        return Err(Error::Invalid(format!(
            "hooks: {path:?} is not an absolute path"
        )));
    }
    let timeout = given.timeout().map(|seconds| match u32::try_from(seconds) {
        Ok(seconds @ 1..) => Ok(seconds),
        _ => Err(Error::Invalid(format!(
            "hooks: {path}: a timeout of {seconds} s is not possible"
        ))),
    });
    Ok(Hook {
        args: given.args().clone().unwrap_or_default(),
        env: given.env().clone().unwrap_or_default(),
        timeout: timeout.transpose()?,
        path,
    })
}
