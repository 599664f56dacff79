//! The root file system: mounted in the container's own mount namespace, then made the root.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    },
};

use super::{StartError, Step as _, plan::Root};
use crate::sys::mount_attr;

/// How paths inside a root file system are resolved: nothing leads out, no /proc link is followed.
pub const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Cuts this mount namespace off from the host's: nothing propagates either way.
pub fn make_private() -> Result<(), StartError> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step(|| "cannot open /".to_owned())?;
    mount_attr::set(&root, 0, 0, libc::MS_PRIVATE, true)
        .step(|| "cannot make the mounts private".to_owned())
}

/// A detached mount of the root file system: visible nowhere until it is moved.
pub fn open(root: &Root) -> Result<OwnedFd, StartError> {
    match root {
        Root::Overlay { lower, upper, work } => overlay(lower, Some((upper, work))),
        Root::Folder(folder) => bind_tree(folder, true),
    }
}

/// A detached overlay mount; read-only without an upper layer. For a process with one thread and a mount
/// namespace of its own.
pub fn overlay(lower: &[PathBuf], upper: Upper<'_>) -> Result<OwnedFd, StartError> {
    match overlay_directly(lower, upper)? {
        Some(mount) => Ok(mount),
        None => overlay_by_mount(lower, upper),
    }
}

/// As [`overlay`], for a process with several threads that shares its mount namespace with the host.
pub fn overlay_in_service(lower: &[PathBuf], upper: Upper<'_>) -> Result<OwnedFd, StartError> {
    match overlay_directly(lower, upper)? {
        Some(mount) => Ok(mount),
        None => overlay_apart(lower, upper),
    }
}

/// Upper and work folder.
type Upper<'a> = Option<(&'a PathBuf, &'a PathBuf)>;

/// By a thread with a working directory and a mount namespace of its own: unshare(2) works on threads.
fn overlay_apart(lower: &[PathBuf], upper: Upper<'_>) -> Result<OwnedFd, StartError> {
    let what = || "cannot mount an overlay apart".to_owned();
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| {
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).step(what)?;
            make_private()?;
            overlay_by_mount(lower, upper)
        });
        mounting.join().unwrap_or_else(|_| {
            Err(StartError::Failed {
                step: what(),
                why: "its thread panicked".to_owned(),
            })
        })
    })
}

/// Through the new mount API, one option a layer; `None` = this kernel cannot.
fn overlay_directly(lower: &[PathBuf], upper: Upper<'_>) -> Result<Option<OwnedFd>, StartError> {
    let what = || format!("cannot mount the overlay of {} layers", lower.len());
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(what)?;
    let fs = fs.as_fd();
    for layer in lower {
        match rustix::mount::fsconfig_set_string(fs, "lowerdir+", layer.as_path()) {
            Ok(()) => {}
            // Linux 6.5 and 6.6 know the new API for overlayfs, but not this option (6.7).
            Err(Errno::INVAL) => return Ok(None),
            Err(e) => return Err(e).step(what),
        }
    }
    if let Some((upper, work)) = upper {
        rustix::mount::fsconfig_set_string(fs, "upperdir", upper.as_path()).step(what)?;
        rustix::mount::fsconfig_set_string(fs, "workdir", work.as_path()).step(what)?;
    }
    for (key, value) in TRUST {
        rustix::mount::fsconfig_set_string(fs, key, value).step(what)?;
    }
    match rustix::mount::fsconfig_create(fs) {
        Ok(()) => {}
        // Before 6.5 options are only collected (legacy_parse_param), and refused all together here.
        Err(Errno::INVAL) => return Ok(None),
        Err(e) => return Err(e).step(what),
    }
    rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .step(what)
        .map(Some)
}

/// Layers come from strangers: an attribute in one of them must not lead anywhere else, and an upper
/// layer must be whole, since it becomes a layer itself.
const TRUST: [(&str, &str); 2] = [("redirect_dir", "nofollow"), ("metacopy", "off")];

