//! Values of single options that are more than a word.

use std::fs;

use crate::spec::units;
use slipway_proto::{
    runtime::v1::{Device, DeviceNumber, RestartPolicy},
    types::v1::Platform,
};

/// "on-failure:3"
pub fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = text
        .split_once(':')
        .map_or((text, None), |(n, c)| (n, Some(c)));
    let maximum = count
        .map(|c| {
            c.parse().map_err(|_| {
                format!(
                    "invalid restart policy format: maximum retry count must be an integer: {text}"
                )
            })
        })
        .transpose()?
        .unwrap_or(0);
    match name {
        "" | "no" | "always" | "unless-stopped" if maximum == 0 => {}
        "on-failure" => {}
        "" | "no" | "always" | "unless-stopped" => {
            return Err(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure': {text}"
            ));
        }
        _ => {
            return Err(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ));
        }
    }
    let name = if name.is_empty() { "no" } else { name };
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: maximum,
    })
}

/// A profile is a file here, but its content is what the runtime needs.
pub fn security(text: &str) -> Result<String, String> {
    let Some((key, value)) = text.split_once(['=', ':']) else {
        return match text {
            "no-new-privileges" => Ok(text.to_owned()),
            _ => Err(format!("invalid --security-opt: {text:?}")),
        };
    };
    if key != "seccomp" || matches!(value, "unconfined" | "builtin") {
        return Ok(format!("{key}={value}"));
    }
    let profile = fs::read_to_string(value)
        .map_err(|e| format!("opening seccomp profile ({value}) failed: {e}"))?;
    let parsed: serde_json::Value = serde_json::from_str(&profile)
        .map_err(|e| format!("the seccomp profile {value} is not JSON: {e}"))?;
    Ok(format!("seccomp={parsed}"))
}

/// "/dev/a[:/dev/b[:rwm]]"
pub fn device(text: &str) -> Result<Device, String> {
    // A name of CDI, vendor/class=name: the runtime has the word on it.
    if !text.starts_with('/') && text.contains('=') {
        return Ok(Device {
            host_path: text.to_owned(),
            ..Device::default()
        });
    }
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |t: &str| !t.is_empty() && t.chars().all(|c| "rwm".contains(c));
    let (host, inside, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, mode] if is_mode(mode) => (*host, *inside, *mode),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if !host.starts_with('/') || !inside.starts_with('/') {
        return Err(format!(
            "invalid device specification: {text}: paths must be absolute"
        ));
    }
    Ok(Device {
        host_path: host.to_owned(),
        container_path: inside.to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// "/dev/sda:100"
pub fn device_weight(text: &str) -> Result<DeviceNumber, String> {
    let (path, number) = of_device(text)?;
    match number.parse() {
        Ok(number @ (0 | 10..=1000)) => Ok(DeviceNumber { path, number }),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// "/dev/sda:1mb"
pub fn device_bytes(text: &str) -> Result<DeviceNumber, String> {
    let (path, number) = of_device(text)?;
    let number = units::memory(number).map_err(|_| format!("invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"))?;
    let number = number.unsigned_abs();
    Ok(DeviceNumber { path, number })
}

/// "/dev/sda:100"
pub fn device_operations(text: &str) -> Result<DeviceNumber, String> {
    let (path, number) = of_device(text)?;
    let number = number.parse().map_err(|_| format!("invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"))?;
    Ok(DeviceNumber { path, number })
}

fn of_device(text: &str) -> Result<(String, &str), String> {
    let (path, number) = text
        .rsplit_once(':')
        .filter(|(path, number)| !path.is_empty() && !number.is_empty())
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path.to_owned(), number))
}

/// "c 10:229 rwm"
pub fn device_rule(text: &str) -> Result<String, String> {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |t: &str| t == "*" || !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let holds = matches!(words.as_slice(), [kind, numbers, access]
        if matches!(*kind, "a" | "b" | "c")
            && numbers.split_once(':').is_some_and(|(a, b)| number(a) && number(b))
            && (1..=3).contains(&access.len())
            && access.bytes().all(|b| b"rwm".contains(&b)));
    match holds {
        true => Ok(text.to_owned()),
        false => Err(format!("invalid device cgroup format '{text}'")),
    }
}

/// "linux/arm64"
pub fn platform(text: &str) -> Result<Platform, String> {
    let parsed: slipway_image::Platform = text
        .parse()
        .map_err(|e: slipway_image::platform::PlatformError| e.to_string())?;
    let shown = parsed.to_string();
    let mut parts = shown.split('/').map(str::to_owned);
    Ok(Platform {
        os: parts.next().unwrap_or_default(),
        architecture: parts.next().unwrap_or_default(),
        variant: parts.next().unwrap_or_default(),
        os_version: String::new(),
    })
}
