//! Compressed blocks of small files, kept among the files of contexts: the next layer that has the same files next
//! to each other does not compress them again.

use std::{io::Read as _, sync::Arc};

use slipway_image::{Digest, layer::gzip::KnownMembers};

use crate::context::{ContentStore, content::Checked};

/// Plain bytes from which on a block is worth a file.
const WORTH: usize = 64 << 10;

/// In a store of context files; all of the level of layers that nobody chose another for.
pub(super) struct StoredMembers(pub Arc<ContentStore>);

impl KnownMembers for StoredMembers {
    fn find(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() < WORTH {
            return None;
        }
        let (digest, size) = self.0.member(&Digest::of(plain))?;
        // One that was evicted, or is broken, is made again.
        let mut member = Vec::new();
        let mut content = Checked::open(&self.0, &digest, size).ok()?;
        content.read_to_end(&mut member).ok()?;
        Some(member)
    }

    fn keep(&self, plain: &[u8], member: &[u8]) {
        if plain.len() < WORTH {
            return;
        }
        match self.0.put(member) {
            Ok(digest) => {
                let size = member.len() as u64;
                self.0.note_member(Digest::of(plain), (digest, size));
            }
            // It is a cache: the layer does not need it.
            Err(error) => tracing::debug!(%error, "a compressed block is not kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_kept_until_its_file_is_gone_or_broken() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ContentStore::open(folder.path().to_owned()).unwrap());
        let members = StoredMembers(store.clone());
        let plain = vec![7; WORTH];
        members.keep(&plain, b"member");
        assert_eq!(members.find(&plain).unwrap(), b"member");
        assert_eq!(members.find(&vec![8; WORTH]), None);
        members.keep(&plain[1..], b"short");
        assert_eq!(members.find(&plain[1..]), None);
        let digest = Digest::of("member");
        let hex = digest.encoded();
        let file = folder.path().join("sha256").join(&hex[..2]).join(hex);
        std::fs::write(&file, "MEMBER").unwrap();
        assert_eq!(members.find(&plain), None);
        assert!(!file.exists());
        members.keep(&plain, b"member");
        store.evict(0, None).unwrap();
        assert_eq!(store.member(&Digest::of(&plain)), None);
        assert_eq!(members.find(&plain), None);
    }
}
