//! Options that we don't support yet: refused by name, never ignored.

use slipway_proto::runtime::v1::ContainerSpec;

use crate::error::Error;

/// Checks that nothing is asked for that would be ignored.
pub fn check(spec: &ContainerSpec) -> Result<(), Error> {
    let refuse = |option: &str| Err(Error::Unsupported(option.to_owned()));
    let asked = [
        (spec.init, "--init"),
        (!spec.volumes_from.is_empty(), "--volumes-from"),
        (!spec.devices.is_empty(), "--device"),
        (!spec.device_cgroup_rules.is_empty(), "--device-cgroup-rule"),
        (!matches!(&*spec.userns_mode, "" | "host"), "--userns"),
        (
            !matches!(&*spec.cgroupns_mode, "" | "private" | "host"),
            "--cgroupns with this value",
        ),
        (
            !matches!(&*spec.pid_mode, "" | "private" | "host"),
            "--pid container:...",
        ),
        (
            !matches!(&*spec.ipc_mode, "" | "private" | "host"),
            "--ipc with this value",
        ),
        (
            !matches!(&*spec.uts_mode, "" | "private" | "host"),
            "--uts with this value",
        ),
        (!spec.cgroup_parent.is_empty(), "--cgroup-parent"),
        (spec.oom_kill_disable, "--oom-kill-disable"),
        (!spec.storage_opt.is_empty(), "--storage-opt"),
        (!spec.annotations.is_empty(), "--annotation"),
        (!spec.runtime.is_empty(), "--runtime"),
        (
            spec.platform
                .as_ref()
                .is_some_and(|p| !p.architecture.is_empty()),
            "--platform for run",
        ),
    ];
    if let Some((_, option)) = asked.iter().find(|(asked, _)| *asked) {
        return refuse(option);
    }
    if let Some(health) = &spec.health
        && !health.test.is_empty()
        && health.test != ["NONE"]
    {
        return refuse("--health-cmd");
    }
    if let Some(restart) = &spec.restart
        && !matches!(&*restart.name, "" | "no")
    {
        return refuse(&format!("--restart {}", restart.name));
    }
    if let Some(log) = &spec.log {
        if !matches!(&*log.driver, "" | "local" | "none") {
            return refuse(&format!("--log-driver {}", log.driver));
        }
        if !log.options.is_empty() {
            return refuse("--log-opt");
        }
    }
    if let Some(network) = &spec.network {
        if network.mode.starts_with("container:") {
            return refuse("--network container:...");
        }
        if !network.additional.is_empty() {
            return refuse("more than one --network");
        }
        if network.publish_all {
            return refuse("-P");
        }
    }
    if let Some(resources) = &spec.resources
        && (resources.blkio_weight != 0 || resources.memory_swappiness.is_some())
    {
        return refuse("--blkio-weight and --memory-swappiness");
    }
    for option in &spec.security_opt {
        if !matches!(
            &**option,
            "no-new-privileges"
                | "no-new-privileges:true"
                | "no-new-privileges=true"
                | "seccomp=unconfined"
                | "seccomp=builtin"
                | "systempaths=unconfined"
        ) {
            return refuse(&format!(
                "--security-opt {}",
                option.chars().take(40).collect::<String>()
            ));
        }
    }
    for mount in &spec.mounts {
        if !matches!(&*mount.r#type, "bind" | "tmpfs" | "volume") {
            return refuse(&format!("--mount type={}", mount.r#type));
        }
        if !mount.subpath.is_empty()
            || !mount.volume_options.is_empty()
            || !matches!(&*mount.volume_driver, "" | "local")
            || !mount.relabel.is_empty()
        {
            return refuse("this option of --mount");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_ignored_is_refused_by_name() {
        assert!(check(&ContainerSpec::default()).is_ok());
        let spec = ContainerSpec {
            init: true,
            ..ContainerSpec::default()
        };
        assert_eq!(
            check(&spec).unwrap_err().to_string(),
            "--init is not supported yet"
        );
        let spec = ContainerSpec {
            security_opt: vec!["apparmor=x".into()],
            ..ContainerSpec::default()
        };
        assert!(check(&spec).unwrap_err().to_string().contains("apparmor=x"));
    }
}
