//! /proc/self/mountinfo (proc(5)): which mount a path is on.

use std::{fs, io, path::Path};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};

/// A mount of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountPoint {
    /// Where it is.
    pub mount_point: String,
    /// Its mounts and unmounts are told to others.
    pub shared: bool,
    /// It is told of mounts and unmounts of another.
    pub slave: bool,
}

/// The mount that a path is on, links followed.
pub fn of(path: &Path) -> io::Result<MountPoint> {
    // Linux 5.8; the numbers in mountinfo are the same.
    let id = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id;
    find(&fs::read_to_string("/proc/self/mountinfo")?, id)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its mount is not in sight"))
}

/// Whether something is mounted on this very path.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn find(text: &str, id: u64) -> Option<MountPoint> {
    text.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let found = fields.next()?.parse() == Ok(id);
        let mount_point = fields.nth(3)?;
        let optional = fields.skip(1).take_while(|field| *field != "-");
        found.then(|| {
            let mut mount = MountPoint {
                mount_point: unescape(mount_point),
                ..MountPoint::default()
            };
            for field in optional {
                mount.shared |= field.starts_with("shared:");
                mount.slave |= field.starts_with("master:");
            }
            mount
        })
    })
}

/// Blanks and the like stand as three octal digits.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                out.push(escaped);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number() {
        let text = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                    90 27 8:1 /a /mnt/a\\040b rw shared:5 master:3 - ext4 /dev/sda1 rw\n";
        let proc = MountPoint {
            mount_point: "/proc".into(),
            ..MountPoint::default()
        };
        assert_eq!(find(text, 22), Some(proc));
        let shared = MountPoint {
            mount_point: "/mnt/a b".into(),
            shared: true,
            slave: true,
        };
        assert_eq!(find(text, 90), Some(shared));
        assert_eq!(find(text, 9), None);
    }

    #[test]
    fn the_mount_of_a_path_is_known() {
        assert_eq!(of(Path::new("/proc/self")).unwrap().mount_point, "/proc");
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/proc/sys")).unwrap());
    }
}
