//! Mount points that a step needs, and that must not stay in the layer where the root filesystem had none.
//!
//! What will be made is found before the step, links followed inside the root; what is taken away afterwards
//! is looked for in the writable layer alone, without following anything, and only where nothing was put into
//! it: the step may have put a link in a parent's place (CVE-2024-23652).

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps},
    io::Errno,
};

use super::Snapshot;
use crate::executor::rootfs;

/// What every step gets, deepest first.
const USUAL: [&str; 7] = [
    "etc/resolv.conf",
    "etc/hostname",
    "etc/hosts",
    "etc",
    "dev",
    "proc",
    "sys",
];

/// How many links a path may lead through, as the kernel has it.
const MAX_LINKS: usize = 40;

/// What is to be taken away again.
#[derive(Debug, Default)]
pub struct Stubs {
    /// Relative to the root, deepest first.
    paths: Vec<String>,
    /// Times of the folders that they are made in, relative to the root.
    times: Vec<(String, Timespec, Timespec)>,
}

impl Stubs {
    /// Those of every step. Looked for layer by layer: that needs no mount.
    pub fn usual(snapshot: &Snapshot) -> Self {
        let upper = snapshot.folder.join("upper");
        let layers: Vec<OwnedFd> = snapshot
            .lower
            .iter()
            .chain([&upper])
            .filter_map(|layer| folder_of(layer).ok())
            .collect();
        let there = |name: &str| {
            layers
                .iter()
                .any(|layer| rootfs::open_inside(layer, name, OFlags::NOFOLLOW).is_ok())
        };
        let missing = USUAL.into_iter().filter(|name| !there(name));
        Self {
            paths: missing.map(str::to_owned).collect(),
            times: Vec::new(),
        }
    }

    /// Adds what mounts on these targets make in the merged view.
    pub fn add<'a>(
        &mut self,
        root: &OwnedFd,
        targets: impl Iterator<Item = &'a str>,
    ) -> rustix::io::Result<()> {
        for target in targets {
            let (parent, missing) = missing(root, target)?;
            if missing.is_empty() {
                continue;
            }
            if let Ok(folder) = rootfs::open_inside(root, &parent, OFlags::DIRECTORY) {
                let stat = rustix::fs::fstat(&folder)?;
                let time = |seconds: i64, nanoseconds: i64| Timespec {
                    tv_sec: seconds,
                    tv_nsec: nanoseconds,
                };
                self.times.push((
                    parent.trim_start_matches('/').to_owned(),
                    time(stat.st_atime, stat.st_atime_nsec as i64),
                    time(stat.st_mtime, stat.st_mtime_nsec as i64),
                ));
            }
            let mut path = parent;
            for part in missing {
                path = format!("{}/{part}", path.trim_end_matches('/'));
                let relative = path.trim_start_matches('/').to_owned();
                if !self.paths.contains(&relative) {
                    self.paths.push(relative);
                }
            }
        }
        // A folder goes after what is in it.
        let depth = |path: &String| std::cmp::Reverse(path.matches('/').count());
        self.paths.sort_by_key(depth);
        Ok(())
    }

    /// Takes them away.
    pub fn remove(&self, snapshot: &Snapshot) {
        let Ok(upper) = folder_of(&snapshot.folder.join("upper")) else {
            return;
        };
        for stub in &self.paths {
            let (parent, name) = stub.rsplit_once('/').unwrap_or((".", stub));
            let Ok(parent) = beneath(&upper, parent) else {
                continue;
            };
            let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind.is_file() && stat.st_size == 0 {
                // Gone already is as good.
                let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
            } else if kind.is_dir() {
                // Only when it is empty.
                let _ = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
            }
        }
        for (folder, accessed, modified) in &self.times {
            let folder = if folder.is_empty() { "." } else { folder };
            // The step may have taken it away.
            let Ok(folder) = beneath(&upper, folder) else {
                continue;
            };
            let times = Timestamps {
                last_access: *accessed,
                last_modification: *modified,
            };
            // At worst a folder of the layer has a new time.
            let _ = rustix::fs::futimens(&folder, &times);
        }
    }
}

fn beneath(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

fn folder_of(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The deepest folder that is there on the way to a target, without links in its path, and what is missing
/// below it, in order. Mirrors [`rootfs::make_folder_inside`], which makes just that.
fn missing(root: &OwnedFd, target: &str) -> rustix::io::Result<(String, Vec<String>)> {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('/').filter(|p| !p.is_empty() && *p != ".");
        parts.rev().map(str::to_owned).collect()
    };
    let mut left = parts(target);
    let mut real = String::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            real.truncate(real.rfind('/').unwrap_or(0));
            continue;
        }
        let next = format!("{real}/{part}");
        let found = match rootfs::open_inside(root, &next, OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => {
                let mut rest = vec![part];
                left.reverse();
                rest.append(&mut left);
                // Nothing leads up from what is not there: the mount itself fails.
                rest.retain(|p| p != "..");
                return Ok((real, rest));
            }
            found => found?,
        };
        let stat = rustix::fs::statat(found.as_fd(), "", AtFlags::EMPTY_PATH)?;
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            real = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let link = rustix::fs::readlinkat(&found, "", Vec::new())?;
        let link = link.to_string_lossy().into_owned();
        if link.starts_with('/') {
            real.clear();
        }
        left.extend(parts(&link));
    }
    Ok((real, Vec::new()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_found_where_links_lead() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("/a/b", at("abs")).unwrap();
        symlink("../../../x/y", at("a/out")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = folder_of(folder.path()).unwrap();
        let missing = |target: &str| {
            let (parent, rest) = missing(&root, target)?;
            Ok::<_, Errno>((parent, rest.join(" ")))
        };
        let is = |parent: &str, rest: &str| Ok((parent.to_owned(), rest.to_owned()));
        assert_eq!(missing("/a/b"), is("/a/b", ""));
        assert_eq!(missing("/a/c/d"), is("/a", "c d"));
        assert_eq!(missing("/abs/c"), is("/a/b", "c"));
        assert_eq!(missing("/a/out/z"), is("", "x y z"));
        assert_eq!(missing("/a/../../../q"), is("", "q"));
        assert_eq!(missing("/loop/x"), Err(Errno::LOOP));
    }
}
