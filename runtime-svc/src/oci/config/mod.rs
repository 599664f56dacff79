//! From a bundle's `config.json` to the executor's plan: pure functions, but for what a plan must know of
//! this host (the root file system's place, what the cgroup trees can do).

mod cgroup_path;
mod device_rules;
pub mod example;
mod idmap;
mod linux;
mod mount_options;
mod mounts;
pub mod process;
pub mod resources;

pub use mount_options::KNOWN as MOUNT_OPTIONS;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Mode, OFlags};

use super::{
    agent::Agent,
    error::{Error, Tried as _},
};
use crate::{
    cgroup::Hierarchies,
    executor::plan::{
        About, ContainerPlan, Files, Hook, Hooks, LogLimits, Root, Stdio, Time, UserMap,
    },
};

/// Longest config.json; docker's has 20,000 bytes.
const MAX_LENGTH: u64 = 16 << 20;

/// What a bundle asks for.
#[derive(Debug)]
pub struct Container {
    /// For the executor.
    pub plan: ContainerPlan,
    /// What the executor does not do.
    pub outside: Outside,
    /// User namespaces that mounts are shown through.
    pub mappings: Vec<UserMap>,
    /// What it was planned for.
    pub hierarchies: Hierarchies,
}

/// Hooks of the host's side.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Outside {
    /// Before the container pivots.
    pub prestart: Vec<Hook>,
    /// After those.
    pub create_runtime: Vec<Hook>,
    /// When the program runs.
    pub poststart: Vec<Hook>,
    /// When the container is gone.
    pub poststop: Vec<Hook>,
    /// Who answers some of its calls.
    #[serde(default)]
    pub agent: Option<Agent>,
}

/// What comes from the command line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// cgroupsPath is systemd's.
    pub systemd: bool,
    /// The caller's keyring stays.
    pub keep_keyring: bool,
    /// Descriptors that are handed on.
    pub descriptors: u32,
}

/// Reads a file of the caller's: regular, and not endless.
pub fn read(path: &Path) -> Result<String, Error> {
    let what = || format!("cannot read {}", path.display());
    // O_NONBLOCK: opening a FIFO must not wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).tried(what)?;
    let stat = rustix::fs::fstat(&file).tried(what)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Error::Invalid(format!(
            "{}: it is not a regular file",
            what()
        )));
    }
    read_from(std::fs::File::from(file), &what())
}

/// The same of something open.
pub fn read_from(file: impl std::io::Read, what: &str) -> Result<String, Error> {
    let mut text = String::new();
    let mut file = file.take(MAX_LENGTH + 1);
    file.read_to_string(&mut text).tried(|| what.to_owned())?;
    if text.len() as u64 > MAX_LENGTH {
        return Err(Error::Invalid(format!(
            "{what}: it is longer than {MAX_LENGTH} bytes"
        )));
    }
    Ok(text)
}

/// Reads and understands a bundle.
pub fn load(bundle: &Path, id: &str, options: Options) -> Result<Container, Error> {
    let bundle = std::fs::canonicalize(bundle)
        .tried(|| format!("cannot find the bundle {}", bundle.display()))?;
    let path = bundle.join("config.json");
    let text = read(&path)?;
    let spec: Spec = serde_json::from_str(&text)
        .map_err(|e| Error::Invalid(format!("{} is not understood: {e}", path.display())))?;
    let hierarchies = Hierarchies::detect().tried(|| "cannot find the cgroup trees".to_owned())?;
    plan(&spec, bundle, id, options, hierarchies)
}

