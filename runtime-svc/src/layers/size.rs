//! How much unpacked layers take on disk: measured once, when nobody waits for it, and written down beside
//! the layer.
//!
//! A layer changes no more once it is here, so its size stays true. What an older instance unpacked, or a
//! crash forgot, is measured when it is first asked for.

use std::{fs, io, path::Path};

use slipway_image::Digest;

use super::{Layers, settle};
use crate::disk;

/// The file with the size, in the layer's own folder and counted with it.
const FILE: &str = "disk.json";

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Size {
    bytes: u64,
}

impl Layers {
    /// Bytes that a layer takes on disk; 0 when it is not here any more. Blocks.
    pub fn bytes_of(&self, layer: &Digest) -> io::Result<u64> {
        of(&self.folder.join(layer.encoded()))
    }

    /// Measures what was not measured yet. Blocks.
    pub fn measure_new(&self) -> io::Result<()> {
        for present in self.list()?.layers {
            self.bytes_of(&present.layer)?;
        }
        Ok(())
    }
}

/// Bytes that the layer in this folder takes.
pub(super) fn of(home: &Path) -> io::Result<u64> {
    if let Some(size) = noted(home) {
        return Ok(size);
    }
    let file = home.join(FILE);
    // What is beside it until it is settled goes then.
    if settle::is_open(home) {
        return disk::usage(home);
    }
    // Before it is measured, since it takes room itself. No sync: what a power cut takes is measured again.
    match fs::write(&file, b"{}") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        written => written?,
    }
    let bytes = disk::usage(home)?;
    slipway_fault::point("runtime.measure.measured");
    match fs::write(&file, serde_json::to_vec(&Size { bytes })?) {
        // Taken away meanwhile, by its other name.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        written => written?,
    }
    Ok(bytes)
}

/// What was measured before.
fn noted(home: &Path) -> Option<u64> {
    let text = fs::read(home.join(FILE)).ok()?;
    let size: Size = serde_json::from_slice(&text).ok()?;
    Some(size.bytes)
}
