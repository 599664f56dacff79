//! From a container's mounts to the executor's: docker's own ones first, then those that are asked for.

use std::path::PathBuf;

use slipway_proto::runtime::v1::Mount as SpecMount;

use super::{plan::Places, record::Record, tmpfs};
use crate::{
    error::Error,
    executor::plan::{Mount, MountSource, Propagation},
    layers::stack,
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
    let source = MountSource::Filesystem {
        kind: kind.to_owned(),
        options,
    };
    Mount {
        attributes,
        ..Mount::new(target, source)
    }
}

fn bind(target: &str, source: PathBuf, attributes: u64, recursive: bool) -> Mount {
    Mount {
        attributes,
        recursive,
        ..Mount::new(target, MountSource::Bind(source))
    }
}

/// All mounts of a container, in the order in which they are made.
pub fn all(record: &Record, places: &Places<'_>) -> Result<Vec<Mount>, Error> {
    let spec = &record.spec;
    let asked = |target: &str| spec.mounts.iter().any(|m| m.target == target);
    let mut mounts = defaults(record);
    // What is asked for takes the place of docker's own; a /dev of all that is in it, too
    // (moby, oci_linux.go, WithMounts).
    mounts.retain(|m| !(asked(&m.target) || asked("/dev") && m.target.starts_with("/dev/")));
    let read_only = if spec.read_only { RDONLY } else { 0 };
    for name in ["resolv.conf", "hostname", "hosts"] {
        let target = format!("/etc/{name}");
        if !asked(&target) {
            let mut mount = bind(&target, places.folder.join(name), read_only, false);
            // Files of ours: the container's root owns them.
            mount.idmapped = true;
            mounts.push(mount);
        }
    }
    // Shallow targets first, so that a deeper one is not hidden.
    let mut own: Vec<&SpecMount> = spec.mounts.iter().collect();
    own.sort_by_key(|m| m.target.matches('/').count());
    for mount in own {
        mounts.push(own_mount(mount, record, places)?);
    }
    Ok(mounts)
}

/// What every container has.
fn defaults(record: &Record) -> Vec<Mount> {
    let spec = &record.spec;
    let shm = if spec.shm_size == 0 {
        64 << 20
    } else {
        spec.shm_size
    };
    let read_only = if spec.privileged { 0 } else { RDONLY };
    // The group of terminals, where the container has it.
    let tty = match &record.user_map {
        Some(map) => map.gid(5),
        None => Some(5),
    };
    let mut devpts = vec![("ptmxmode", "0666"), ("mode", "0620")];
    let tty = tty.map(|gid| gid.to_string());
    devpts.extend(tty.as_deref().map(|gid| ("gid", gid)));
    let mut mounts = vec![
        filesystem("/proc", "proc", &[], NOSUID | NODEV | NOEXEC),
        filesystem(
            "/dev",
            "tmpfs",
            &[("mode", "755"), ("size", "65536k")],
            NOSUID,
        ),
        filesystem("/dev/pts", "devpts", &devpts, NOSUID | NOEXEC),
        filesystem("/sys", "sysfs", &[], read_only | NOSUID | NODEV | NOEXEC),
        Mount::new(
            "/sys/fs/cgroup",
            MountSource::Cgroups {
                writable: spec.privileged,
                own: false,
            },
        ),
        filesystem("/dev/mqueue", "mqueue", &[], NOSUID | NODEV | NOEXEC),
    ];
    mounts.extend(match spec.ipc_mode.as_str() {
        // docker: without shared memory between processes there is no place for it.
        "none" => None,
        mode if super::peers::of(mode).is_some() => {
            Some(Mount::new("/dev/shm", MountSource::SharedMemory))
        }
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
    mounts
}

fn own_mount(mount: &SpecMount, record: &Record, places: &Places<'_>) -> Result<Mount, Error> {
    let read_only = if mount.read_only { RDONLY } else { 0 };
    let mut made = match mount.r#type.as_str() {
        "tmpfs" => tmpfs::mount(mount, record.user_map.as_ref())?,
        "volume" => {
            let base = (places.volume)(&mount.source);
            let source = match mount.subpath.as_str() {
                "" => MountSource::Bind(base),
                path => MountSource::Beneath {
                    base,
                    path: path.to_owned(),
                },
            };
            Mount {
                attributes: read_only,
                idmapped: true,
                ..Mount::new(mount.target.clone(), source)
            }
        }
        "image" => {
            let layers = record.image_mounts.get(&mount.target);
            let layers = layers.into_iter().flatten();
            let source = MountSource::Layers {
                lower: stack(layers.map(|layer| (places.layer)(layer))),
                path: mount.subpath.clone(),
            };
            Mount {
                attributes: RDONLY,
                ..Mount::new(mount.target.clone(), source)
            }
        }
        _ => bind(
            &mount.target,
            PathBuf::from(&mount.source),
            read_only,
            !mount.non_recursive,
        ),
    };
    made.only_top = mount.read_only_non_recursive;
    made.propagation = propagation(&mount.propagation)?;
    Ok(made)
}

/// By its word.
pub fn propagation(word: &str) -> Result<Propagation, Error> {
    Ok(match word {
        "" | "rprivate" | "private" => Propagation::Private,
        "slave" => Propagation::Slave { recursive: false },
        "rslave" => Propagation::Slave { recursive: true },
        "shared" => Propagation::Shared { recursive: false },
        "rshared" => Propagation::Shared { recursive: true },
        other => return Err(Error::Invalid(format!("invalid propagation mode: {other}"))),
    })
}

/// A target as it is compared and sorted: absolute, without dots and doubled slashes, as docker cleans it.
pub fn clean_target(target: &str) -> Result<String, Error> {
    if !target.starts_with('/') {
        return Err(Error::Invalid(format!(
            "invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(Error::Invalid(
            "invalid mount target: destination can't be '/'".to_owned(),
        ));
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_cleaned_as_docker_cleans_them() {
        let clean = |target: &str| clean_target(target).map_err(|e| e.to_string());
        assert_eq!(clean("//a/./b/../c/"), Ok("/a/c".to_owned()));
        assert_eq!(clean("/../etc"), Ok("/etc".to_owned()));
        assert!(clean("/a/..").unwrap_err().contains("can't be '/'"));
        assert!(clean("a").unwrap_err().contains("must be absolute"));
    }
}
