//! `features` (features.md): what config.json may say.

use super::{Error, config, show};
use crate::executor::{capabilities, hooks::SPEC_VERSION, seccomp};

/// Prints it.
pub fn print() -> Result<u8, Error> {
    let text = serde_json::to_string_pretty(&features()).map_err(Error::invalid)?;
    show::print(&text)
}

fn features() -> serde_json::Value {
    serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
        ],
        "mountOptions": config::MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities::names(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": false,
                "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE",
                    "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
                ],
                "archs": match cfg!(target_arch = "aarch64") {
                    true => vec!["SCMP_ARCH_AARCH64"],
                    false => vec!["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                },
                "knownFlags": seccomp::KNOWN_FLAGS.map(|(name, _)| name),
                "supportedFlags": seccomp::supported_flags(),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
        "annotations": {
            "dev.slipway.version": env!("CARGO_PKG_VERSION"),
        },
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_specs_own_type_takes_it() {
        let _: oci_spec::runtime::Features = serde_json::from_value(super::features()).unwrap();
    }
}
