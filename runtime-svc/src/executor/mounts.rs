//! Mounts into the root file system, one after the other, by descriptors only.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::{
    StartError, Step as _, copy_up,
    init::Placing,
    plan::{Mount, MountSource, Propagation},
    protect, rootfs,
    userns::UserNamespace,
};
use crate::{
    cgroup::{Group, Hierarchies, Hierarchy},
    sys::mount_attr,
};

/// Sources of mounts that stay connected with the host's mounts: taken while this mount namespace still is.
pub fn open_connected(mounts: &[Mount]) -> Result<Vec<Option<OwnedFd>>, StartError> {
    mounts
        .iter()
        .map(|mount| match (&mount.source, mount.propagation) {
            (_, Propagation::Private | Propagation::Unbindable { .. }) => Ok(None),
            (MountSource::Bind(path), _) => rootfs::bind_tree(path, mount.recursive).map(Some),
            _ => Ok(None),
        })
        .collect()
}

/// What mounts are made with.
#[derive(Debug)]
pub struct Context<'a> {
    /// A folder that something may be mounted on for a moment.
    pub stage: &'a Path,
    /// What [`MountSource::SharedMemory`] means.
    pub shm: Option<&'a OwnedFd>,
    /// Whose ids owners are shown as.
    pub user: Option<&'a UserNamespace>,
    /// The view of the cgroups is the host's.
    pub host_cgroups: bool,
    /// The container's own.
    pub group: &'a Group,
    /// What [`Mount::mapping`] counts.
    pub mappings: &'a [UserNamespace],
    /// Kernel parameters, to be written through the first proc file system before it is anywhere.
    pub sysctls: &'a [(String, String)],
    /// What [`MountSource::Given`] counts.
    pub given: &'a [OwnedFd],
    /// To be finished before the cgroups can be shown.
    pub placing: &'a Placing<'a>,
}

/// Makes all mounts. Sources are looked up on the host, so this happens before the pivot; targets are
/// looked up inside `root`, each after the mounts before it. `connected` is of [`open_connected`].
pub fn make(
    root: &OwnedFd,
    mounts: &[Mount],
    connected: Vec<Option<OwnedFd>>,
    context: &Context<'_>,
) -> Result<(), StartError> {
    let mut sysctls = context.sysctls;
    for (mount, connected) in mounts.iter().zip(connected) {
        make_one(root, mount, connected, context, &mut sysctls)?;
    }
    // Nothing of the container's will do where a proc file system comes from elsewhere, or none does.
    protect::write_sysctls(sysctls)
}

fn make_one(
    root: &OwnedFd,
    mount: &Mount,
    connected: Option<OwnedFd>,
    context: &Context<'_>,
    sysctls: &mut &[(String, String)],
) -> Result<(), StartError> {
    let what = || format!("cannot mount on {}", mount.target);
    let Context {
        stage,
        shm,
        user,
        host_cgroups,
        group,
        mappings,
        ..
    } = *context;
    let source = match (&mount.source, connected) {
        (_, Some(source)) => source,
        (MountSource::Filesystem { kind, options }, _) => {
            let made = filesystem(kind, &with_mode(root, mount, options)?)?;
            if kind == "proc" && options.is_empty() {
                // Still mounted nowhere, as `procfs` wants it. Another one would have to be taken away
                // again, which waits for all processors.
                protect::write_sysctls_to(&made, std::mem::take(sysctls))?;
            }
            made
        }
        (MountSource::Bind(path), _) => rootfs::bind_tree(path, mount.recursive)?,
        (MountSource::Beneath { base, path }, _) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let base = rustix::fs::open(base, flags, Mode::empty()).step(what)?;
            rootfs::bind_beneath(&base, path)?
        }
        (MountSource::Given { number, path }, _) => given(context.given, *number, path, stage)?,
        (MountSource::Layers { lower, path }, _) => layers(lower, path, stage, user)?,
        (MountSource::Cgroups { writable, own }, _) => {
            context.placing.finish()?;
            let own = match host_cgroups {
                true => own.then_some(group),
                // They look the same as new mounts of the trees, and are there already.
                false => context.placing.shown(),
            };
            return cgroups(root, &mount.target, *writable, host_cgroups, own);
        }
        (MountSource::SharedMemory, _) => {
            let shm = shm.ok_or_else(|| StartError::Failed {
                step: what(),
                why: "there is no shared memory to mount".to_owned(),
            })?;
            let target = rootfs::make_folder_inside(root, &mount.target, 0o1777).step(what)?;
            return rootfs::attach(shm, target.as_fd()).step(what);
        }
    };
    ordinary_folder(root, mount)?;
    if let (true, Some(user)) = (mount.idmapped, user) {
        rootfs::idmap(&source, user)?;
    }
    if let Some((number, recursive)) = mount.mapping {
        let user = mappings.get(number).ok_or(Errno::INVAL).step(what)?;
        mount_attr::idmap_tree(&source, user.namespace(), recursive).step(what)?;
    }
    if mount.copy_up {
        copy_up::into(root, &mount.target, &source)?;
    }
    let deep = mount.recursive && !mount.only_top;
    mount_attr::set(&source, mount.attributes, mount.cleared, 0, deep).step(what)?;
    if mount.deep != (0, 0) {
        mount_attr::set(&source, mount.deep.0, mount.deep.1, 0, true).step(what)?;
    }
    propagate(&source, mount).step(what)?;
    let target = if rootfs::is_folder(&source).step(what)? {
        rootfs::make_folder_inside(root, &mount.target, 0o755).step(what)?
    } else {
        rootfs::make_file_inside(root, &mount.target).step(what)?
    };
    // A target such as /proc/self/... or a link that leads into another mount of ours would let a
    // volume replace what protects the container (CVE-2019-16884): only the root file system, tmpfs
    // and volumes may be mounted upon.
    if is_procfs(&target).step(what)? && !IN_PROC.contains(&&*mount.target) {
        return Err(StartError::Failed {
            step: what(),
            why: "the target is inside /proc, where nothing may be mounted".to_owned(),
        });
    }
    rootfs::attach(&source, target.as_fd()).step(what)
}

