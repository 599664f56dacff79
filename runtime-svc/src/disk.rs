//! What is on disk.

use std::{collections::HashSet, fs, io, os::unix::fs::MetadataExt as _, path::Path};

/// Bytes that a tree takes on disk, files of several names counted once. What goes away meanwhile does
/// not count. Blocks.
pub fn usage(folder: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut sum = 0;
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let data = match fs::symlink_metadata(&path) {
            Ok(data) => data,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if data.nlink() == 1 || data.is_dir() || seen.insert((data.dev(), data.ino())) {
            sum += data.blocks() * 512;
        }
        if data.is_dir() {
            match fs::read_dir(&path) {
                Ok(entries) => left.extend(entries.flatten().map(|e| e.path())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), vec![1; 100_000]).unwrap();
        let before = usage(folder.path()).unwrap();
        assert!(before >= 100_000);
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_eq!(usage(folder.path()).unwrap(), before);
    }
}
