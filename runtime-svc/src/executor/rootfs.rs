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

use super::{StartError, Step as _, plan::Root, userns::UserNamespace};
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

/// The root file system of a bundle, still connected with the host's mounts: what is mounted below it there
/// shows in the container. The other way needs it to be shared, which comes after the pivot.
pub fn open_connected(root: &Root, propagation: u64) -> Result<Option<OwnedFd>, StartError> {
    let connected = propagation == libc::MS_SLAVE || propagation == libc::MS_SHARED;
    let (Root::Bundle(folder), true) = (root, connected) else {
        return Ok(None);
    };
    let mount = bind_tree(folder, true)?;
    mount_attr::set(&mount, 0, 0, libc::MS_SLAVE, true)
        .step(|| "cannot connect the root file system with the host's mounts".to_owned())?;
    Ok(Some(mount))
}

/// A detached mount of the root file system: visible nowhere until it is moved.
fn open(
    root: &Root,
    mount_point: &Path,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, StartError> {
    match (root, user) {
        (
            Root::Overlay {
                lower,
                upper,
                work,
                volatile,
            },
            user,
        ) => {
            let upper = Some(Upper {
                upper,
                work,
                volatile: *volatile,
            });
            match user {
                None => overlay(lower, upper),
                Some(user) => idmapped_overlay(lower, upper, mount_point, user),
            }
        }
        (Root::Folder(folder), None) | (Root::Bundle(folder), _) => bind_tree(folder, true),
        (Root::Folder(folder), Some(user)) => {
            let mount = bind_tree(folder, false)?;
            idmap(&mount, user)?;
            Ok(mount)
        }
    }
}

/// An overlay of layers whose owners are shown as the container's. Its layers have to be mounted
/// somewhere for that: on a tmpfs upon `mount_point`, which is taken off again.
/// overlayfs makes its own files as who mounts it: as the container's root ([`UserNamespace::own_files`]).
pub fn idmapped_overlay(
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
    mount_point: &Path,
    user: &UserNamespace,
) -> Result<OwnedFd, StartError> {
    let what = || "cannot show the layers with the container's ids".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(mount_point, flags, Mode::empty()).step(what)?;
    let stage = super::mounts::filesystem("tmpfs", &[("mode".to_owned(), Some("700".to_owned()))])?;
    attach(&stage, target.as_fd()).step(what)?;
    let put = |folder: &Path, name: &str| -> Result<PathBuf, StartError> {
        let mount = bind_tree(folder, false)?;
        idmap(&mount, user)?;
        rustix::fs::mkdirat(&stage, name, Mode::from_raw_mode(0o700)).step(what)?;
        let place = rustix::fs::openat(&stage, name, flags, Mode::empty()).step(what)?;
        attach(&mount, place.as_fd()).step(what)?;
        Ok(mount_point.join(name))
    };
    let mut layers = Vec::with_capacity(lower.len());
    for (number, layer) in lower.iter().enumerate() {
        layers.push(put(layer, &format!("l{number}"))?);
    }
    let name = |path: &Path| {
        let name = path.file_name().map(PathBuf::from);
        name.ok_or(Errno::INVAL).step(what)
    };
    let own = match upper {
        Some(Upper { upper, work, .. }) => {
            // One mount for both: overlayfs insists on that.
            let own = upper.parent().ok_or(Errno::INVAL).step(what)?;
            let own = put(own, "own")?;
            Some((own.join(name(upper)?), own.join(name(work)?)))
        }
        None => None,
    };
    let own = own.as_ref().map(|(own_upper, own_work)| Upper {
        upper: own_upper,
        work: own_work,
        volatile: upper.is_some_and(|u| u.volatile),
    });
    let made = overlay(&layers, own).map_err(explain)?;
    // overlayfs has its layers now; nobody else shall see them.
    rustix::mount::unmount(mount_point, UnmountFlags::DETACH).step(what)?;
    Ok(made)
}

/// Shows the owners in a detached mount as the container's.
pub fn idmap(mount: &OwnedFd, user: &UserNamespace) -> Result<(), StartError> {
    mount_attr::idmap(mount, user.namespace())
        .step(|| "cannot map the owners of files".to_owned())
        .map_err(explain)
}

/// What EINVAL means there.
fn explain(error: StartError) -> StartError {
    match error {
        StartError::Failed { step, why } if why.contains("os error 22") => StartError::Failed {
            step,
            why: "user namespaces need Linux 5.19 and a state folder on a file system with idmapped mounts (ext4, xfs, btrfs): run the container with --userns=host".to_owned(),
        },
        other => other,
    }
}

/// A detached overlay mount; read-only without an upper layer. For a process with one thread and a mount
/// namespace of its own.
pub fn overlay(lower: &[PathBuf], upper: Option<Upper<'_>>) -> Result<OwnedFd, StartError> {
    match overlay_directly(lower, upper)? {
        Some(mount) => Ok(mount),
        None => overlay_by_mount(lower, upper),
    }
}

/// As [`overlay`], for a process with several threads that shares its mount namespace with the host.
pub fn overlay_in_service(
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
) -> Result<OwnedFd, StartError> {
    match overlay_directly(lower, upper)? {
        Some(mount) => Ok(mount),
        None => overlay_apart(lower, upper),
    }
}

/// Where an overlay is written to.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// Writable layer.
    pub upper: &'a Path,
    /// overlayfs' own folder.
    pub work: &'a Path,
    /// See [`Root::Overlay`].
    pub volatile: bool,
}

