//! `--sysctl`: only what belongs to the container's own namespaces, by runc's rules
//! (libcontainer/configs/validate, sysctl).

use slipway_proto::runtime::v1::ContainerSpec;

use crate::error::Error;

/// Those of an ipc namespace; the others begin with `fs.mqueue.`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Names and values, docker's own first.
pub fn all(spec: &ContainerSpec) -> Result<Vec<(String, String)>, Error> {
    let network = spec.network.as_ref().map_or("", |n| n.mode.as_str());
    let mut all: Vec<(String, String)> = Vec::new();
    if network != "host" && !network.starts_with("container:") {
        // docker sets these two, so that servers may bind low ports and ping works without privileges.
        all.push((
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        ));
        all.push((
            "net.ipv4.ping_group_range".to_owned(),
            "0 2147483647".to_owned(),
        ));
    }
    for (key, value) in sorted(spec) {
        allowed(key, spec, network)?;
        // The kernel would take the first line and leave the others.
        if value.chars().any(char::is_control) {
            return Err(Error::Invalid(format!(
                "the value of sysctl '{key}' is not allowed: {value:?}"
            )));
        }
        all.retain(|(k, _)| k != key);
        all.push((key.clone(), value.clone()));
    }
    Ok(all)
}

/// One after the other in the same order each time.
fn sorted(spec: &ContainerSpec) -> Vec<(&String, &String)> {
    let mut sorted: Vec<_> = spec.sysctls.iter().collect();
    sorted.sort_unstable();
    sorted
}

fn allowed(key: &str, spec: &ContainerSpec, network: &str) -> Result<(), Error> {
    let hosts = Hosts {
        ipc: spec.ipc_mode == "host",
        net: network == "host",
        uts: spec.uts_mode == "host",
    };
    check(key, &hosts).map_err(Error::Invalid)
}

/// Which namespaces are the host's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hosts {
    /// System V and POSIX message queues.
    pub ipc: bool,
    /// Network.
    pub net: bool,
    /// Host name.
    pub uts: bool,
}

/// Whether a container in these namespaces may have a kernel parameter of its own; else why not.
pub fn check(key: &str, hosts: &Hosts) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("sysctl '{key}' is not allowed{why}"));
    // The name becomes a path: only the form with dots, so that there is one way to write it.
    let word = key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !word || key.split('.').any(str::is_empty) {
        return refuse(": write it with dots and without other signs");
    }
    if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        return match hosts.ipc {
            true => refuse(" in the host's ipc namespace"),
            false => Ok(()),
        };
    }
    if key.starts_with("net.") {
        return match hosts.net {
            true => refuse(" in the host's network namespace"),
            false => Ok(()),
        };
    }
    match key {
        "kernel.domainname" if !hosts.uts => Ok(()),
        "kernel.hostname" => refuse(": it conflicts with the option --hostname"),
        _ => refuse(": it is not of the container's own namespaces"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_proto::runtime::v1::NetworkConfig;

    fn set(key: &str, value: &str, spec: ContainerSpec) -> Result<Vec<(String, String)>, String> {
        all(&ContainerSpec {
            sysctls: [(key.to_owned(), value.to_owned())].into(),
            ..spec
        })
        .map_err(|e| e.to_string())
    }

    fn on_network(mode: &str) -> ContainerSpec {
        ContainerSpec {
            network: Some(NetworkConfig {
                mode: mode.into(),
                ..NetworkConfig::default()
            }),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn parameters_of_the_host_are_refused() {
        for key in [
            "kernel.panic",
            "kernel.hostname",
            "kernel.core_pattern",
            "kernel.msgmax.x",
            "vm.swappiness",
            "fs.file-max",
            "fs.mqueue",
            "net/../kernel.panic",
            "net/ipv4/ip_forward",
            "net.ipv4/../../kernel/panic",
            "net.ipv4..x",
            "net.",
            ".net.x",
            "net.x\n",
            "",
        ] {
            assert!(set(key, "1", ContainerSpec::default()).is_err(), "{key:?}");
        }
        for value in ["1\n2", "1\0", "\u{7f}"] {
            assert!(set("kernel.msgmax", value, ContainerSpec::default()).is_err());
        }
    }

    #[test]
    fn parameters_of_its_own_namespaces_are_set() {
        for key in [
            "net.core.somaxconn",
            "net.ipv4.ip_unprivileged_port_start",
            "kernel.shm_rmid_forced",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            let all = set(key, "5", ContainerSpec::default()).unwrap();
            let values: Vec<_> = all.iter().filter(|(k, _)| k == key).collect();
            assert_eq!(values, [&(key.to_owned(), "5".to_owned())]);
        }
    }

    #[test]
    fn what_is_shared_with_the_host_is_not_touched() {
        let error = set("net.core.somaxconn", "5", on_network("host")).unwrap_err();
        assert!(error.contains("host's network namespace"), "{error}");
        let ipc = ContainerSpec {
            ipc_mode: "host".into(),
            ..ContainerSpec::default()
        };
        assert!(set("kernel.msgmax", "5", ipc).is_err());
        assert!(all(&on_network("host")).unwrap().is_empty());
        assert!(all(&on_network("container:x")).unwrap().is_empty());
        assert_eq!(all(&on_network("none")).unwrap().len(), 2);
    }
}
