//! What is in an archive, by name.

use std::collections::BTreeMap;

use slipway_image::Digest;

use super::refused;
use crate::error::Result;

/// Links that lead to links: docker wrote at most one.
const HOPS: usize = 8;
/// Longest name.
const NAME: usize = 1024;

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Of its content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// Files and links of an archive, each name once.
#[derive(Debug, Default)]
pub struct Listing {
    files: BTreeMap<String, File>,
    links: BTreeMap<String, String>,
}

impl Listing {
    /// Notes a file.
    pub fn add(&mut self, name: String, file: File) {
        self.files.insert(name, file);
    }

    /// Notes a link: older dockers wrote a layer that several images have once, and links to it. `base` is the
    /// folder that its target is seen from.
    pub fn link(&mut self, name: String, base: &str, target: &[u8]) -> Result<()> {
        let path = match std::str::from_utf8(target) {
            Ok(target) if target.starts_with('/') => None,
            Ok(target) => resolve(&format!("{base}/{target}")),
            Err(_) => None,
        };
        let Some(path) = path else {
            let target = String::from_utf8_lossy(target);
            return Err(refused(format!(
                "{name} is a link to {target:?}, out of the archive"
            )));
        };
        self.links.insert(name, path);
        Ok(())
    }

    /// Whether a name is taken.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.links.contains_key(name)
    }

    /// The file of a name, through links.
    pub fn find(&self, name: &str) -> Option<&File> {
        let mut name = resolve(name)?;
        for _ in 0..HOPS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => return self.files.get(&name),
            }
        }
        None
    }

    /// The blob of a digest.
    pub fn blob(&self, digest: &Digest) -> Option<&File> {
        self.find(&blob_path(digest))
    }
}

/// Where a layout has a blob.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.encoded())
}

/// A name of an entry, without what changes nothing.
pub fn entry_name(name: &[u8]) -> Result<String> {
    let shown = || String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
    if name.len() > NAME {
        return Err(refused(format!("the name {:?}... is too long", shown())));
    }
    let text = std::str::from_utf8(name)
        .map_err(|_| refused(format!("the name {:?} is not UTF-8", shown())))?;
    match resolve(text) {
        Some(name) if !text.starts_with('/') && !text.split('/').any(|part| part == "..") => {
            Ok(name)
        }
        _ => Err(refused(format!("the name {text:?} leads out of it"))),
    }
}

/// A relative path without `.` and `..`; `None` when it leads out.
fn resolve(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
