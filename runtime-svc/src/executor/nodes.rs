//! Device nodes of the host, as the nodes that a container gets.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::plan::Device;

/// Deepest folder that is looked into; /dev has three.
const DEPTH: u32 = 16;

/// The devices below a folder of the host, by name, at the same places below `inside`. What is not
/// `wanted` is left out, folders with all they hold, and so is what cannot be read, as docker does.
pub fn below(folder: &Path, inside: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<Device> {
    let mut found = Vec::new();
    collect(folder, inside, wanted, 0, &mut found);
    found
}

fn collect(
    folder: &Path,
    inside: &Path,
    wanted: &dyn Fn(&Path) -> bool,
    depth: u32,
    found: &mut Vec<Device>,
) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries: Vec<_> = entries.filter(|entry| wanted(&entry.path())).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let inside = inside.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < DEPTH => {
                collect(&entry.path(), &inside, wanted, depth + 1, found);
            }
            Ok(_) => found.extend(node(&entry.path(), inside)),
            Err(_) => {}
        }
    }
}

/// The node for a device of the host; `None` when there is none at that path. Links are not followed.
pub fn node(path: &Path, inside: PathBuf) -> Option<Device> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let kind = metadata.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    Some(Device {
        path: inside.into_os_string().into_string().ok()?,
        block: kind.is_block_device(),
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        fifo: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_at_their_places_and_unwanted_ones_left_out() {
        let dev = Path::new("/dev");
        let found = below(dev, Path::new("/x"), &|path| !path.ends_with("zero"));
        let null = found.iter().find(|d| d.path == "/x/null");
        assert!(null.is_some_and(|d| !d.block && (d.major, d.minor) == (1, 3)));
        assert!(found.iter().all(|d| d.path != "/x/zero"));
        assert_eq!(node(dev, PathBuf::from("/x")).map(|d| d.path), None);
    }
}
