//! docker's `HostConfig` of a container: what was asked for of the host.

use serde_json::{Map, Value, json};
use slipway_proto::runtime::v1::{ContainerDetails, ContainerSpec, DeviceNumber, Mount};

use super::network_settings::port_map;

/// `null` where docker has it for an empty list.
fn list(words: &[String]) -> Value {
    if words.is_empty() {
        Value::Null
    } else {
        json!(words)
    }
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

/// The keys that docker always has, then those that it has only when they say something.
pub fn json(d: &ContainerDetails) -> Value {
    let s = d.spec.clone().unwrap_or_default();
    let r = s.resources.clone().unwrap_or_default();
    let n = s.network.clone().unwrap_or_default();
    let log = s.log.clone().unwrap_or_default();
    let restart = s.restart.clone().unwrap_or_default();
    let size = s.terminal_size.unwrap_or_default();
    let devices: Vec<Value> = s
        .devices
        .iter()
        .map(|d| json!({"PathOnHost": d.host_path, "PathInContainer": d.container_path, "CgroupPermissions": d.permissions}))
        .collect();
    let ulimits: Vec<Value> = s
        .ulimits
        .iter()
        .map(|u| json!({"Name": u.name, "Hard": u.hard, "Soft": u.soft}))
        .collect();
    // moby, adaptContainerSettings: as much swap as memory.
    let swap = match r.memory_swap {
        0 if r.memory > 0 => r.memory * 2,
        swap => swap,
    };
    let (masked, read_only) = match s.privileged {
        true => (Value::Null, Value::Null),
        false => (json!(d.masked_paths), json!(d.readonly_paths)),
    };
    let mut value = json!({
        "Binds": list(&binds(&s.mounts)), "ContainerIDFile": s.container_id_file,
        "LogConfig": {"Type": or(&log.driver, "local"), "Config": log.options},
        "NetworkMode": or(&n.mode, "bridge"), "PortBindings": port_map(&n.ports, &[], |port| vec![&port.host_address]),
        "RestartPolicy": {"Name": or(&restart.name, "no"), "MaximumRetryCount": restart.maximum_retry_count},
        "AutoRemove": s.auto_remove, "VolumeDriver": "", "VolumesFrom": list(&s.volumes_from),
        "ConsoleSize": [size.rows, size.columns], "CapAdd": list(&capabilities(&s.cap_add)), "CapDrop": list(&capabilities(&s.cap_drop)),
        "CgroupnsMode": or(&s.cgroupns_mode, "private"), "Dns": n.dns, "DnsOptions": n.dns_options, "DnsSearch": n.dns_search,
        "ExtraHosts": list(&n.extra_hosts), "GroupAdd": list(&s.group_add), "IpcMode": or(&s.ipc_mode, "private"), "Cgroup": "",
        "Links": null, "OomScoreAdj": s.oom_score_adj, "PidMode": s.pid_mode, "Privileged": s.privileged,
        "PublishAllPorts": n.publish_all, "ReadonlyRootfs": s.read_only, "SecurityOpt": list(&security(&s)),
        "UTSMode": s.uts_mode, "UsernsMode": s.userns_mode, "ShmSize": if s.shm_size == 0 { 64 << 20 } else { s.shm_size },
        "Runtime": or(&s.runtime, "slipway"), "Isolation": "", "CpuShares": r.cpu_shares, "Memory": r.memory,
        "NanoCpus": r.nano_cpus, "CgroupParent": s.cgroup_parent, "BlkioWeight": r.blkio_weight, "BlkioWeightDevice": per_device(&r.blkio_weight_device, "Weight"),
        "BlkioDeviceReadBps": per_device(&r.device_read_bps, "Rate"), "BlkioDeviceWriteBps": per_device(&r.device_write_bps, "Rate"),
        "BlkioDeviceReadIOps": per_device(&r.device_read_iops, "Rate"), "BlkioDeviceWriteIOps": per_device(&r.device_write_iops, "Rate"),
        "CpuPeriod": r.cpu_period, "CpuQuota": r.cpu_quota, "CpuRealtimePeriod": r.cpu_rt_period, "CpuRealtimeRuntime": r.cpu_rt_runtime,
        "CpusetCpus": r.cpuset_cpus, "CpusetMems": r.cpuset_mems, "Devices": devices,
        "DeviceCgroupRules": list(&s.device_cgroup_rules), "DeviceRequests": null, "MemoryReservation": r.memory_reservation,
        "MemorySwap": swap, "MemorySwappiness": r.memory_swappiness,
        // v2 has no such switch: docker forgets it there.
        "OomKillDisable": if d.cgroup_version == 2 { Value::Null } else { s.oom_kill_disable.into() },
        "PidsLimit": if r.pids_limit == 0 { Value::Null } else { r.pids_limit.into() }, "Ulimits": ulimits,
        "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
        "MaskedPaths": masked, "ReadonlyPaths": read_only,
    });
    let tmpfs = s.mounts.iter().filter(|m| m.r#type == "tmpfs");
    let tmpfs: Map<String, Value> = tmpfs
        .filter(|m| !m.long_form)
        .map(|m| (m.target.clone(), m.tmpfs_options.clone().into()))
        .collect();
    let long = s.mounts.iter().filter(|m| m.long_form && !m.inherited);
    let mounts: Vec<Value> = long.map(mount).collect();
    let more = [
        ("Tmpfs", json!(tmpfs), tmpfs.is_empty()),
        ("Sysctls", json!(s.sysctls), s.sysctls.is_empty()),
        ("StorageOpt", json!(s.storage_opt), s.storage_opt.is_empty()),
        (
            "Annotations",
            json!(s.annotations),
            s.annotations.is_empty(),
        ),
        ("Mounts", json!(mounts), mounts.is_empty()),
        ("Init", s.init.into(), !s.init),
    ];
    for (key, says, empty) in more {
        if !empty {
            value[key] = says;
        }
    }
    value
}

fn per_device(list: &[DeviceNumber], key: &str) -> Vec<Value> {
    let one = |d: &DeviceNumber| json!({"Path": d.path, key: d.number});
    list.iter().map(one).collect()
}

/// `-v` with a source, as it was written.
fn binds(mounts: &[Mount]) -> Vec<String> {
    let written = |m: &&Mount| {
        matches!(m.r#type.as_str(), "bind" | "volume")
            && !(m.long_form || m.inherited || m.anonymous || m.source.is_empty())
    };
    let text = |m: &Mount| match m.mode.as_str() {
        "" => format!("{}:{}", m.source, m.target),
        mode => format!("{}:{}:{mode}", m.source, m.target),
    };
    mounts.iter().filter(written).map(text).collect()
}

/// `--mount`, in the words of docker's API.
fn mount(m: &Mount) -> Value {
    let mut value = json!({"Type": m.r#type, "Target": m.target});
    if !m.source.is_empty() && !m.anonymous {
        value["Source"] = m.source.clone().into();
    }
    if m.read_only {
        value["ReadOnly"] = true.into();
    }
    let mut options = Map::new();
    let mut say = |key: &str, says: Value, empty: bool| {
        if !empty {
            options.insert(key.to_owned(), says);
        }
    };
    let key = match m.r#type.as_str() {
        "bind" => {
            say(
                "Propagation",
                json!(m.propagation),
                m.propagation.is_empty(),
            );
            say("NonRecursive", true.into(), !m.non_recursive);
            say("CreateMountpoint", true.into(), !m.create_source);
            say(
                "ReadOnlyNonRecursive",
                true.into(),
                !m.read_only_non_recursive,
            );
            "BindOptions"
        }
        "tmpfs" => {
            say("SizeBytes", m.tmpfs_size.into(), m.tmpfs_size == 0);
            say("Mode", m.tmpfs_mode.into(), m.tmpfs_mode == 0);
            "TmpfsOptions"
        }
        "volume" => {
            say("NoCopy", true.into(), !m.no_copy);
            say("Labels", json!(m.volume_labels), m.volume_labels.is_empty());
            say("Subpath", json!(m.subpath), m.subpath.is_empty());
            let mut driver = Map::new();
            if !m.volume_driver.is_empty() {
                driver.insert("Name".to_owned(), json!(m.volume_driver));
            }
            if !m.volume_options.is_empty() {
                driver.insert("Options".to_owned(), json!(m.volume_options));
            }
            if !driver.is_empty() || !options.is_empty() {
                options.insert("DriverConfig".to_owned(), driver.into());
            }
            "VolumeOptions"
        }
        _ => {
            say("Subpath", json!(m.subpath), m.subpath.is_empty());
            "ImageOptions"
        }
    };
    if !options.is_empty() {
        value[key] = options.into();
    }
    value
}

/// docker's client writes capabilities out, sorted (opts.EffectiveCapAddCapDrop).
fn capabilities(words: &[String]) -> Vec<String> {
    let whole = |word: &String| match word.to_ascii_uppercase() {
        all if all == "ALL" || all.starts_with("CAP_") => all,
        short => format!("CAP_{short}"),
    };
    let mut all: Vec<String> = words.iter().map(whole).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Without what became paths; with what docker adds for those who share the host's processes.
fn security(s: &ContainerSpec) -> Vec<String> {
    let told = |o: &&String| *o != "systempaths=unconfined";
    let mut all: Vec<String> = s.security_opt.iter().filter(told).cloned().collect();
    let shares = s.privileged || s.pid_mode == "host" || s.ipc_mode == "host";
    if shares && !all.iter().any(|o| o.starts_with("label")) {
        all.push("label=disable".to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_the_form_they_were_asked_for() {
        let bind = Mount {
            r#type: "bind".into(),
            source: "/a".into(),
            target: "/b".into(),
            mode: "ro".into(),
            ..Mount::default()
        };
        let volume = Mount {
            r#type: "volume".into(),
            source: "v".into(),
            target: "/v".into(),
            long_form: true,
            no_copy: true,
            ..Mount::default()
        };
        let anonymous = Mount {
            r#type: "volume".into(),
            source: "0123".into(),
            target: "/n".into(),
            anonymous: true,
            ..Mount::default()
        };
        let spec = ContainerSpec {
            mounts: vec![bind, volume, anonymous],
            ..ContainerSpec::default()
        };
        let value = json(&ContainerDetails {
            spec: Some(spec),
            ..ContainerDetails::default()
        });
        assert_eq!(value["Binds"], json!(["/a:/b:ro"]));
        let long = json!([{"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"NoCopy": true, "DriverConfig": {}}}]);
        assert_eq!(value["Mounts"], long);
        assert_eq!(value.get("Tmpfs"), None);
    }

    #[test]
    fn capabilities_are_written_out() {
        let words = [
            "sys_time".to_owned(),
            "CAP_CHOWN".to_owned(),
            "ALL".to_owned(),
        ];
        assert_eq!(capabilities(&words), ["ALL", "CAP_CHOWN", "CAP_SYS_TIME"]);
    }
}
