//! Options that we don't support yet: refused by name, never ignored.

use slipway_proto::runtime::v1::ContainerSpec;

use super::restart::Policy;
use crate::error::Error;

/// Checks that nothing is asked for that would be ignored.
pub fn check(spec: &ContainerSpec) -> Result<(), Error> {
    let refuse = |option: &str| Err(Error::Unsupported(option.to_owned()));
    let asked = [(!spec.runtime.is_empty(), "--runtime")];
    if let Some((_, option)) = asked.iter().find(|(asked, _)| *asked) {
        return refuse(option);
    }
    super::peers::check(spec)?;
    super::devices::check(spec)?;
    if spec.cgroup_parent.split('/').any(|part| part == "..") {
        return Err(Error::Invalid(format!(
            "invalid cgroup parent: {}",
            spec.cgroup_parent
        )));
    }
    // docker's overlay2 keeps sizes by project quotas of xfs; those we don't set.
    if let Some(option) = spec.storage_opt.keys().next() {
        return Err(Error::Invalid(format!(
            "--storage-opt {option}: the writable layer has no size limit of its own here; give the \
             container a volume or a tmpfs with a size, and --read-only"
        )));
    }
    if let Some(platform) = &spec.platform {
        let host = slipway_image::Platform::host();
        let any = |own: &str, asked: &str| asked.is_empty() || own == asked;
        if !any(&host.os, &platform.os)
            || !any(&host.architecture, &platform.architecture)
            || !platform.variant.is_empty()
        {
            let asked = [&*platform.os, &platform.architecture, &platform.variant];
            let asked: Vec<_> = asked.into_iter().filter(|p| !p.is_empty()).collect();
            return refuse(&format!(
                "--platform {} on a host of {}/{}",
                asked.join("/"),
                host.os,
                host.architecture
            ));
        }
    }
    if Policy::parse(spec.restart.as_ref())? != Policy::No && spec.auto_remove {
        return Err(Error::Invalid(
            "can't create 'AutoRemove' container with restart policy".to_owned(),
        ));
    }
    super::connect::check(spec.network.as_ref())?;
    for option in &spec.security_opt {
        if !matches!(
            &**option,
            "no-new-privileges"
                | "no-new-privileges:true"
                | "no-new-privileges=true"
                | "no-new-privileges:false"
                | "no-new-privileges=false"
                // No profile and no label is what there is.
                | "label=disable"
                | "seccomp=unconfined"
                | "seccomp=builtin"
                | "systempaths=unconfined"
        ) && !option.starts_with("seccomp=")
            && !option.starts_with("apparmor=")
        {
            return refuse(&format!(
                "--security-opt {}",
                option.chars().take(40).collect::<String>()
            ));
        }
    }
    for mount in &spec.mounts {
        if !matches!(&*mount.r#type, "bind" | "tmpfs" | "volume" | "image") {
            return refuse(&format!("--mount type={}", mount.r#type));
        }
        let field = if !matches!(&*mount.volume_driver, "" | "local") {
            "volume-driver"
        } else if !mount.relabel.is_empty() && std::path::Path::new("/sys/fs/selinux").exists() {
            // Without SELinux docker relabels nothing either.
            "z and Z: relabelling on a host with SELinux"
        } else {
            continue;
        };
        return refuse(&format!(
            "the option {field} of the mount on {}",
            mount.target
        ));
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
            runtime: "runsc".into(),
            ..ContainerSpec::default()
        };
        assert_eq!(
            check(&spec).unwrap_err().to_string(),
            "--runtime is not supported yet"
        );
        let spec = ContainerSpec {
            security_opt: vec!["label=type:x".into()],
            ..ContainerSpec::default()
        };
        assert!(
            check(&spec)
                .unwrap_err()
                .to_string()
                .contains("label=type:x")
        );
        let arm = slipway_proto::types::v1::Platform {
            os: "linux".into(),
            architecture: "s390x".into(),
            ..Default::default()
        };
        let spec = ContainerSpec {
            platform: Some(arm),
            ..ContainerSpec::default()
        };
        assert!(
            check(&spec)
                .unwrap_err()
                .to_string()
                .contains("linux/s390x on a host of linux/")
        );
    }

    #[test]
    fn neutral_values_pass() {
        use slipway_proto::runtime::v1::{HealthCheck, RestartPolicy};
        let host = slipway_image::Platform::host();
        let spec = ContainerSpec {
            restart: Some(RestartPolicy {
                name: "no".into(),
                ..Default::default()
            }),
            health: Some(HealthCheck {
                test: vec!["NONE".into()],
                ..Default::default()
            }),
            platform: Some(slipway_proto::types::v1::Platform {
                os: host.os,
                architecture: host.architecture,
                ..Default::default()
            }),
            security_opt: vec!["no-new-privileges=false".into(), "label=disable".into()],
            userns_mode: "host".into(),
            ..ContainerSpec::default()
        };
        assert!(check(&spec).is_ok());
    }
}