impl<'a> Upper<'a> {
    /// One that is written to the disk when it is unmounted.
    pub const fn new(upper: &'a Path, work: &'a Path) -> Self {
        Self {
            upper,
            work,
            volatile: false,
        }
    }
}

/// Makes a work folder usable again that a volatile mount had. overlayfs marks it and refuses it from then
/// on, since the host may have crashed meanwhile; after a crash of the host nobody mounts ours again.
pub fn forget_volatile(work: &Path) -> rustix::io::Result<()> {
    let mark = work.join("work/incompat/volatile");
    let gone = |done: rustix::io::Result<()>| match done {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    };
    gone(rustix::fs::unlink(mark.join("dirty")))?;
    gone(rustix::fs::rmdir(mark))
}

/// By a thread with a working directory and a mount namespace of its own: unshare(2) works on threads.
fn overlay_apart(lower: &[PathBuf], upper: Option<Upper<'_>>) -> Result<OwnedFd, StartError> {
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
fn overlay_directly(
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
) -> Result<Option<OwnedFd>, StartError> {
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
    if let Some(upper) = upper {
        rustix::mount::fsconfig_set_string(fs, "upperdir", upper.upper).step(what)?;
        rustix::mount::fsconfig_set_string(fs, "workdir", upper.work).step(what)?;
        if upper.volatile {
            rustix::mount::fsconfig_set_flag(fs, "volatile").step(what)?;
        }
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
fn overlay_by_mount(lower: &[PathBuf], upper: Option<Upper<'_>>) -> Result<OwnedFd, StartError> {
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
    if let Some(upper) = upper {
        let (folder, work) = (upper.upper.display(), upper.work.display());
        options += &format!(",upperdir={folder},workdir={work}");
        if upper.volatile {
            options += ",volatile";
        }
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

/// A detached bind mount of what is below a folder; nothing leads out of that.
pub fn bind_beneath(base: impl AsFd, path: &str) -> Result<OwnedFd, StartError> {
    let what = || format!("cannot access path {path}");
    let found = loop {
        let opened = rustix::fs::openat2(
            &base,
            if path.is_empty() { "." } else { path },
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        );
        match opened {
            // A rename raced with the lookup: it may have led out, or not.
            Err(Errno::AGAIN) => {}
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(StartError::Failed {
                    step: what(),
                    why: "it leads out of what it is a part of".to_owned(),
                });
            }
            opened => break opened.step(what)?,
        }
    };
    rustix::mount::open_tree(
        &found,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .step(what)
}

/// A detached bind mount of what a path is inside a tree that is taken for the root: links in it are
/// followed there, and lead nowhere else. `None` where the kernel takes no part of a detached mount.
pub fn bind_in_root(root: impl AsFd, path: &str) -> Result<Option<OwnedFd>, StartError> {
    let what = || format!("cannot access path {path}");
    let found = open_inside(&root, path, OFlags::empty()).step(what)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    match rustix::mount::open_tree(&found, "", flags) {
        Err(Errno::INVAL) => Ok(None),
        made => made.step(what).map(Some),
    }
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

/// Mounts the root file system on `mount_point` and returns it; `connected` is it already.
pub fn mount_root(
    root: &Root,
    mount_point: &Path,
    user: Option<&UserNamespace>,
    connected: Option<OwnedFd>,
) -> Result<OwnedFd, StartError> {
    let what = || {
        format!(
            "cannot mount the root file system on {}",
            mount_point.display()
        )
    };
    let mount = match connected {
        Some(mount) => mount,
        None => open(root, mount_point, user)?,
    };
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

/// How many links a path may lead through, as the kernel has it.
const MAX_LINKS: usize = 40;

/// Opens a folder inside a root file system; what is missing of it is made with `mode`, also where a
/// link leads to nothing yet.
pub fn make_folder_inside(root: impl AsFd, path: &str, mode: u32) -> rustix::io::Result<OwnedFd> {
    match open_inside(&root, path, OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('/').filter(|p| !p.is_empty() && *p != ".");
        parts.rev().map(str::to_owned).collect()
    };
    // The next part is the last one.
    let mut left = parts(path);
    let mut links = 0;
    let mut so_far = String::new();
    let mut folder = open_inside(&root, "/", OFlags::DIRECTORY)?;
    while let Some(part) = left.pop() {
        let next = format!("{so_far}/{part}");
        match open_inside(&root, &next, OFlags::DIRECTORY) {
            Ok(found) => {
                folder = found;
                so_far = next;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        match rustix::fs::mkdirat(&folder, &*part, Mode::from_raw_mode(mode)) {
            Ok(()) => left.push(part),
            // A link to nothing, or somebody was quicker.
            Err(Errno::EXIST) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                match read_link(&folder, &part)? {
                    Some(target) => {
                        if target.starts_with('/') {
                            so_far.clear();
                            folder = open_inside(&root, "/", OFlags::DIRECTORY)?;
                        }
                        left.extend(parts(&target));
                    }
                    None => left.push(part),
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(folder)
}

/// Where a link leads; `None` when it is none (any more).
fn read_link(folder: &OwnedFd, name: &str) -> rustix::io::Result<Option<String>> {
    match rustix::fs::readlinkat(folder, name, Vec::new()) {
        Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens something inside a root file system to mount a file on; made empty when missing.
pub fn make_file_inside(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open_inside(&root, &path, OFlags::empty()) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let folder = make_folder_inside(&root, parent, 0o755)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) => {}
            Err(Errno::EXIST) => match read_link(&folder, name)? {
                Some(target) if target.starts_with('/') => path = target,
                Some(target) => path = format!("{parent}/{target}"),
                None => {}
            },
            Err(e) => return Err(e),
        }
    }
    Err(Errno::LOOP)
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
    fn missing_places_are_made_where_links_lead() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("root")).unwrap();
        let root = std::fs::File::open(path("root")).unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path(name)).unwrap();
        link("/run/deep", "root/absolute");
        link("../../../up", "root/relative");
        link("loop", "root/loop");
        make_folder_inside(&root, "/absolute/a/b", 0o755).unwrap();
        make_folder_inside(&root, "relative/c", 0o755).unwrap();
        assert!(path("root/run/deep/a/b").is_dir() && path("root/up/c").is_dir());
        assert!(make_folder_inside(&root, "/loop/x", 0o755).is_err());
        link("/files/new", "root/file");
        make_file_inside(&root, "/file").unwrap();
        make_file_inside(&root, "/relative/d/e").unwrap();
        assert!(path("root/files/new").is_file() && path("root/up/d/e").is_file());
        assert!(make_file_inside(&root, "/loop").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

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
        let upper = Some(Upper {
            upper: &upper,
            work: &work,
            volatile: true,
        });
        for overlay in [overlay_apart, overlay_in_service] {
            forget_volatile(&work).unwrap();
            let mount = overlay(&lower, upper).unwrap();
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
