//! Paths inside a snapshot: what they are, and what wildcards match.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, FileType, OFlags, Stat},
    io::Errno,
};

use slipway_pattern::{has_wildcards, matches};

use crate::{
    error::{Error, Tried as _},
    executor::rootfs,
};

/// Something inside a snapshot.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it really is, links resolved.
    pub path: String,
    /// What it is.
    pub stat: Stat,
    /// Where it leads, when it is a link that was not followed.
    pub link_target: String,
}

/// Most matches of a wildcard.
const MAX_MATCHES: usize = 100_000;

/// Looks a path up. `follow` also follows a link at its end.
pub fn find(root: &OwnedFd, path: &str, follow: bool) -> Result<Option<Found>, Error> {
    let what = || format!("cannot look up {path}");
    let extra = if follow {
        OFlags::empty()
    } else {
        OFlags::NOFOLLOW
    };
    let fd = match rootfs::open_inside(root, path, extra) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e).tried(what),
    };
    let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH).tried(what)?;
    let link_target = if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        let target = rustix::fs::readlinkat(&fd, "", Vec::new()).tried(what)?;
        target.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(Some(Found {
        path: real_path(root, &fd, path)?,
        stat,
        link_target,
    }))
}

/// Where a descriptor is below the root. The kernel names a detached mount's paths from its own root.
fn real_path(root: &OwnedFd, fd: &OwnedFd, asked: &str) -> Result<String, Error> {
    use std::os::fd::AsRawFd as _;
    let what = || format!("cannot look up {asked}");
    let name = |fd: &OwnedFd| {
        rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())
            .map(|p| p.to_string_lossy().into_owned())
            .tried(what)
    };
    let (root, path) = (name(root)?, name(fd)?);
    let inside = path
        .strip_prefix(root.trim_end_matches('/'))
        .unwrap_or(&path);
    Ok(if inside.is_empty() {
        "/".to_owned()
    } else {
        inside.to_owned()
    })
}

/// What a path with wildcards matches, sorted.
pub fn expand(root: &OwnedFd, pattern: &str) -> Result<Vec<String>, Error> {
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let mut next = Vec::new();
        for base in &found {
            if !has_wildcards(part) {
                next.push(format!("{base}/{part}"));
                continue;
            }
            let Ok(folder) = rootfs::open_inside(root, base, OFlags::DIRECTORY) else {
                continue;
            };
            let what = || format!("cannot list {base}");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder =
                rustix::fs::openat(&folder, ".", flags, rustix::fs::Mode::empty()).tried(what)?;
            for entry in rustix::fs::Dir::read_from(&folder).tried(what)? {
                let entry = entry.tried(what)?;
                let name = entry.file_name().to_string_lossy();
                if name != "." && name != ".." && matches(part, &name) {
                    next.push(format!("{base}/{name}"));
                }
            }
            if next.len() > MAX_MATCHES {
                return Err(Error::Invalid(format!(
                    "{pattern} matches more than {MAX_MATCHES} paths"
                )));
            }
        }
        found = next;
    }
    found.sort_unstable();
    let mut there = Vec::new();
    for path in found {
        if find(root, &path, false)?.is_some() {
            there.push(path);
        }
    }
    Ok(there)
}
