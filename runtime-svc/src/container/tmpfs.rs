//! tmpfs mounts: `--tmpfs` with options as mount(8) has them, `--mount type=tmpfs` with fields.

use slipway_proto::runtime::v1::Mount as SpecMount;

use crate::{
    error::Error,
    executor::plan::{Mount, MountSource, UserMap},
};

/// What docker gives a tmpfs of which nothing is said.
const DEFAULT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Options with a value (moby/sys/mount, validFlags).
const VALUES: [&str; 7] = [
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "mpol",
];

/// A tmpfs as it is asked for. Content of the image is not copied into it: docker does not.
pub fn mount(spec: &SpecMount, user: Option<&UserMap>) -> Result<Mount, Error> {
    let mut options: Vec<(String, Option<String>)> = Vec::new();
    let mut attributes = DEFAULT;
    let mut set = |key: &str, value: Option<String>| {
        options.retain(|(k, _)| k != key);
        options.push((key.to_owned(), value));
    };
    if spec.tmpfs_mode != 0 {
        set("mode", Some(format!("{:o}", spec.tmpfs_mode)));
    }
    if spec.tmpfs_size != 0 {
        set("size", Some(spec.tmpfs_size.to_string()));
    }
    for option in spec.tmpfs_options.split(',').filter(|o| !o.is_empty()) {
        let invalid = || Error::Invalid(format!("invalid tmpfs option [\"{option}\"]"));
        if let Some((key, value)) = option.split_once('=') {
            if !VALUES.contains(&key) {
                return Err(invalid());
            }
            set(key, Some(on_host(key, value, user).ok_or_else(invalid)?));
            continue;
        }
        match option {
            "sync" | "dirsync" => set(option, None),
            "async" => set("async", None),
            _ => attributes = flag(attributes, option).ok_or_else(invalid)?,
        }
    }
    if spec.read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    let source = MountSource::Filesystem {
        kind: "tmpfs".to_owned(),
        options,
    };
    Ok(Mount {
        attributes,
        // As runc: the permissions of what is covered, 1777 where nothing is.
        keep_mode: true,
        ..Mount::new(spec.target.clone(), source)
    })
}

/// Owners are numbers of the container.
fn on_host(key: &str, value: &str, user: Option<&UserMap>) -> Option<String> {
    let number = || value.parse::<u32>().ok();
    Some(match (key, user) {
        ("uid", Some(map)) => map.uid(number()?)?.to_string(),
        ("gid", Some(map)) => map.gid(number()?)?.to_string(),
        _ => value.to_owned(),
    })
}

/// Attributes of a mount with a word of mount(8).
fn flag(attributes: u64, word: &str) -> Option<u64> {
    use libc::{
        MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
        MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
    };
    Some(match word {
        "defaults" => 0,
        "ro" => attributes | MOUNT_ATTR_RDONLY,
        "rw" => attributes & !MOUNT_ATTR_RDONLY,
        "nosuid" => attributes | MOUNT_ATTR_NOSUID,
        "suid" => attributes & !MOUNT_ATTR_NOSUID,
        "nodev" => attributes | MOUNT_ATTR_NODEV,
        "dev" => attributes & !MOUNT_ATTR_NODEV,
        "noexec" => attributes | MOUNT_ATTR_NOEXEC,
        "exec" => attributes & !MOUNT_ATTR_NOEXEC,
        "nodiratime" => attributes | MOUNT_ATTR_NODIRATIME,
        "diratime" => attributes & !MOUNT_ATTR_NODIRATIME,
        "noatime" => attributes & !MOUNT_ATTR__ATIME | MOUNT_ATTR_NOATIME,
        "strictatime" => attributes & !MOUNT_ATTR__ATIME | MOUNT_ATTR_STRICTATIME,
        "atime" | "relatime" | "norelatime" | "nostrictatime" => attributes & !MOUNT_ATTR__ATIME,
        // A new file system in a namespace of its own shares with nobody.
        "private" | "rprivate" => attributes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::plan::IdRange;

    const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

    fn made(options: &str, user: Option<&UserMap>) -> Result<(String, u64), Error> {
        let spec = SpecMount {
            target: "/t".into(),
            tmpfs_options: options.into(),
            ..SpecMount::default()
        };
        let made = mount(&spec, user)?;
        let MountSource::Filesystem { options, .. } = made.source else {
            panic!("{made:?}")
        };
        let words: Vec<_> = options
            .into_iter()
            .map(|(k, v)| v.map_or(k.clone(), |v| format!("{k}={v}")))
            .collect();
        Ok((words.join(","), made.attributes))
    }

    #[test]
    fn a_tmpfs_is_as_its_options_say() {
        assert_eq!(made("", None).unwrap(), (String::new(), DEFAULT));
        let (options, attributes) = made("ro,exec,size=1m,uid=5,mode=700", None).unwrap();
        assert_eq!(options, "size=1m,uid=5,mode=700");
        assert_eq!(attributes, NOSUID | NODEV | RDONLY);
        let (options, attributes) = made("size=1m,sync,noatime,size=2m", None).unwrap();
        assert_eq!(options, "sync,size=2m");
        assert_eq!(attributes, DEFAULT | libc::MOUNT_ATTR_NOATIME);
        for wrong in ["nonsense", "source=/etc", "bind", "shared", "size"] {
            assert!(made(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn owners_are_the_containers() {
        let range = IdRange {
            inside: 0,
            host: 1000,
            size: 10,
        };
        let map = UserMap {
            uids: vec![range],
            gids: vec![range],
        };
        assert_eq!(
            made("uid=5,gid=0", Some(&map)).unwrap().0,
            "uid=1005,gid=1000"
        );
        assert!(made("uid=10", Some(&map)).is_err());
    }
}
