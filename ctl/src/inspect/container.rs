//! docker's JSON of a container.

use serde_json::{Map, Value, json};
use slipway_proto::{
    netd::v1::{Endpoint, PortBinding},
    runtime::v1::{
        ContainerDetails, ContainerSpec, ContainerState, ContainerStatus, DeviceNumber,
        HealthCheck, Mount,
    },
};

use crate::{
    cli::container::{protocol, state_word},
    output::human,
};

pub fn json(d: &ContainerDetails, size: bool) -> Value {
    let summary = d.summary.clone().unwrap_or_default();
    let spec = d.spec.clone().unwrap_or_default();
    let network = spec.network.clone().unwrap_or_default();
    let tty = spec.tty;
    let exposed: Map<String, Value> = summary
        .exposed
        .iter()
        .map(|p| (p.clone(), json!({})))
        .collect();
    let mounts: Vec<Value> = d
        .mounts
        .iter()
        .map(|m| json!({"Type": m.r#type, "Name": m.name, "Source": m.source, "Destination": m.destination, "Driver": m.driver, "Mode": m.mode, "RW": m.read_write, "Propagation": m.propagation}))
        .collect();
    let volumes: Map<String, Value> = d.volumes.iter().map(|v| (v.clone(), json!({}))).collect();
    let mut value = json!({
        "Id": summary.id,
        "Created": human::rfc3339(summary.created.as_ref()),
        "Path": d.path,
        "Args": d.args,
        "State": state(&summary.state.clone().unwrap_or_default()),
        "Image": summary.image_id,
        "ResolvConfPath": d.resolv_conf_path,
        "HostnamePath": d.hostname_path,
        "HostsPath": d.hosts_path,
        "LogPath": d.log_path,
        "Name": format!("/{}", summary.name),
        "RestartCount": d.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if d.exec_ids.is_empty() { Value::Null } else { json!(d.exec_ids) },
        "HostConfig": host_config(&spec),
        "GraphDriver": {"Data": d.graph_driver, "Name": "overlay2"},
        "Mounts": mounts,
        "Config": {
            "Hostname": d.hostname,
            "Domainname": spec.domainname,
            "User": d.user,
            "AttachStdin": spec.open_stdin && spec.stdin_once,
            "AttachStdout": true,
            "AttachStderr": true,
            "ExposedPorts": exposed,
            "Tty": tty,
            "OpenStdin": spec.open_stdin,
            "StdinOnce": spec.stdin_once,
            "Env": d.env,
            "Cmd": if d.command.is_empty() { Value::Null } else { json!(d.command) },
            "Image": spec.image,
            "Volumes": volumes,
            "WorkingDir": d.working_dir,
            "Entrypoint": if d.entrypoint.is_empty() { Value::Null } else { json!(d.entrypoint) },
            "OnBuild": null,
            "Labels": d.labels,
            "StopSignal": d.stop_signal,
        },
        "NetworkSettings": networks(&d.endpoints, &summary.ports, &summary.exposed),
    });
    if let Some(timeout) = spec.stop_timeout {
        value["Config"]["StopTimeout"] = timeout.into();
    }
    if let Some(health) = &d.health {
        value["Config"]["Healthcheck"] = healthcheck(health);
    }
    if !network.mac_address.is_empty() {
        value["Config"]["MacAddress"] = network.mac_address.into();
    }
    if size {
        value["SizeRw"] = summary.size_rw.into();
        value["SizeRootFs"] = summary.size_root.into();
    }
    value
}

fn state(s: &ContainerState) -> Value {
    let is = |status| s.status() == status;
    let mut value = json!({
        "Status": state_word(s),
        "Running": matches!(s.status(), ContainerStatus::Running | ContainerStatus::Paused | ContainerStatus::Restarting),
        "Paused": is(ContainerStatus::Paused),
        "Restarting": is(ContainerStatus::Restarting),
        "OOMKilled": s.oom_killed,
        "Dead": is(ContainerStatus::Dead),
        "Pid": s.pid,
        "ExitCode": s.exit_code,
        "Error": s.error,
        "StartedAt": human::rfc3339(s.started.as_ref()),
        "FinishedAt": human::rfc3339(s.finished.as_ref()),
    });
    if let Some(health) = s
        .health
        .as_ref()
        .filter(|h| !matches!(h.status.as_str(), "" | "none"))
    {
        let log: Vec<Value> = health
            .log
            .iter()
            .map(|r| json!({"Start": human::rfc3339(r.start.as_ref()), "End": human::rfc3339(r.end.as_ref()), "ExitCode": r.exit_code, "Output": r.output}))
            .collect();
        value["Health"] =
            json!({"Status": health.status, "FailingStreak": health.failing_streak, "Log": log});
    }
    value
}

fn nanos(span: Option<&prost_types::Duration>) -> i64 {
    span.map_or(0, |d| d.seconds * 1_000_000_000 + i64::from(d.nanos))
}

fn healthcheck(h: &HealthCheck) -> Value {
    json!({
        "Test": h.test, "Interval": nanos(h.interval.as_ref()), "Timeout": nanos(h.timeout.as_ref()),
        "StartPeriod": nanos(h.start_period.as_ref()), "StartInterval": nanos(h.start_interval.as_ref()), "Retries": h.retries,
    })
}

/// `{"80/tcp": [{"HostIp": "", "HostPort": "3000"}], "443/tcp": null}`
fn port_map(published: &[PortBinding], exposed: &[String], everywhere: &str) -> Value {
    let mut map: Map<String, Value> = exposed.iter().map(|p| (p.clone(), Value::Null)).collect();
    for port in published {
        let entry = map
            .entry(format!("{}/{}", port.container_port, protocol(port)))
            .or_insert(Value::Null);
        let address = if port.host_address.is_empty() {
            everywhere
        } else {
            &port.host_address
        };
        let host_port = if port.host_port == 0 {
            String::new()
        } else {
            port.host_port.to_string()
        };
        let binding = json!({"HostIp": address, "HostPort": host_port});
        match entry {
            Value::Array(list) => list.push(binding),
            other => *other = Value::Array(vec![binding]),
        }
    }
    Value::Object(map)
}

fn networks(endpoints: &[Endpoint], published: &[PortBinding], exposed: &[String]) -> Value {
    let one = |e: &Endpoint| {
        json!({
            "IPAMConfig": null, "Links": null, "Aliases": e.aliases, "MacAddress": e.mac_address, "DriverOpts": null,
            "NetworkID": e.network_id, "EndpointID": e.id, "Gateway": e.ipv4_gateway, "IPAddress": e.ipv4_address,
            "IPPrefixLen": e.ipv4_prefix_len, "IPv6Gateway": e.ipv6_gateway, "GlobalIPv6Address": e.ipv6_address,
            "GlobalIPv6PrefixLen": e.ipv6_prefix_len, "DNSNames": e.dns_names,
        })
    };
    let all: Map<String, Value> = endpoints
        .iter()
        .map(|e| (e.network_name.clone(), one(e)))
        .collect();
    let first = endpoints
        .iter()
        .find(|e| e.network_name == "bridge")
        .cloned()
        .unwrap_or_default();
    json!({
        "Bridge": "", "SandboxID": "", "SandboxKey": first.netns_path, "Ports": port_map(published, exposed, "0.0.0.0"),
        "EndpointID": first.id, "Gateway": first.ipv4_gateway, "GlobalIPv6Address": first.ipv6_address,
        "GlobalIPv6PrefixLen": first.ipv6_prefix_len, "IPAddress": first.ipv4_address, "IPPrefixLen": first.ipv4_prefix_len,
        "IPv6Gateway": first.ipv6_gateway, "MacAddress": first.mac_address, "Networks": all,
    })
}

fn binds(mounts: &[Mount]) -> Value {
    let binds: Vec<String> = mounts
        .iter()
        .filter(|m| m.create_source || m.r#type == "volume" && !m.source.is_empty())
        .map(|m| {
            format!(
                "{}:{}{}",
                m.source,
                m.target,
                if m.read_only { ":ro" } else { "" }
            )
        })
        .collect();
    if binds.is_empty() {
        Value::Null
    } else {
        json!(binds)
    }
}

/// `[{"Path": "/dev/sda", "Rate": 100}]`
fn numbers(devices: &[DeviceNumber], key: &str) -> Value {
    devices
        .iter()
        .map(|d| json!({"Path": d.path, key: d.number}))
        .collect()
}

fn host_config(s: &ContainerSpec) -> Value {
    let r = s.resources.clone().unwrap_or_default();
    let n = s.network.clone().unwrap_or_default();
    let log = s.log.clone().unwrap_or_default();
    let restart = s.restart.clone().unwrap_or_default();
    let list = |l: &[String]| if l.is_empty() { Value::Null } else { json!(l) };
    let or = |text: &str, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text.to_owned()
        }
    };
    let devices: Vec<Value> = s.devices.iter().map(|d| json!({"PathOnHost": d.host_path, "PathInContainer": d.container_path, "CgroupPermissions": d.permissions})).collect();
    let ulimits: Vec<Value> = s
        .ulimits
        .iter()
        .map(|u| json!({"Name": u.name, "Soft": u.soft, "Hard": u.hard}))
        .collect();
    let tmpfs: Map<String, Value> = s
        .mounts
        .iter()
        .filter(|m| m.r#type == "tmpfs")
        .map(|m| (m.target.clone(), m.tmpfs_options.clone().into()))
        .collect();
    json!({
        "Binds": binds(&s.mounts), "ContainerIDFile": "", "LogConfig": {"Type": or(&log.driver, "local"), "Config": log.options},
        "NetworkMode": or(&n.mode, "bridge"), "PortBindings": port_map(&n.ports, &[], ""),
        "RestartPolicy": {"Name": or(&restart.name, "no"), "MaximumRetryCount": restart.maximum_retry_count},
        "AutoRemove": s.auto_remove, "VolumeDriver": "", "VolumesFrom": list(&s.volumes_from), "CapAdd": list(&s.cap_add), "CapDrop": list(&s.cap_drop),
        "CgroupnsMode": or(&s.cgroupns_mode, "private"), "Dns": n.dns, "DnsOptions": n.dns_options, "DnsSearch": n.dns_search,
        "ExtraHosts": list(&n.extra_hosts), "GroupAdd": list(&s.group_add), "IpcMode": or(&s.ipc_mode, "private"), "Cgroup": "", "Links": null,
        "OomScoreAdj": s.oom_score_adj, "PidMode": s.pid_mode, "Privileged": s.privileged, "PublishAllPorts": n.publish_all, "ReadonlyRootfs": s.read_only,
        "SecurityOpt": list(&s.security_opt), "UTSMode": s.uts_mode, "UsernsMode": s.userns_mode,
        "ShmSize": if s.shm_size == 0 { 64 << 20 } else { s.shm_size }, "Runtime": or(&s.runtime, "slipway"), "Sysctls": s.sysctls, "Tmpfs": tmpfs,
        "CpuShares": r.cpu_shares, "Memory": r.memory, "NanoCpus": r.nano_cpus, "CgroupParent": s.cgroup_parent, "BlkioWeight": r.blkio_weight,
        "BlkioWeightDevice": numbers(&r.blkio_weight_device, "Weight"), "BlkioDeviceReadBps": numbers(&r.device_read_bps, "Rate"),
        "BlkioDeviceWriteBps": numbers(&r.device_write_bps, "Rate"), "BlkioDeviceReadIOps": numbers(&r.device_read_iops, "Rate"),
        "BlkioDeviceWriteIOps": numbers(&r.device_write_iops, "Rate"), "CpuRealtimePeriod": r.cpu_rt_period, "CpuRealtimeRuntime": r.cpu_rt_runtime,
        "CpuPeriod": r.cpu_period, "CpuQuota": r.cpu_quota, "CpusetCpus": r.cpuset_cpus, "CpusetMems": r.cpuset_mems, "Devices": devices,
        "DeviceCgroupRules": list(&s.device_cgroup_rules), "MemoryReservation": r.memory_reservation, "MemorySwap": r.memory_swap,
        "MemorySwappiness": r.memory_swappiness, "OomKillDisable": s.oom_kill_disable,
        "PidsLimit": if r.pids_limit == 0 { Value::Null } else { r.pids_limit.into() }, "Ulimits": ulimits, "Init": s.init,
        "StorageOpt": s.storage_opt, "Annotations": s.annotations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_that_scripts_read_are_there() {
        let details = ContainerDetails {
            endpoints: vec![Endpoint {
                network_name: "bridge".into(),
                ipv4_address: "172.17.0.2".into(),
                ..Endpoint::default()
            }],
            ..ContainerDetails::default()
        };
        let value = json(&details, true);
        for path in [
            "/Id",
            "/State/Running",
            "/State/Pid",
            "/State/ExitCode",
            "/Name",
            "/Config/Env",
            "/Config/Labels",
            "/Config/Cmd",
            "/HostConfig/PortBindings",
            "/HostConfig/RestartPolicy/Name",
            "/NetworkSettings/Ports",
            "/NetworkSettings/IPAddress",
            "/NetworkSettings/Networks/bridge/IPAddress",
            "/Mounts",
            "/SizeRw",
        ] {
            assert!(value.pointer(path).is_some(), "{path}");
        }
        assert_eq!(value["NetworkSettings"]["IPAddress"], "172.17.0.2");
    }

    #[test]
    fn ports_are_mapped_as_docker_does() {
        let port = PortBinding {
            container_port: 80,
            host_port: 3000,
            protocol: 1,
            ..PortBinding::default()
        };
        assert_eq!(
            port_map(&[port], &["80/tcp".into(), "443/tcp".into()], "0.0.0.0").to_string(),
            r#"{"443/tcp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"3000"}]}"#
        );
    }
}
