//! Hooks: their order, namespaces and failures.

use super::*;

#[tokio::test]
async fn hooks_run_in_their_order_and_namespaces() {
    let Some(oci) = Oci::new() else { return };
    let log = oci.site.path("hooks.log");
    let write = |name: &str| {
        let script = format!(
            "echo {name} $(readlink /proc/self/ns/mnt) $(cat) >> {}",
            log.display()
        );
        json!([{"path": "/bin/sh", "args": ["hook", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 20}])
    };
    let names = [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ];
    let bundle = oci.bundle("hooks", "echo program; sleep 1000", |c| {
        for name in names {
            c["hooks"][name] = write(name);
        }
        // Inside, so that it is the container's shell, and the container's file.
        c["hooks"]["startContainer"] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/state"], "env": ["PATH=/bin"]}]);
        c["root"]["readonly"] = json!(false);
    });
    let lines = || {
        fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    oci.ok(&["create", "--bundle", path(&bundle), "hooks"]);
    assert_eq!(lines().len(), 3);
    assert!(!bundle.join("rootfs/tmp/state").exists());
    oci.ok(&["start", "hooks"]);
    assert_eq!(lines().len(), 4);
    let pid = oci.state("hooks")["pid"].clone();
    let inside: Value =
        serde_json::from_slice(&fs::read(bundle.join("rootfs/tmp/state")).unwrap()).unwrap();
    assert_eq!(
        (&inside["pid"], &inside["status"]),
        (&json!(1), &json!("created"))
    );
    oci.ok(&["delete", "--force", "hooks"]);
    let host = fs::read_link("/proc/self/ns/mnt").unwrap();
    let lines = lines();
    assert_eq!(lines.len(), 5, "{lines:?}");
    for (line, name) in lines.iter().zip(names) {
        let mut words = line.splitn(3, ' ');
        assert_eq!(words.next(), Some(name));
        let namespace = words.next().unwrap();
        assert_eq!(
            namespace == path(&host),
            name != "createContainer",
            "{line}"
        );
        let state: Value = serde_json::from_str(words.next().unwrap()).unwrap();
        assert_eq!(
            (&state["id"], &state["ociVersion"]),
            (&json!("hooks"), &json!("1.2.0"))
        );
        assert_eq!(state["bundle"], path(&bundle));
        let (status, number) = match name {
            "poststart" => ("running", pid.clone()),
            "poststop" => ("stopped", Value::Null),
            "createContainer" => ("creating", json!(1)),
            _ => ("creating", pid.clone()),
        };
        assert_eq!(
            (&state["status"], &state["pid"]),
            (&json!(status), &number),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_hook_that_fails_stops_its_container() {
    let Some(oci) = Oci::new() else { return };
    let gone = oci.site.path("poststop");
    let failing = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck; exit 5"]}]);
    for name in ["prestart", "createRuntime", "createContainer"] {
        let script = format!("touch {}-{name}", gone.display());
        let bundle = oci.bundle(name, "true", |c| {
            c["hooks"][name] = failing.clone();
            c["hooks"]["poststop"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
        });
        let error = oci.fails(&["create", "--bundle", path(&bundle), name]);
        assert!(error.contains(name) && error.contains("no luck"), "{error}");
        oci.is_gone(name);
    }
    for name in ["startContainer", "poststart"] {
        let bundle = oci.bundle(name, "sleep 1000", |c| c["hooks"][name] = failing.clone());
        oci.ok(&["create", "--bundle", path(&bundle), name]);
        let error = oci.fails(&["start", name]);
        assert!(error.contains(name) && error.contains("no luck"), "{error}");
        eventually("it has stopped", async || {
            (oci.status(name) == "stopped").then_some(())
        })
        .await;
        oci.ok(&["delete", name]);
        oci.is_gone(name);
    }
    let bundle = oci.bundle("slow", "true", |c| {
        c["hooks"] = json!({"prestart": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    });
    let begun = Instant::now();
    assert!(
        oci.fails(&["run", "--bundle", path(&bundle), "slow"])
            .contains("timeout")
    );
    assert!(begun.elapsed().as_secs() < 50);
    // One that fails in the end is only told of.
    let said = oci.run("late", "true", |c| {
        c["hooks"] = json!({"poststop": failing})
    });
    assert!(
        said.code == 0 && said.err.contains("poststop"),
        "{}",
        said.err
    );
}