/// The kernel's own file systems are only mounted where the image has a folder, or nothing: through a
/// link they would be somewhere else than those who protect them look (CVE-2019-19921, runc's sentence).
fn ordinary_folder(root: &OwnedFd, mount: &Mount) -> Result<(), StartError> {
    let MountSource::Filesystem { kind, .. } = &mount.source else {
        return Ok(());
    };
    if !matches!(mount.target.as_str(), "/proc" | "/sys" | "/dev") {
        return Ok(());
    }
    let name = mount.target.trim_start_matches('/');
    match rustix::fs::statat(root, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
            Err(StartError::Failed {
                step: format!("cannot mount on {}", mount.target),
                why: format!("filesystem {kind:?} must be mounted on ordinary directory"),
            })
        }
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e).step(|| format!("cannot look at {}", mount.target)),
    }
}

/// What may be mounted upon in /proc: itself, and what lxcfs has (runc, checkProcMount).
const IN_PROC: [&str; 9] = [
    "/proc",
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
];

/// Says who hears of mounts below a detached mount.
fn propagate(source: &OwnedFd, mount: &Mount) -> io::Result<()> {
    let set = |kind, recursive| mount_attr::set(source, 0, 0, kind, recursive);
    match mount.propagation {
        Propagation::Private => set(libc::MS_PRIVATE, mount.recursive),
        Propagation::Slave { recursive } => set(libc::MS_SLAVE, recursive && mount.recursive),
        Propagation::Shared { recursive } => set(libc::MS_SHARED, recursive && mount.recursive),
        Propagation::Unbindable { recursive } => {
            set(libc::MS_UNBINDABLE, recursive && mount.recursive)
        }
    }
}

