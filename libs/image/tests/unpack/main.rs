//! The unpacker beside GNU tar and bsdtar, on archives with one quirk each; hostile archives; layers upon
//! each other. Needs root; says so and passes without.

mod archive;
mod corpus;
mod differential;
mod faults;
mod hostile;
mod round_trip;
mod stacking;
mod tree;

use std::{fs, path::Path};

use slipway_image::layer::{
    limits::Limits,
    unpack::{UnpackError, Unpacked, unpack_layer},
};

/// Says why something is not tested, past the capture of output: whoever runs the tests is to see it.
fn skipped(why: &str) {
    use std::io::Write as _;
    // A terminal that is gone needs no telling.
    let _ = writeln!(std::io::stderr(), "SKIPPED: unpack: {why}");
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("needs root");
    }
    root
}

fn unpack(bytes: &[u8], folder: &Path) -> Result<Unpacked, UnpackError> {
    unpack_layer(bytes, fs::File::open(folder).unwrap(), Limits::default())
}