/// For kernels before 6.5: mount(2) takes a page of options. The layers are named relative to their
/// common folder, so that some hundred fit.
fn overlay_by_mount(lower: &[PathBuf], upper: Upper<'_>) -> Result<OwnedFd, StartError> {
    let what = || format!("cannot mount the overlay of {} layers", lower.len());
    let fail = |why: &str| StartError::Failed {
        step: what(),
        why: why.to_owned(),
    };
    let first = lower.first().ok_or_else(|| fail("there is no layer"))?;
    let base = first
        .parent()
        .and_then(Path::parent)
        .ok_or_else(|| fail("layer without folder"))?;
    let names = lower
        .iter()
        .map(|l| l.strip_prefix(base).unwrap_or(l).display().to_string())
        .collect::<Vec<_>>()
        .join(":");
    let mut options = format!("lowerdir={names}");
    if let Some((upper, work)) = upper {
        options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
    }
    for (key, value) in TRUST {
        options += &format!(",{key}={value}");
    }
    if options.len() >= 4096 {
        return Err(fail(
            "this kernel takes only 4096 bytes of layer names; Linux 6.5 has no limit",
        ));
    }
    let old = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(what)?;
    rustix::process::chdir(base).step(what)?;
    // Any folder serves as the mount point: the mount is taken off it again at once.
    let options = std::ffi::CString::new(options).map_err(|_| fail("zero byte in a path"))?;
    let mounted = rustix::mount::mount(
        "overlay",
        first.as_path(),
        "overlay",
        rustix::mount::MountFlags::empty(),
        Some(options.as_c_str()),
    );
    let cloned = mounted.and_then(|()| {
        let tree = rustix::mount::open_tree(
            CWD,
            first.as_path(),
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        );
        rustix::mount::unmount(first.as_path(), UnmountFlags::DETACH)?;
        tree
    });
    rustix::process::fchdir(old).step(what)?;
    cloned.step(what)
}

/// A detached bind mount of a host path.
pub fn bind_tree(path: &Path, recursive: bool) -> Result<OwnedFd, StartError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
        .step(|| format!("cannot use {} as a mount source", path.display()))
}

/// Puts a detached mount onto what `target` is.
pub fn attach(mount: &OwnedFd, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::mount::move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Mounts the root file system on `mount_point` and returns it.
pub fn mount_root(root: &Root, mount_point: &Path) -> Result<OwnedFd, StartError> {
    let what = || {
        format!(
            "cannot mount the root file system on {}",
            mount_point.display()
        )
    };
    let mount = open(root)?;
    let target = rustix::fs::open(
        mount_point,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(what)?;
    attach(&mount, target.as_fd()).step(what)?;
    Ok(mount)
}

/// Makes the mounted root file system the root of this process, and the host's unreachable.
///
/// pivot_root(2), NOTES: with `.` twice the old root ends up mounted over the new one, and is then
/// detached; no folder for it is needed.
pub fn pivot(root: &OwnedFd) -> Result<(), StartError> {
    rustix::process::fchdir(root).step(|| "cannot enter the root file system".to_owned())?;
    rustix::process::pivot_root(".", ".").step(|| "pivot_root failed".to_owned())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .step(|| "cannot detach the host's root".to_owned())?;
    rustix::process::chdir("/").step(|| "cannot enter /".to_owned())
}

/// Opens a path inside a root file system, for reference only.
pub fn open_inside(root: impl AsFd, path: &str, extra: OFlags) -> rustix::io::Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    // EAGAIN: a rename raced with the lookup and the kernel could not prove that it stayed inside.
    loop {
        let opened = rustix::fs::openat2(
            &root,
            relative,
            OFlags::PATH | OFlags::CLOEXEC | extra,
            Mode::empty(),
            INSIDE,
        );
        match opened {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Opens a folder inside a root file system; what is missing of it is made with `mode`.
pub fn make_folder_inside(root: impl AsFd, path: &str, mode: u32) -> rustix::io::Result<OwnedFd> {
    match open_inside(&root, path, OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut so_far = String::new();
    let mut folder = open_inside(&root, "/", OFlags::DIRECTORY)?;
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        so_far.push('/');
        so_far.push_str(part);
        folder = match open_inside(&root, &so_far, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                open_inside(&root, &so_far, OFlags::DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(folder)
}

/// Opens something inside a root file system to mount a file on; made empty when missing.
pub fn make_file_inside(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    match open_inside(&root, path, OFlags::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = make_folder_inside(&root, parent, 0o755)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    open_inside(&root, path, OFlags::empty())
}

/// Whether a descriptor is a folder.
pub fn is_folder(fd: impl AsFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_the_same_on_older_kernels() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["layers/a/fs", "layers/b/fs", "upper", "work"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for (file, text) in [
            ("layers/a/fs/both", "top"),
            ("layers/b/fs/both", "below"),
            ("layers/b/fs/one", "b"),
        ] {
            std::fs::write(path(file), text).unwrap();
        }
        let lower = [path("layers/a/fs"), path("layers/b/fs")];
        let (upper, work) = (path("upper"), path("work"));
        let upper = Some((&upper, &work));
        for mount in [
            overlay_apart(&lower, upper),
            overlay_in_service(&lower, upper),
        ] {
            let mount = mount.unwrap();
            for (name, expected) in [("both", "top"), ("one", "b")] {
                let file = rustix::fs::openat(&mount, name, OFlags::RDONLY, Mode::empty()).unwrap();
                let text = std::io::read_to_string(std::fs::File::from(file)).unwrap();
                assert_eq!(text, expected);
            }
        }
        // Neither shows among the host's mounts.
        assert_eq!(
            std::fs::read_to_string("/proc/self/mounts").unwrap(),
            mounts
        );
    }
}
