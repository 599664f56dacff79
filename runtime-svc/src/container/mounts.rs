//! From a container's mounts to the executor's: docker's own ones first, then those that are asked for.

use std::path::PathBuf;

use slipway_proto::runtime::v1::Mount as SpecMount;

use super::{plan::Places, record::Record};
use crate::{
    error::Error,
    executor::plan::{Mount, MountSource},
};

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

fn filesystem(target: &str, kind: &str, options: &[(&str, &str)], attributes: u64) -> Mount {
    let options = options
        .iter()
        .map(|(key, value)| {
            (
                (*key).to_owned(),
                (!value.is_empty()).then(|| (*value).to_owned()),
            )
        })
        .collect();
    Mount {
        target: target.to_owned(),
        source: MountSource::Filesystem {
            kind: kind.to_owned(),
            options,
        },
        attributes,
        recursive: false,
        only_top: false,
        propagation: 0,
    }
}

fn bind(target: &str, source: PathBuf, attributes: u64, recursive: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Bind(source),
        attributes,
        recursive,
        only_top: false,
        propagation: 0,
    }
}

/// All mounts of a container, in the order in which they are made.
pub fn all(record: &Record, places: &Places<'_>) -> Result<Vec<Mount>, Error> {
    let spec = &record.spec;
    let shm = if spec.shm_size == 0 {
        64 << 20
    } else {
        spec.shm_size
    };
    let read_only = if spec.privileged { 0 } else { RDONLY };
    let mut mounts = vec![
        filesystem("/proc", "proc", &[], NOSUID | NODEV | NOEXEC),
        filesystem(
            "/dev",
            "tmpfs",
            &[("mode", "755"), ("size", "65536k")],
            NOSUID,
        ),
        filesystem(
            "/dev/pts",
            "devpts",
            &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
            NOSUID | NOEXEC,
        ),
        filesystem("/sys", "sysfs", &[], read_only | NOSUID | NODEV | NOEXEC),
        Mount {
            target: "/sys/fs/cgroup".to_owned(),
            source: MountSource::Cgroups {
                writable: spec.privileged,
            },
            attributes: 0,
            recursive: false,
            only_top: false,
            propagation: 0,
        },
        filesystem("/dev/mqueue", "mqueue", &[], NOSUID | NODEV | NOEXEC),
    ];
    mounts.extend(match spec.ipc_mode.as_str() {
        // docker: without shared memory between processes there is no place for it.
        "none" => None,
        mode if super::peers::of(mode).is_some() => Some(Mount {
            target: "/dev/shm".to_owned(),
            source: MountSource::SharedMemory,
            attributes: 0,
            recursive: false,
            only_top: false,
            propagation: 0,
        }),
        "host" => Some(bind(
            "/dev/shm",
            PathBuf::from("/dev/shm"),
            NOSUID | NODEV | NOEXEC,
            false,
        )),
        _ => Some(filesystem(
            "/dev/shm",
            "tmpfs",
            &[("mode", "1777"), ("size", &shm.to_string())],
            NOSUID | NODEV | NOEXEC,
        )),
    });
    for name in ["resolv.conf", "hostname", "hosts"] {
        let target = format!("/etc/{name}");
        if !spec.mounts.iter().any(|m| m.target == target) {
            mounts.push(bind(&target, places.folder.join(name), 0, false));
        }
    }
    // Shallow targets first, so that a deeper one is not hidden.
    let mut own: Vec<&SpecMount> = spec.mounts.iter().collect();
    own.sort_by_key(|m| m.target.matches('/').count());
    for mount in own {
        mounts.push(own_mount(mount, places)?);
    }
    Ok(mounts)
}

fn own_mount(mount: &SpecMount, places: &Places<'_>) -> Result<Mount, Error> {
    if !mount.target.starts_with('/') || mount.target.split('/').any(|p| p == "..") {
        return Err(Error::Invalid(format!(
            "invalid mount path: '{}' mount path must be absolute",
            mount.target
        )));
    }
    let read_only = if mount.read_only { RDONLY } else { 0 };
    let mut made = match mount.r#type.as_str() {
        "tmpfs" => tmpfs(mount)?,
        "volume" => bind(
            &mount.target,
            (places.volume)(&mount.source),
            read_only,
            false,
        ),
        _ => bind(
            &mount.target,
            PathBuf::from(&mount.source),
            read_only,
            !mount.non_recursive,
        ),
    };
    made.only_top = mount.read_only_non_recursive;
    made.propagation = match mount.propagation.as_str() {
        "" | "rprivate" | "private" => libc::MS_PRIVATE,
        "rslave" | "slave" => libc::MS_SLAVE,
        "rshared" | "shared" => libc::MS_SHARED,
        other => return Err(Error::Invalid(format!("invalid propagation mode: {other}"))),
    };
    Ok(made)
}

/// A tmpfs: by `--tmpfs` with options as mount(8) has them, or by `--mount` with fields.
fn tmpfs(mount: &SpecMount) -> Result<Mount, Error> {
    let mut options = vec![("mode".to_owned(), Some("1777".to_owned()))];
    let mut set = |key: &str, value: String| {
        options.retain(|(k, _)| k != key);
        options.push((key.to_owned(), Some(value)));
    };
    // What docker gives a tmpfs of which nothing is said.
    let mut attributes = NOSUID | NODEV | NOEXEC;
    if mount.tmpfs_mode != 0 {
        set("mode", format!("{:o}", mount.tmpfs_mode));
    }
    if mount.tmpfs_size != 0 {
        set("size", mount.tmpfs_size.to_string());
    }
    for option in mount.tmpfs_options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some((key @ ("size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks"), value)) => {
                set(key, value.to_owned());
            }
            _ => match option {
                "ro" => attributes |= RDONLY,
                "rw" => attributes &= !RDONLY,
                "nosuid" => attributes |= NOSUID,
                "suid" => attributes &= !NOSUID,
                "nodev" => attributes |= NODEV,
                "dev" => attributes &= !NODEV,
                "noexec" => attributes |= NOEXEC,
                "exec" => attributes &= !NOEXEC,
                "noatime" => attributes |= libc::MOUNT_ATTR_NOATIME,
                other => {
                    return Err(Error::Invalid(format!(
                        "invalid tmpfs option [\"{other}\"]"
                    )));
                }
            },
        }
    }
    if mount.read_only {
        attributes |= RDONLY;
    }
    let mut made = filesystem(&mount.target, "tmpfs", &[], attributes);
    made.source = MountSource::Filesystem {
        kind: "tmpfs".to_owned(),
        options,
    };
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_is_as_its_options_say() {
        let made = |options: &str| {
            tmpfs(&SpecMount {
                target: "/t".into(),
                tmpfs_options: options.into(),
                ..SpecMount::default()
            })
        };
        let options = |mount: Mount| match mount.source {
            MountSource::Filesystem { options, .. } => options
                .into_iter()
                .map(|(k, v)| format!("{k}={}", v.unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(","),
            other => panic!("{other:?}"),
        };
        assert_eq!(options(made("").unwrap()), "mode=1777");
        assert_eq!(made("").unwrap().attributes, NOSUID | NODEV | NOEXEC);
        let full = made("ro,exec,size=1m,uid=5,mode=700").unwrap();
        assert_eq!(full.attributes, NOSUID | NODEV | RDONLY);
        assert_eq!(options(full), "size=1m,uid=5,mode=700");
        assert!(made("nonsense").is_err() && made("source=/etc").is_err());
    }
}