fn plan(
    spec: &Spec,
    bundle: PathBuf,
    id: &str,
    options: Options,
    hierarchies: Hierarchies,
) -> Result<Container, Error> {
    check_version(spec.version())?;
    if spec.vm().is_some() || spec.windows().is_some() {
        return Err(Error::Unsupported(
            "config.json is for a virtual machine or for Windows, which are not supported"
                .to_owned(),
        ));
    }
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| Error::Invalid("config.json has no linux".to_owned()))?;
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::Invalid("config.json has no root".to_owned()))?;
    let rootfs = rootfs(&bundle, root.path())?;
    let given = spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::Invalid("config.json has no process".to_owned()))?;
    let spaces = linux::namespaces(linux.namespaces().as_deref().unwrap_or_default(), linux)?;
    let hosts = crate::container::sysctls::Hosts {
        ipc: spaces.shared.ipc,
        net: spaces.shared.net,
        uts: spaces.shared.uts,
    };
    let has_names = spec.hostname().is_some() || spec.domainname().is_some();
    if has_names && hosts.uts {
        return Err(Error::Invalid(
            "config.json has a hostname or domainname, but no uts namespace to set it in"
                .to_owned(),
        ));
    }
    linux::refuse(linux)?;
    let mut process = process::process(given, options.descriptors)?;
    let (filter, agent) = linux::seccomp(linux, process.capabilities)?;
    process.seccomp = filter;
    process.tuning.personality = linux::personality(linux)?;
    let mut mappings = Vec::new();
    let asked = spec.mounts().as_deref().unwrap_or_default();
    let mounts = mounts::all(asked, spaces.user.as_ref(), &mut mappings)?;
    let own_dev = !mounts.iter().any(|m| {
        m.target.trim_end_matches('/') == "/dev"
            && matches!(m.source, crate::executor::plan::MountSource::Bind(_))
    });
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let hooks = spec.hooks().clone().unwrap_or_default();
    let about = About {
        id: id.to_owned(),
        bundle: bundle.clone(),
        annotations: spec
            .annotations()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
    };
    let list = |hooks: &Option<Vec<oci_spec::runtime::Hook>>| linux::hooks(hooks.as_deref());
    #[allow(deprecated, reason = "docker and podman still use prestart hooks")]
    let outside = Outside {
        prestart: list(hooks.prestart())?,
        create_runtime: list(hooks.create_runtime())?,
        poststart: list(hooks.poststart())?,
        poststop: list(hooks.poststop())?,
        agent,
    };
    let cgroup = cgroup_path::parse(linux.cgroups_path().as_deref(), id, options.systemd)?;
    let plan = ContainerPlan {
        id: id.to_owned(),
        namespaces: spaces.namespaces,
        hostname: text(spec.hostname()),
        domainname: text(spec.domainname()),
        user: spaces.user,
        user_path: spaces.user_path,
        root: Root::Bundle(rootfs.clone()),
        root_propagation: linux::root_propagation(linux.rootfs_propagation().as_deref())?,
        readonly_root: root.readonly().unwrap_or(false),
        mounts,
        own_dev,
        devices: linux::devices(linux.devices().as_deref().unwrap_or_default())?,
        host_devices: false,
        masked_paths: linux::paths("maskedPaths", linux.masked_paths().as_deref())?,
        readonly_paths: linux::paths("readonlyPaths", linux.readonly_paths().as_deref())?,
        sysctls: linux::sysctls(linux, &hosts)?,
        cgroup: resources::cgroup(cgroup, linux.resources().as_ref(), &hierarchies)?,
        stdio: match given.terminal().unwrap_or(false) {
            true => terminal(given),
            false => Stdio::Pipes { stdin: true },
        },
        process,
        files: Files {
            // Where hooks look for it (config.json's root.path), in its own mount namespace.
            mount_point: rootfs,
            log: None,
            log_limits: LogLimits::default(),
            exit: PathBuf::new(),
            socket: PathBuf::new(),
            mounts_may_linger: false,
        },
        time: Time {
            namespace: spaces.time,
            offsets: linux::time_offsets(linux)?,
        },
        new_keyring: !options.keep_keyring,
        hooks: Hooks {
            ask: !outside.prestart.is_empty() || !outside.create_runtime.is_empty(),
            create_container: list(hooks.create_container())?,
            start_container: list(hooks.start_container())?,
            about,
        },
    };
    Ok(Container {
        plan,
        outside,
        mappings,
        hierarchies,
    })
}

/// Semantic versioning: what was written for another 1.x is understood (spec.md).
fn check_version(version: &str) -> Result<(), Error> {
    let major = version.split('.').next().unwrap_or_default();
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let right = numbers.split('.').count() == 3
        && numbers
            .split('.')
            .all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match (right, major) {
        (true, "1") => Ok(()),
        (true, _) => Err(Error::Unsupported(format!(
            "config.json is of ociVersion {version}; 1.x is supported"
        ))),
        (false, _) => Err(Error::Invalid(format!(
            "config.json has no valid ociVersion: {version:?}"
        ))),
    }
}

fn rootfs(bundle: &Path, path: &Path) -> Result<PathBuf, Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::Invalid("config.json: root.path is empty".to_owned()));
    }
    let path = bundle.join(path);
    let what = || format!("cannot find the root file system {}", path.display());
    let found = std::fs::canonicalize(&path).tried(what)?;
    if !found.is_dir() {
        return Err(Error::Invalid(format!("{}: it is not a folder", what())));
    }
    if found == Path::new("/") {
        return Err(Error::Invalid(format!("{}: it is the host's root", what())));
    }
    Ok(found)
}

pub fn terminal(process: &oci_spec::runtime::Process) -> Stdio {
    let size = process.console_size();
    let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    Stdio::Terminal {
        rows: size.as_ref().map_or(0, |size| clamp(size.height())),
        columns: size.as_ref().map_or(0, |size| clamp(size.width())),
        stdin: true,
    }
}

#[cfg(test)]
mod tests;
