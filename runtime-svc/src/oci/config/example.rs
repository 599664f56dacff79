//! The config.json that `spec` writes, as runc's.

use std::path::Path;

use crate::oci::{Error, error::Tried as _};

const EXAMPLE: &str = include_str!("example.json");

/// Writes it into a folder, unless there is one.
pub fn write(bundle: Option<&Path>) -> Result<u8, Error> {
    use std::io::Write as _;
    let path = bundle.unwrap_or(Path::new(".")).join("config.json");
    let what = || format!("cannot write {}", path.display());
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .tried(what)?;
    file.write_all(EXAMPLE.as_bytes()).tried(what)?;
    Ok(0)
}
