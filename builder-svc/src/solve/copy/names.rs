//! Files of a source that have several names.

use std::collections::{HashMap, hash_map};

use slipway_image::Digest;

use crate::context::{Entry, Kind};

/// Names of the files of a part that have several: a source's, as in BuildKit, whose copies know of each other
/// within one source (tonistiigi/fsutil, copy/hardlink.go).
#[derive(Default)]
pub struct Names(HashMap<(u64, Digest), String>);

impl Names {
    /// The name of a file that was told before under another one.
    pub fn first(&mut self, path: &str, entry: &Entry) -> Option<&str> {
        let Kind::File { digest, .. } = &entry.kind else {
            return None;
        };
        if entry.same == 0 {
            return None;
        }
        // Whoever gives one number to different files has them kept as they are.
        match self.0.entry((entry.same, digest.clone())) {
            hash_map::Entry::Occupied(first) => Some(first.into_mut()),
            hash_map::Entry::Vacant(free) => {
                free.insert(path.to_owned());
                None
            }
        }
    }
}
