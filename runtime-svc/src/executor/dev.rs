//! /dev: device nodes, the usual links, and the terminal.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
    mount::OpenTreeFlags,
};

use super::{StartError, Step as _, plan::Device, rootfs};
use crate::sys::terminal;

/// Links that every container has.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes nodes and links in the /dev that was mounted.
pub fn populate(root: &OwnedFd, devices: &[Device]) -> Result<(), StartError> {
    let folder = rootfs::open_inside(root, "/dev", OFlags::DIRECTORY)
        .step(|| "cannot open the container's /dev".to_owned())?;
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &folder, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).step(|| format!("cannot make /dev/{name}")),
        }
    }
    for device in devices {
        node(root, device).step(|| format!("cannot make {}", device.path))?;
    }
    Ok(())
}

fn node(root: &OwnedFd, device: &Device) -> rustix::io::Result<()> {
    let (parent, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
    let parent = rootfs::make_folder_inside(root, parent, 0o755)?;
    let kind = if device.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    // Mode 0 first: mknod's mode is cut by the umask, and nobody may open it before it is right.
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(&parent, name, kind, Mode::empty(), number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty())?;
            rustix::fs::mknodat(&parent, name, kind, Mode::empty(), number)?;
        }
        Err(e) => return Err(e),
    }
    // Not through a link: we have just made the node ourselves in a folder nobody else can see yet.
    rustix::fs::chmodat(
        &parent,
        name,
        Mode::from_raw_mode(device.mode),
        rustix::fs::AtFlags::empty(),
    )
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
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(&devpts, "ptmx", flags, Mode::empty()).step(what)?;
    terminal::unlock(&master).step(what)?;
    let peer = terminal::open_peer(&master).step(what)?;
    Ok(Terminal { master, peer })
}

/// Shows the terminal as /dev/console.
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
    let target = rootfs::make_file_inside(root, "/dev/console").step(what)?;
    rootfs::attach(&mount, target.as_fd()).step(what)
}
