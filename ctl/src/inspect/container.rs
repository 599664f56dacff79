//! docker's JSON of a container.

use serde_json::{Map, Value, json};
use slipway_proto::runtime::v1::{
    ContainerDetails, ContainerState, ContainerStatus, HealthCheck, MountPoint,
};

use super::{host_config, network_settings};
use crate::{cli::container::state_word, output::human};

pub fn json(d: &ContainerDetails, size: bool) -> Value {
    let summary = d.summary.clone().unwrap_or_default();
    let state = summary.state.clone().unwrap_or_default();
    // docker knows where these are once they have been written.
    let began = state.started.is_some();
    let place = |path: &str| {
        if began {
            path.to_owned()
        } else {
            String::new()
        }
    };
    let mut value = json!({
        "Id": summary.id,
        "Created": human::rfc3339(summary.created.as_ref()),
        "Path": d.path,
        "Args": d.args,
        "State": self::state(&state),
        "Image": summary.image_id,
        "ResolvConfPath": place(&d.resolv_conf_path),
        "HostnamePath": place(&d.hostname_path),
        "HostsPath": place(&d.hosts_path),
        "LogPath": place(&d.log_path),
        "Name": format!("/{}", summary.name),
        "RestartCount": d.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": or_null(&d.exec_ids),
        "HostConfig": host_config::json(d),
        "GraphDriver": {"Data": d.graph_driver, "Name": "overlay2"},
        "Mounts": d.mounts.iter().map(mount_point).collect::<Vec<_>>(),
        "Config": config(d),
        "NetworkSettings": network_settings::json(d),
    });
    if size {
        value["SizeRw"] = summary.size_rw.into();
        value["SizeRootFs"] = summary.size_root.into();
    }
    value
}

fn or_null(words: &[String]) -> Value {
    if words.is_empty() {
        Value::Null
    } else {
        json!(words)
    }
}

fn mount_point(m: &MountPoint) -> Value {
    let mut value = json!({
        "Type": m.r#type, "Source": m.source, "Destination": m.destination, "Mode": m.mode,
        "RW": m.read_write, "Propagation": m.propagation,
    });
    for (key, text) in [("Name", &m.name), ("Driver", &m.driver)] {
        if !text.is_empty() {
            value[key] = text.clone().into();
        }
    }
    value
}

/// What it was made from, the image's part included.
fn config(d: &ContainerDetails) -> Value {
    let summary = d.summary.clone().unwrap_or_default();
    let spec = d.spec.clone().unwrap_or_default();
    let set = |words: &mut dyn Iterator<Item = String>| -> Map<String, Value> {
        words.map(|word| (word, json!({}))).collect()
    };
    let anonymous = spec.mounts.iter().filter(|m| m.anonymous && !m.inherited);
    let anonymous = anonymous.map(|m| m.target.clone());
    let volumes = set(&mut d.volumes.iter().cloned().chain(anonymous));
    let exposed = set(&mut summary.exposed.iter().cloned());
    let mut value = json!({
        "Hostname": d.hostname,
        "Domainname": spec.domainname,
        "User": d.user,
        "AttachStdin": spec.attach_stdin,
        "AttachStdout": spec.attach_stdout,
        "AttachStderr": spec.attach_stderr,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": or_null(&d.env),
        "Cmd": or_null(&d.command),
        "Image": spec.image,
        "Volumes": if volumes.is_empty() { Value::Null } else { volumes.into() },
        "WorkingDir": d.working_dir,
        "Entrypoint": or_null(&d.entrypoint),
        "OnBuild": null,
        "Labels": d.labels,
    });
    if !exposed.is_empty() {
        value["ExposedPorts"] = exposed.into();
    }
    if !d.stop_signal.is_empty() {
        value["StopSignal"] = d.stop_signal.clone().into();
    }
    if let Some(timeout) = spec.stop_timeout {
        value["StopTimeout"] = timeout.into();
    }
    if let Some(health) = d.health.as_ref().or(spec.health.as_ref()) {
        value["Healthcheck"] = healthcheck(health);
    }
    let mac = spec.network.unwrap_or_default().mac_address;
    if !mac.is_empty() {
        value["MacAddress"] = mac.into();
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

/// Without what is left to the defaults.
fn healthcheck(h: &HealthCheck) -> Value {
    let numbers = [
        ("Interval", nanos(h.interval.as_ref())),
        ("Timeout", nanos(h.timeout.as_ref())),
        ("StartPeriod", nanos(h.start_period.as_ref())),
        ("StartInterval", nanos(h.start_interval.as_ref())),
        ("Retries", h.retries.into()),
    ];
    let mut value = Map::new();
    if !h.test.is_empty() {
        value.insert("Test".to_owned(), json!(h.test));
    }
    for (key, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        value.insert(key.to_owned(), number.into());
    }
    value.into()
}

#[cfg(test)]
mod tests {
    use slipway_proto::netd::v1::Endpoint;

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
}
