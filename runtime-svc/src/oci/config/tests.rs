use super::*;

fn planned(change: impl FnOnce(&mut serde_json::Value)) -> Result<Container, String> {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::create_dir(bundle.path().join("rootfs")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(include_str!("example.json")).unwrap();
    change(&mut json);
    let path = bundle.path().join("config.json");
    std::fs::write(path, json.to_string()).unwrap();
    load(bundle.path(), "id", Options::default()).map_err(|e| e.to_string())
}

#[test]
fn the_example_is_understood() {
    let made = planned(|_| ()).unwrap();
    assert_eq!(made.plan.process.args, ["sh"]);
    assert_eq!(made.plan.cgroup.path, "slipway-oci/id");
    assert!(made.plan.readonly_root && made.plan.own_dev && !made.plan.hooks.ask);
    assert!(matches!(made.plan.stdio, Stdio::Terminal { .. }));
    assert!(!made.plan.cgroup.all_devices && made.plan.cgroup.devices.is_empty());
}

#[test]
fn what_is_wrong_is_said() {
    let with = |pointer: &'static str, value: serde_json::Value| {
        planned(move |json| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[key] = value;
        })
        .unwrap_err()
    };
    use serde_json::json;
    for (pointer, value, said) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/ociVersion", json!("one"), "ociVersion"),
        ("/root/path", json!("nowhere"), "root file system"),
        ("/root/path", json!("/"), "host's root"),
        ("/root/path", json!("config.json"), "not a folder"),
        ("/process/args", json!([]), "no program"),
        ("/process/cwd", json!("x"), "absolute"),
        ("/process/env", json!(["X"]), "NAME=value"),
        ("/process/selinuxLabel", json!("x"), "SELinux"),
        (
            "/process/rlimits",
            json!([{"type":"RLIMIT_NOFILE","soft":2,"hard":1}]),
            "above",
        ),
        (
            "/process/ioPriority",
            json!({"class":"IOPRIO_CLASS_BE","priority":9}),
            "0 to 7",
        ),
        (
            "/linux/namespaces",
            json!([{"type":"pid"}]),
            "mount namespace",
        ),
        (
            "/linux/namespaces",
            json!([{"type":"mount"},{"type":"mount"}]),
            "twice",
        ),
        (
            "/linux/namespaces",
            json!([{"type":"mount"},{"type":"uts"},{"type":"user"}]),
            "uidMappings",
        ),
        ("/linux/namespaces", json!([{"type":"mount"}]), "hostname"),
        ("/linux/sysctl", json!({"kernel.panic":"1"}), "not allowed"),
        (
            "/linux/timeOffsets",
            json!({"boottime":{"secs":1}}),
            "timeOffsets",
        ),
        ("/linux/mountLabel", json!("x"), "SELinux"),
        ("/linux/intelRdt", json!({}), "intelRdt"),
        ("/linux/rootfsPropagation", json!("up"), "rootfsPropagation"),
        ("/linux/maskedPaths", json!(["proc"]), "absolute"),
        (
            "/linux/devices",
            json!([{"path":"x","type":"c","major":1,"minor":3}]),
            "absolute",
        ),
        (
            "/linux/resources",
            json!({"unified":{"../x":"1"}}),
            "unified",
        ),
        ("/hooks", json!({"poststop":[{"path":"x"}]}), "absolute"),
        (
            "/hooks",
            json!({"poststop":[{"path":"/x","timeout":0}]}),
            "timeout",
        ),
        ("/hooks", json!(7), "not understood"),
    ] {
        let error = with(pointer, value);
        assert!(error.contains(said), "{pointer}: {error}");
    }
}

#[test]
fn a_config_that_is_no_file_is_not_read() {
    let bundle = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", bundle.path().join("config.json")).unwrap();
    let error = load(bundle.path(), "id", Options::default()).unwrap_err();
    assert!(error.to_string().contains("regular file"), "{error}");
}
