//! Capability names and docker's default set.

/// Names by number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What docker gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Not a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability: {0:?}: see capabilities(7)")]
pub struct UnknownCapability(pub String);

/// The bit of a capability; `CAP_` in front and lower case are allowed.
pub fn bit(name: &str) -> Result<u64, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|n| *n == bare)
        .map(|number| 1 << number)
        .ok_or_else(|| UnknownCapability(name.to_owned()))
}

/// All names, as the OCI Runtime Specification has them.
pub fn names() -> Vec<String> {
    NAMES.iter().map(|name| format!("CAP_{name}")).collect()
}

/// Every capability that there is.
pub const fn all() -> u64 {
    (1 << NAMES.len()) - 1
}

/// The set for `--cap-add` and `--cap-drop`, by docker's rules (docker/cli, EffectiveCapAddCapDrop; moby,
/// TweakCapabilities): with `ALL` added, all but what is dropped; with `ALL` dropped, what is added;
/// else what is both added and dropped is added.
pub fn effective(add: &[String], drop: &[String]) -> Result<u64, UnknownCapability> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let union = |names: &[String]| {
        names
            .iter()
            .filter(|n| !is_all(n))
            .try_fold(0, |set, name| Ok(set | bit(name)?))
    };
    let (added, dropped) = (union(add)?, union(drop)?);
    let base = if add.iter().any(is_all) {
        return Ok(all() & !dropped);
    } else if drop.iter().any(is_all) {
        return Ok(added);
    } else {
        DEFAULT
            .iter()
            .fold(0, |set, name| set | bit(name).unwrap_or_default())
    };
    Ok(base & !dropped | added)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn the_default_set_is_dockers() {
        // As /proc/self/status shows it in a docker container.
        assert_eq!(effective(&[], &[]).unwrap(), 0xa804_25fb);
    }

    #[test]
    fn adding_and_dropping() {
        let set = |add: &[&str], drop: &[&str]| effective(&strings(add), &strings(drop)).unwrap();
        assert_eq!(set(&[], &["ALL"]), 0);
        assert_eq!(set(&["net_admin"], &["all"]), 1 << 12);
        assert_eq!(set(&["ALL"], &["CAP_SYS_ADMIN"]), all() & !(1 << 21));
        assert_eq!(
            set(&["SYS_TIME"], &["MKNOD"]),
            (0xa804_25fb | 1 << 25) & !(1 << 27)
        );
        assert_eq!(set(&["CAP_MKNOD"], &["mknod"]), 0xa804_25fb);
        assert_eq!(set(&["ALL"], &["all"]), all());
        assert!(effective(&strings(&["NONSENSE"]), &[]).is_err());
    }
}
