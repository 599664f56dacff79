//! Kernel settings below `/proc/sys/net`, of the calling thread's network namespace.

use std::{fs, io};

/// Reads a setting, for example `ipv4/ip_forward`.
pub fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/net/{name}"))?
        .trim()
        .to_owned())
}

/// Writes a setting.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value)
}
