//! COPY --from: a path of a snapshot as a tar stream.

use std::{io::Write, os::fd::OwnedFd};

use rustix::fs::{FileType, OFlags};
use slipway_image::layer::pack;

use super::paths;
use crate::{
    error::{Error, Tried as _},
    executor::rootfs,
};

/// Writes a path: a folder's content relative to it, anything else under its own name.
pub fn read_path<W: Write>(
    root: &OwnedFd,
    path: &str,
    follow: bool,
    writer: W,
) -> Result<(), Error> {
    let found = paths::find(root, path, follow)?
        .ok_or_else(|| Error::Invalid(format!("{path}: no such file or directory")))?;
    let what = || format!("cannot read {path}");
    let mut tar = pack::Plain::new(writer);
    if FileType::from_raw_mode(found.stat.st_mode).is_dir() {
        let folder = rootfs::open_inside(root, &found.path, OFlags::DIRECTORY).tried(what)?;
        pack::pack_tree(&mut tar, &folder).tried(what)?;
    } else {
        let (parent, name) = found.path.rsplit_once('/').unwrap_or(("", &found.path));
        let parent = rootfs::open_inside(root, parent, OFlags::DIRECTORY).tried(what)?;
        pack::pack_one(&mut tar, &parent, name.as_bytes()).tried(what)?;
    }
    tar.finish().tried(what).map(drop)
}
