//! Folders that a layer's archive did not name and that had to be made for what is in them: overlayfs
//! shows the topmost layer's folder, so it must look like the same folder of the layers below.
//!
//! What is open is in a file beside the unpacked layer from before it has its name until it is settled,
//! so that a crash between the two forgets nothing.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};

/// The file with the open ones' paths, beside `fs`.
const OPEN: &str = "implicit.json";

/// Notes the folders that had to be made.
pub fn note(layer: &Path, implicit: &[Vec<u8>]) -> io::Result<()> {
    if implicit.is_empty() {
        return Ok(());
    }
    let names: Vec<Name> = implicit.iter().map(|path| Name::of(path)).collect();
    fs::write(layer.join(OPEN), serde_json::to_vec(&names)?)
}

/// A path; JSON has no strings but UTF-8.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

impl Name {
    fn of(path: &[u8]) -> Self {
        match std::str::from_utf8(path) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(path.to_vec()),
        }
    }

    fn path(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Whether a layer has open ones.
pub fn is_open(layer: &Path) -> bool {
    layer.join(OPEN).exists()
}

/// Gives a layer's made folders the looks of those in the layers below it, nearest first.
pub fn settle(layer: &Path, below: &[PathBuf]) -> io::Result<()> {
    let open = match fs::read(layer.join(OPEN)) {
        Ok(open) => open,
        // Somebody else was quicker.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let open: Vec<Name> = serde_json::from_slice(&open)?;
    let own = layer.join("fs");
    for path in open.iter().map(Name::path) {
        for layer in below {
            match look(layer, path)? {
                Seen::Folder(model) => wear(&own, path, &model)?,
                Seen::Nothing => continue,
                Seen::Hidden => {}
            }
            break;
        }
    }
    slipway_fault::point("runtime.settle.worn");
    match fs::remove_file(layer.join(OPEN)) {
        // Somebody else has done the same meanwhile.
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What one layer has at a path.
enum Seen {
    Folder(Box<rustix::fs::Stat>),
    Nothing,
    /// Something that is no folder, a whiteout perhaps: what is below it does not show.
    Hidden,
}

fn look(layer: &Path, path: &[u8]) -> io::Result<Seen> {
    match open(layer, path) {
        Ok(folder) => Ok(Seen::Folder(Box::new(rustix::fs::fstat(&folder)?))),
        Err(Errno::NOENT) => Ok(Seen::Nothing),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(Seen::Hidden),
        Err(e) => Err(e.into()),
    }
}

/// Opens a folder below another without following any link.
fn open(root: &Path, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = rustix::fs::open(root, flags, Mode::empty())?;
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
        folder = rustix::fs::openat(&folder, part, flags, Mode::empty())?;
    }
    Ok(folder)
}

fn wear(root: &Path, path: &[u8], model: &rustix::fs::Stat) -> io::Result<()> {
    // A later entry of the same archive may have put something else in its place.
    let folder = match open(root, path) {
        Ok(folder) => folder,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    rustix::fs::fchown(
        &folder,
        Some(Uid::from_raw(model.st_uid)),
        Some(Gid::from_raw(model.st_gid)),
    )?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(model.st_mode))?;
    let time = Timespec {
        tv_sec: model.st_mtime,
        tv_nsec: model.st_mtime_nsec as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        &folder,
        ".",
        &times,
        AtFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn layer(root: &Path, name: &str, folders: &[(&str, u32)]) -> PathBuf {
        for (folder, mode) in folders {
            let path = root.join(name).join("fs").join(folder);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        root.join(name)
    }

    fn mode(layer: &Path, path: &str) -> u32 {
        fs::metadata(layer.join("fs").join(path)).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_made_folder_looks_like_the_nearest_below() {
        let root = tempfile::tempdir().unwrap();
        let base = layer(
            root.path(),
            "base",
            &[("tmp", 0o1777), ("a", 0o700), ("a/b", 0o711)],
        );
        let middle = layer(root.path(), "middle", &[("a", 0o750)]);
        let top = layer(
            root.path(),
            "top",
            &[("tmp", 0o755), ("a/b/c", 0o755), ("new", 0o755)],
        );
        let old = fs::File::open(base.join("fs/tmp")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000))
            .unwrap();
        let implicit = ["tmp", "a", "a/b", "new"].map(|p| p.as_bytes().to_vec());
        note(&top, &implicit).unwrap();
        assert!(is_open(&top));
        settle(&top, &[middle.join("fs"), base.join("fs")]).unwrap();
        assert_eq!(mode(&top, "tmp"), 0o1777);
        assert_eq!(fs::metadata(top.join("fs/tmp")).unwrap().mtime(), 1000);
        assert_eq!((mode(&top, "a"), mode(&top, "a/b")), (0o750, 0o711));
        assert_eq!((mode(&top, "a/b/c"), mode(&top, "new")), (0o755, 0o755));
        assert!(!is_open(&top));
        // Once is enough, and a layer that has none needs none.
        settle(&top, &[]).unwrap();
        note(&base, &[]).unwrap();
        assert!(!is_open(&base));
    }

    #[test]
    fn links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let base = layer(root.path(), "base", &[("secret", 0o700)]);
        std::os::unix::fs::symlink("secret", base.join("fs/door")).unwrap();
        let top = layer(root.path(), "top", &[("door", 0o755)]);
        note(&top, &[b"door".to_vec()]).unwrap();
        settle(&top, &[base.join("fs")]).unwrap();
        assert_eq!(mode(&top, "door"), 0o755);
    }
}
