//! Takes a tree away, however deep it is.
//!
//! A container, and an image too, can nest folders by the ten thousands. Whoever walks down by recursion has
//! his stack overflow or runs out of descriptors, and `std::fs::remove_dir_all` does. Here what lies too deep
//! is moved to the top of the tree first, as one rename.

use std::{
    io,
    os::{fd::AsFd, fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};

/// How deep it is walked down: so many folders are open at most.
const DEEPEST: usize = 64;
/// How often a folder is emptied again that was not empty any more when it was to go.
const AGAIN: u32 = 1000;

/// Removes a folder and everything in it, or a file. No link is followed. What is mounted in the tree is not
/// its own: nothing of that goes, and the removal ends with an error. Blocks.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::open(above, flags, Mode::empty())?;
    Ok(remove_tree_at(above, name.as_bytes())?)
}

/// The same for a name in an open folder.
pub fn remove_tree_at(above: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    let top = match open(&above, name) {
        Ok(top) => top,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return rustix::fs::unlinkat(&above, name, AtFlags::empty());
        }
        Err(e) => return Err(e),
    };
    let (mut moved, mut again) = (0, 0);
    loop {
        let before = moved;
        let removed = match clear(&top, &mut moved) {
            // What was moved to the top may not have been seen there any more.
            Ok(()) if moved != before => continue,
            Ok(()) => rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR),
            Err(error) => Err(error),
        };
        match removed {
            // Somebody who is about to end still writes there.
            Err(Errno::NOTEMPTY | Errno::EXIST) if again < AGAIN => again += 1,
            other => return other,
        }
    }
}

/// Removes what is in a folder, and counts what was moved into it.
fn clear(top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    let mut open_ones = vec![(Dir::read_from(top)?, Vec::new())];
    loop {
        let depth = open_ones.len();
        let Some((entries, _)) = open_ones.last_mut() else {
            return Ok(());
        };
        let entry = match entries.read() {
            // The second: somebody else removes it, too.
            None | Some(Err(Errno::NOENT)) => {
                let done = open_ones.pop();
                if let (Some((_, name)), Some((above, _))) = (done, open_ones.last()) {
                    gone(rustix::fs::unlinkat(
                        above.fd()?,
                        &name[..],
                        AtFlags::REMOVEDIR,
                    ))?;
                }
                continue;
            }
            Some(entry) => entry?,
        };
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let folder = entries.fd()?;
        if !entry.file_type().is_dir() {
            match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                // Not all file systems tell kinds in their folders.
                Err(Errno::ISDIR) => {}
                other => {
                    gone(other)?;
                    continue;
                }
            }
        }
        if depth > DEEPEST {
            gone(move_up(folder, name, top, moved))?;
            continue;
        }
        match open(folder, name) {
            Ok(below) => {
                let name = name.to_vec();
                open_ones.push((Dir::new(below)?, name));
            }
            other => gone(other.map(drop))?,
        }
    }
}

/// That somebody else was quicker is fine.
fn gone(done: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn move_up(
    folder: impl AsFd,
    name: &[u8],
    top: &OwnedFd,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        let free = format!("removed-{moved}");
        match rustix::fs::renameat_with(&folder, name, top, &*free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

fn open(folder: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(&folder, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        // A kernel before 5.6, or a filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(folder, name, flags, Mode::empty()),
        // What rmdir(2) says of it.
        Err(Errno::XDEV) => Err(Errno::BUSY),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn nest(folder: &Path, depth: usize) {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(folder, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "a", Mode::from(0o755)).unwrap();
            let file = OFlags::CREATE | OFlags::WRONLY;
            rustix::fs::openat(&at, "file", file, Mode::from(0o600)).unwrap();
            at = rustix::fs::openat(&at, "a", flags, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_tree_that_is_deeper_than_a_stack_goes() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        // Names like those that it gives, at the top and below.
        for name in ["removed-1", "removed-2/removed-1", "b/c"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        nest(&tree, 5000);
        nest(&tree.join("b"), 2 * DEEPEST);
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || remove_tree(&tree).unwrap())
            .unwrap()
            .join()
            .unwrap();
        assert!(!folder.path().join("tree").exists());
    }

    #[test]
    fn what_somebody_still_writes_into_goes_when_he_ends() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("in")).unwrap();
        let place = tree.clone();
        let writing = std::thread::spawn(move || {
            let write = |n: &i32| fs::write(place.join(format!("in/{n}")), "").is_ok();
            (0..500).take_while(write).count()
        });
        remove_tree(&tree).unwrap();
        writing.join().unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn links_are_not_followed_and_files_go_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("kept/in")).unwrap();
        fs::create_dir(path("tree")).unwrap();
        std::os::unix::fs::symlink(path("kept"), path("tree/link")).unwrap();
        remove_tree(&path("tree")).unwrap();
        std::os::unix::fs::symlink(path("kept"), path("link")).unwrap();
        remove_tree(&path("link")).unwrap();
        fs::write(path("file"), "").unwrap();
        remove_tree(&path("file")).unwrap();
        assert!(path("kept/in").exists() && !path("tree").exists() && !path("link").exists());
        let error = remove_tree(&path("file")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
