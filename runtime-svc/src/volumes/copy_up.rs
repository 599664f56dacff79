//! What the image has at a volume's place goes into the volume when that is new: docker's copy-up.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};

use crate::{
    disk::remove_tree,
    error::{Error, Tried as _},
    executor::rootfs,
    worker::{self, Target},
};

/// Copies what is at `target` in the image of these layers, top first, into an empty folder. Content that
/// is half copied is never taken for a volume's: it comes under its name when it is whole; only where a
/// container has the folder already (`in_place`) it must stay that folder. Blocks.
pub fn copy_up(lower: &[PathBuf], target: &str, data: &Path, in_place: bool) -> Result<(), Error> {
    let what = || format!("cannot copy the image's {target} into its volume");
    if fs::read_dir(data).tried(what)?.next().is_some() {
        return Ok(());
    }
    let Some(root) = view(lower)? else {
        return Ok(());
    };
    let Some(found) = worker::find_path(&root, target, true)? else {
        return Ok(());
    };
    if !FileType::from_raw_mode(found.stat.st_mode).is_dir() {
        return Ok(());
    }
    let temporary = if in_place {
        data.to_owned()
    } else {
        data.with_extension("new")
    };
    if !in_place {
        match remove_tree(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).tried(what),
            _ => fs::create_dir(&temporary).tried(what)?,
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let into = rustix::fs::open(&temporary, flags, Mode::empty()).tried(what)?;
    copy(&root, target, &into)?;
    let stat = found.stat;
    rustix::fs::fchown(
        &into,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .tried(what)?;
    rustix::fs::fchmod(&into, Mode::from_raw_mode(stat.st_mode & 0o7777)).tried(what)?;
    if in_place {
        return Ok(());
    }
    match fs::rename(&temporary, data) {
        // Somebody has written into it meanwhile: theirs stays, as docker copies into empty ones only.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
            remove_tree(&temporary).tried(what)
        }
        done => done.tried(what),
    }
}

/// The image's files, to be read only; `None` for an image of no layers.
fn view(lower: &[PathBuf]) -> Result<Option<OwnedFd>, Error> {
    Ok(match lower {
        [] => None,
        // overlayfs wants two layers at least when nothing is to be written.
        [only] => Some(rootfs::bind_tree(only, false)?),
        many => Some(rootfs::overlay_in_service(many, None)?),
    })
}

fn copy(root: &OwnedFd, target: &str, into: &OwnedFd) -> Result<(), Error> {
    let (read, write) = io::pipe().tried(|| "cannot make a pipe".to_owned())?;
    let place = Target {
        path: "/".to_owned(),
        ..Target::default()
    };
    std::thread::scope(|scope| {
        let reading =
            scope.spawn(|| worker::read_path(root, target, true, io::BufWriter::new(write)));
        let applied = worker::apply(into, &place, io::BufReader::new(read));
        // A panic there is one here.
        let read = reading
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What could not be written explains a reader that was cut off.
        applied.and(read)
    })
}
