//! Compressed blocks of small files, kept as long as this service runs: the next layer that has the same files next
//! to each other does not compress them again.
//!
//! A file has the name of the plain block's digest; in it stands the member behind its own SHA-256. What was made
//! before this service began goes: another version might compress otherwise, and a layer has the same bytes on all
//! builders of a version.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};
use slipway_image::Digest;

/// The files.
#[derive(Debug)]
pub struct Blocks {
    root: PathBuf,
}

impl Blocks {
    /// Opens the folder, which is empty then.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&root) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// Where they are.
    pub const fn folder(&self) -> &PathBuf {
        &self.root
    }

    fn path(&self, plain: &Digest) -> PathBuf {
        let hex = plain.encoded();
        self.root.join(&hex[..2]).join(hex)
    }

    /// The member of a plain block, if it is here and whole. It counts as used now.
    pub fn find(&self, plain: &Digest) -> Option<Vec<u8>> {
        let path = self.path(plain);
        let mut bytes = fs::read(&path).ok()?;
        let whole = bytes
            .split_first_chunk::<32>()
            .is_some_and(|(sum, member)| Sha256::digest(member)[..] == sum[..]);
        if !whole {
            // It is made again.
            let _ = fs::remove_file(&path);
            return None;
        }
        // Only decides what is evicted first; evicted already is no matter.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        bytes.drain(..32);
        Some(bytes)
    }

    /// Keeps the member of a plain block; returns the bytes of its file.
    pub fn keep(&self, plain: &Digest, member: &[u8]) -> io::Result<u64> {
        let path = self.path(plain);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let temporary = path.with_extension(hex::encode(random));
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        let written = File::create_new(&temporary).and_then(|mut file| {
            file.write_all(&Sha256::digest(member))?;
            file.write_all(member)?;
            fs::rename(&temporary, &path)
        });
        if written.is_err() {
            // It is of no use to anybody.
            let _ = fs::remove_file(&temporary);
        }
        written.map(|()| 32 + member.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_while_it_is_whole_and_the_service_runs() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Blocks::open(folder.path().join("blocks")).unwrap();
        let blocks = open();
        let (plain, other) = (Digest::of("plain"), Digest::of("other"));
        assert_eq!(blocks.keep(&plain, b"member").unwrap(), 38);
        assert_eq!(blocks.find(&plain).unwrap(), b"member");
        assert_eq!(blocks.find(&other), None);
        for broken in ["", "short", &"x".repeat(38)] {
            fs::write(blocks.path(&plain), broken).unwrap();
            assert_eq!(blocks.find(&plain), None);
            assert!(!blocks.path(&plain).exists());
        }
        blocks.keep(&plain, b"member").unwrap();
        assert_eq!(open().find(&plain), None);
    }
}
