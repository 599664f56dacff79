//! `--device` and `--device-cgroup-rule`: which nodes a container gets and what it may do with devices.

use std::{
    fs,
    path::{Path, PathBuf},
};

use slipway_proto::runtime::v1::{ContainerSpec, Device as Asked};

use crate::{
    error::Error,
    executor::{
        nodes,
        plan::{ContainerPlan, Device, DeviceKind, DeviceRule},
    },
};

/// Checks what can be checked without looking at the host.
pub fn check(spec: &ContainerSpec) -> Result<(), Error> {
    for device in &spec.devices {
        // cdi.ParseQualifiedName: vendor.com/class=name.
        if !device.host_path.starts_with('/') && device.host_path.contains('=') {
            return Err(Error::Unsupported(format!(
                "--device {}: CDI devices",
                device.host_path
            )));
        }
        let inside = &device.container_path;
        if !device.host_path.starts_with('/')
            || !inside.starts_with('/')
            || inside.split('/').any(|part| part == "..")
        {
            return Err(Error::Invalid(format!(
                "invalid device specification: {}:{inside}: paths must be absolute",
                device.host_path
            )));
        }
        access(&device.permissions).ok_or_else(|| {
            Error::Invalid(format!("invalid device mode: {}", device.permissions))
        })?;
    }
    for rule in &spec.device_cgroup_rules {
        parse_rule(rule)?;
    }
    Ok(())
}

/// Puts what the container asks for into its plan. Paths are looked up on this host now, at each start,
/// as docker does: a device may have got another number meanwhile.
pub fn grant(plan: &mut ContainerPlan, spec: &ContainerSpec) -> Result<(), Error> {
    for rule in &spec.device_cgroup_rules {
        plan.cgroup.devices.push(parse_rule(rule)?);
    }
    plan.host_devices = spec.privileged;
    for asked in &spec.devices {
        let access = access(&asked.permissions).unwrap_or(DeviceRule::ALL);
        for device in nodes_of(asked)? {
            // What was asked for first would be under what comes now; docker's last one counts, too.
            plan.devices.retain(|d| d.path != device.path);
            plan.cgroup.devices.push(DeviceRule {
                kind: if device.block {
                    DeviceKind::Block
                } else {
                    DeviceKind::Character
                },
                major: Some(device.major),
                minor: Some(device.minor),
                access,
            });
            plan.devices.push(device);
        }
    }
    Ok(())
}

/// "c 10:229 rwm", "a *:* rwm" (docker/cli, opts: `^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`).
fn parse_rule(text: &str) -> Result<DeviceRule, Error> {
    let error = || Error::Invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split(' ');
    let (Some(kind), Some(numbers), Some(letters), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(error());
    };
    let kind = match kind {
        "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" => DeviceKind::Character,
        _ => return Err(error()),
    };
    let number = |word: &str| match word {
        "*" => Ok(None),
        word if word.bytes().all(|b| b.is_ascii_digit()) => {
            word.parse().map(Some).map_err(|_| error())
        }
        _ => Err(error()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(error)?;
    Ok(DeviceRule {
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access: access(letters)
            .filter(|_| !letters.is_empty())
            .ok_or_else(error)?,
    })
}

/// "rwm" in any order, one to three letters; "" = all.
fn access(letters: &str) -> Option<u32> {
    if letters.is_empty() {
        return Some(DeviceRule::ALL);
    }
    let mut bits = 0;
    for letter in letters.bytes() {
        bits |= match letter {
            b'r' => DeviceRule::READ,
            b'w' => DeviceRule::WRITE,
            b'm' => DeviceRule::MKNOD,
            _ => return None,
        };
    }
    (letters.len() <= 3).then_some(bits)
}

/// The nodes that one `--device` means: the device itself, or all that are in a folder
/// (moby, daemon/pkg/oci: DevicesFromPath).
fn nodes_of(asked: &Asked) -> Result<Vec<Device>, Error> {
    let refuse = |why: &str| {
        Error::Invalid(format!(
            "error gathering device information while adding custom device \"{}\": {why}",
            asked.host_path
        ))
    };
    // Of a link it is the device behind it that counts: /dev/disk/by-id/...
    let path = fs::canonicalize(&asked.host_path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => refuse("no such file or directory"),
        _ => refuse(&e.to_string()),
    })?;
    let inside = if asked.container_path.is_empty() {
        &asked.host_path
    } else {
        &asked.container_path
    };
    if let Some(device) = nodes::node(&path, PathBuf::from(inside)) {
        return Ok(vec![device]);
    }
    if !path.is_dir() {
        return Err(refuse("not a device node"));
    }
    let found = nodes::below(&path, Path::new(inside), &|_| true);
    if found.is_empty() {
        return Err(refuse("not a device node"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_dockers() {
        let rule = parse_rule("c 10:* rw").unwrap();
        assert_eq!(rule.kind, DeviceKind::Character);
        assert_eq!((rule.major, rule.minor), (Some(10), None));
        assert_eq!(rule.access, DeviceRule::READ | DeviceRule::WRITE);
        assert_eq!(parse_rule("a *:* mrw").unwrap().access, DeviceRule::ALL);
        for bad in [
            "",
            "c 1:3",
            "d 1:3 r",
            "c 1 r",
            "c 1:3 x",
            "c 1:3 rwmr",
            "c -1:3 r",
            "c 1:3  r",
            "c 1:3 r\n",
            "c 1:3 ",
            "c 99999999999:1 r",
        ] {
            assert!(parse_rule(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn devices_and_folders_of_them() {
        let asked = |host: &str, inside: &str| Asked {
            host_path: host.into(),
            container_path: inside.into(),
            permissions: "r".into(),
        };
        let null = nodes_of(&asked("/dev/null", "/dev/nothing")).unwrap();
        assert_eq!(
            (null[0].path.as_str(), null[0].major, null[0].minor),
            ("/dev/nothing", 1, 3)
        );
        let error = nodes_of(&asked("/etc/passwd", "/x"))
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("not a device node"), "{error}");
        let error = nodes_of(&asked("/dev/nope", "/x")).unwrap_err().to_string();
        assert!(error.ends_with("no such file or directory"), "{error}");
    }

    #[test]
    fn names_of_cdi_are_refused() {
        let spec = ContainerSpec {
            devices: vec![Asked {
                host_path: "vendor.com/gpu=0".into(),
                ..Asked::default()
            }],
            ..ContainerSpec::default()
        };
        assert!(check(&spec).unwrap_err().to_string().contains("CDI"));
    }
}
