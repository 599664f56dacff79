//! Paths inside a root file system: found and made without ever leading out of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// How paths inside a root file system are resolved: nothing leads out, no /proc link is followed.
pub const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

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
}