/// A new file system's options, with the permissions of what it covers where none are asked for.
fn with_mode(
    root: &OwnedFd,
    mount: &Mount,
    options: &[(String, Option<String>)],
) -> Result<Vec<(String, Option<String>)>, StartError> {
    let mut options = options.to_vec();
    if mount.keep_mode && !options.iter().any(|(key, _)| key == "mode") {
        let what = || format!("cannot look at {}", mount.target);
        let mode = match rootfs::open_inside(root, &mount.target, OFlags::DIRECTORY) {
            Ok(covered) => rustix::fs::fstat(covered).step(what)?.st_mode & 0o7777,
            Err(Errno::NOENT | Errno::NOTDIR) => 0o1777,
            Err(e) => return Err(e).step(what),
        };
        options.push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    Ok(options)
}

/// Layers as one tree, or a part of that.
fn layers(
    lower: &[PathBuf],
    path: &str,
    stage: &Path,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, StartError> {
    let tree = match (lower, user) {
        ([only], user) => {
            // overlayfs wants two layers at least when nothing is to be written.
            let tree = rootfs::bind_tree(only, false)?;
            if let Some(user) = user {
                rootfs::idmap(&tree, user)?;
            }
            tree
        }
        (many, None) => rootfs::overlay(many, None)?,
        (many, Some(user)) => rootfs::idmapped_overlay(many, None, stage, user)?,
    };
    if path.is_empty() {
        return Ok(tree);
    }
    let part = rootfs::bind_beneath(&tree, path);
    drop(tree);
    part
}

/// A mount that came along, or a part of it.
fn given(all: &[OwnedFd], number: usize, path: &str, stage: &Path) -> Result<OwnedFd, StartError> {
    let what = || "cannot use a mount that came along".to_owned();
    let tree = all.get(number).ok_or(Errno::INVAL).step(what)?;
    if path.is_empty() {
        return rustix::io::fcntl_dupfd_cloexec(tree, 3).step(what);
    }
    if let Some(part) = rootfs::bind_in_root(tree, path)? {
        return Ok(part);
    }
    // Before Linux 6.15 a part can only be taken of what is mounted somewhere in our own namespace.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(stage, flags, Mode::empty()).step(what)?;
    rootfs::attach(tree, target.as_fd()).step(what)?;
    let part = rootfs::bind_in_root(tree, path);
    rustix::mount::unmount(stage, rustix::mount::UnmountFlags::DETACH).step(what)?;
    part?.ok_or(Errno::INVAL).step(what)
}

/// Whether this is on a proc file system.
pub fn is_procfs(fd: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == libc::PROC_SUPER_MAGIC)
}

/// A detached mount of a new file system.
pub fn filesystem(kind: &str, options: &[(String, Option<String>)]) -> Result<OwnedFd, StartError> {
    let what = || format!("cannot mount a {kind}");
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step(what)?;
    for (key, value) in options {
        let option = || match value {
            Some(value) => format!("cannot mount a {kind} with {key}={value}"),
            None => format!("cannot mount a {kind} with {key}"),
        };
        match value {
            Some(value) => {
                rustix::mount::fsconfig_set_string(fs.as_fd(), key.as_str(), value.as_str())
                    .step(option)?;
            }
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), key.as_str()).step(option)?,
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd()).step(what)?;
    rustix::mount::fsmount(
        fs.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .step(what)
}

/// The host's cgroup trees, read-only unless the container is privileged, each showing the container's
/// own group as its root (the cgroup namespace does that).
///
/// With `own` just the container's own groups are shown, as runc does in the host's cgroup namespace.
fn cgroups(
    root: &OwnedFd,
    target: &str,
    writable: bool,
    host: bool,
    own: Option<&Group>,
) -> Result<(), StartError> {
    let what = || format!("cannot mount the cgroups on {target}");
    let read_only = if writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let attributes =
        read_only | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let folder = rootfs::make_folder_inside(root, target, 0o755).step(what)?;
    let hierarchies = Hierarchies::detect().step(what)?;
    if hierarchies.v1.is_empty() {
        let Some(tree) = &hierarchies.v2 else {
            return Ok(());
        };
        let tree = match host {
            true if own.is_some() => {
                let folder = own.and_then(Group::unified_folder).ok_or(Errno::NOENT);
                rootfs::bind_tree(folder.step(what)?, false)?
            }
            // A new mount of cgroup2 from the first cgroup namespace sets the options of the whole tree
            // (apply_cgroup_root_flags in kernel/cgroup/cgroup.c): the host would lose nsdelegate and
            // memory_recursiveprot.
            true => rootfs::bind_tree(tree, false)?,
            false => filesystem("cgroup2", &[])?,
        };
        mount_attr::set(&tree, attributes, 0, libc::MS_PRIVATE, false).step(what)?;
        return rootfs::attach(&tree, folder.as_fd()).step(what);
    }
    // v1: a tmpfs with a folder a hierarchy.
    let mode = ("mode".to_owned(), Some("755".to_owned()));
    let base = filesystem("tmpfs", &[mode])?;
    rootfs::attach(&base, folder.as_fd()).step(what)?;
    for hierarchy in &hierarchies.v1 {
        let Some(name) = hierarchy.path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let tree = match own.and_then(|group| group.folder_in(hierarchy)) {
            Some(folder) => rootfs::bind_tree(folder, false)?,
            None => filesystem("cgroup", &v1_options(hierarchy))?,
        };
        mount_attr::set(&tree, attributes, 0, libc::MS_PRIVATE, false).step(what)?;
        rustix::fs::mkdirat(&base, name, Mode::from_raw_mode(0o755)).step(what)?;
        let place = rustix::fs::openat(
            &base,
            name,
            OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .step(what)?;
        rootfs::attach(&tree, place.as_fd()).step(what)?;
    }
    mount_attr::set(&base, attributes, 0, 0, false).step(what)
}

/// What a v1 tree is mounted with.
fn v1_options(hierarchy: &Hierarchy) -> Vec<(String, Option<String>)> {
    let options = hierarchy.options.iter();
    options
        .map(|o| match o.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (o.clone(), None),
        })
        .collect()
}

/// Lets mounts of the container's root reach the mounts that share with it, or makes it unbindable, as
/// runc's `rootfsPropagation` does. Inside the container's root.
pub fn propagate_root(propagation: u64) -> Result<(), StartError> {
    let what = || "cannot share the container's root".to_owned();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).step(what)?;
    mount_attr::set(&root, 0, 0, propagation, false).step(what)
}

/// Makes the root file system read-only; what is mounted upon it stays as it is.
pub fn make_read_only(mount: &OwnedFd) -> Result<(), StartError> {
    mount_attr::set(mount, libc::MOUNT_ATTR_RDONLY, 0, 0, false)
        .step(|| "cannot make the root file system read-only".to_owned())
}
