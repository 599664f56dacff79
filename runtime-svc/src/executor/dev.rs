//! /dev: device nodes, the usual links, and the terminal.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::OpenTreeFlags,
};

use super::{
    StartError, Step as _, nodes,
    plan::{Device, UserMap},
    rootfs,
};
use crate::sys::terminal;

/// Links that every container has.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The nodes that each container has (runtime-spec, config-linux.md, "Default Devices").
pub fn usual() -> Vec<Device> {
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
        uid: 0,
        gid: 0,
        fifo: false,
    })
    .collect()
}

/// Makes nodes and links in the /dev that was mounted; with `host_devices` nodes for all devices of the
/// host, too. Their owners are ids of the container, which are those of `user` on the host.
pub fn populate(
    root: &OwnedFd,
    devices: &[Device],
    host_devices: bool,
    user: Option<&UserMap>,
) -> Result<(), StartError> {
    let folder = rootfs::make_folder_inside(root, "/dev", 0o755)
        .step(|| "cannot open the container's /dev".to_owned())?;
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &folder, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).step(|| format!("cannot make /dev/{name}")),
        }
    }
    let host = match host_devices {
        true => host_nodes(),
        false => Vec::new(),
    };
    for device in host.iter().chain(devices) {
        node(root, device, user).step(|| format!("cannot make {}", device.path))?;
    }
    Ok(())
}

fn node(root: &OwnedFd, device: &Device, user: Option<&UserMap>) -> rustix::io::Result<()> {
    let (parent, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
    let parent = rootfs::make_folder_inside(root, parent, 0o755)?;
    let kind = match device {
        Device { fifo: true, .. } => FileType::Fifo,
        Device { block: true, .. } => FileType::BlockDevice,
        Device { .. } => FileType::CharacterDevice,
    };
    // Mode 0 first: mknod's mode is cut by the umask, and nobody may open it before it is right.
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(&parent, name, kind, Mode::empty(), number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
            rustix::fs::mknodat(&parent, name, kind, Mode::empty(), number)?;
        }
        Err(e) => return Err(e),
    }
    // The folder may be in a volume that others write to: what has the name now must be the node that
    // was made, and it is changed by descriptor.
    let made = rustix::fs::openat(
        &parent,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&made)?;
    let same = device.fifo || stat.st_rdev == number;
    if FileType::from_raw_mode(stat.st_mode) != kind || !same {
        return Err(Errno::STALE);
    }
    // Whom the container does not know it belongs to who makes it: the container's root.
    let (owner, group) = match user {
        Some(map) => (map.uid(device.uid), map.gid(device.gid)),
        None => (Some(device.uid), Some(device.gid)),
    };
    let owner = owner.map(rustix::fs::Uid::from_raw);
    let group = group.map(rustix::fs::Gid::from_raw);
    rustix::fs::chownat(&made, "", owner, group, AtFlags::EMPTY_PATH)?;
    // There is no chmod of an O_PATH descriptor before Linux 6.6 but by this path.
    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
    rustix::fs::chmod(path, Mode::from_raw_mode(device.mode))
}

/// Folders of the host's /dev that a container has of its own (moby, HostDevices).
const OWN_FOLDERS: [&str; 4] = ["pts", "shm", "fd", "mqueue"];
/// Nodes that it has of its own.
const OWN_NODES: [&str; 2] = ["console", "ptmx"];

/// All devices in the host's /dev but those.
fn host_nodes() -> Vec<Device> {
    let dev = Path::new("/dev");
    let own = |path: &Path| {
        let top = path.parent() == Some(dev);
        let named = |names: &[&str]| {
            path.file_name()
                .is_some_and(|name| names.iter().any(|n| name == *n))
        };
        top && (named(&OWN_FOLDERS) || named(&OWN_NODES))
    };
    nodes::below(dev, dev, &|path| !own(path))
}

/// A new terminal of the container's own devpts.
pub struct Terminal {
    /// The monitor's side.
    pub master: OwnedFd,
    /// The process's side.
    pub peer: OwnedFd,
}

/// Opens a terminal in the container's devpts, found below `root`.
pub fn open_terminal(root: &OwnedFd) -> Result<Terminal, StartError> {
    let what = || "cannot open a terminal".to_owned();
    let devpts = rootfs::open_inside(root, "/dev/pts", OFlags::DIRECTORY).step(what)?;
    // Nothing that a container's root has put there, or upon it: opening a device does things.
    if rustix::fs::fstatfs(&devpts).step(what)?.f_type != libc::DEVPTS_SUPER_MAGIC {
        return Err(Errno::NODEV).step(|| "there is no devpts on /dev/pts".to_owned());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let master = rustix::fs::openat2(&devpts, "ptmx", flags, Mode::empty(), resolve).step(what)?;
    terminal::unlock(&master).step(what)?;
    let peer = terminal::open_peer(&master).step(what)?;
    Ok(Terminal { master, peer })
}

/// Shows the terminal as /dev/console: a file of the container's /dev, never what a link there leads to
/// (CVE-2025-52565).
pub fn mount_console(root: &OwnedFd, terminal: &Terminal) -> Result<(), StartError> {
    let what = || "cannot mount /dev/console".to_owned();
    let mount = rustix::mount::open_tree(
        &terminal.peer,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .step(what)?;
    let folder = rootfs::open_inside(root, "/dev", OFlags::DIRECTORY).step(what)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(&folder, "console", flags, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).step(what),
    }
    let target = rustix::fs::openat(
        &folder,
        "console",
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(what)?;
    let stat = rustix::fs::fstat(&target).step(what)?;
    if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        return Err(Errno::LOOP).step(what);
    }
    rootfs::attach(&mount, target.as_fd()).step(what)
}
