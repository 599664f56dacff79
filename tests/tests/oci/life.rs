//! Life of a container: every verb, whatever state it is in.

use super::*;

#[tokio::test]
async fn the_life_of_a_container() {
    let Some(oci) = Oci::new() else { return };
    let bundle = oci.bundle(
        "life",
        "echo begun; trap 'exit 4' USR1; while :; do sleep 0.1; done",
        |c| {
            c["annotations"] = json!({"a.b": "c"});
        },
    );
    let out = oci.site.path("container.out");
    let pid_file = oci.site.path("pid");
    let words = [
        "create",
        "--bundle",
        path(&bundle),
        "--pid-file",
        path(&pid_file),
        "life",
    ];
    let created = oci
        .command(&words)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .status()
        .unwrap();
    assert!(created.success());
    let state = oci.state("life");
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    for (key, value) in [
        ("ociVersion", "1.2.0"),
        ("id", "life"),
        ("status", "created"),
        ("bundle", path(&bundle)),
    ] {
        assert_eq!(state[key], value, "{state}");
    }
    assert_eq!(state["annotations"], json!({"a.b": "c"}));
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "",
        "the program must wait"
    );
    // The first process is an orphan of the call: nobody stands between it and its caller.
    let environment = fs::read(format!("/proc/{pid}/environ"));
    assert!(environment.is_ok(), "the first process is not there");
    assert!(
        oci.fails(&["create", "--bundle", path(&bundle), "life"])
            .contains("exists")
    );

    oci.ok(&["start", "life"]);
    assert_eq!(oci.status("life"), "running");
    eventually("the program has begun", async || {
        (fs::read_to_string(&out).unwrap() == "begun\n").then_some(())
    })
    .await;
    assert!(oci.fails(&["start", "life"]).contains("has been started"));
    assert!(oci.fails(&["delete", "life"]).contains("not stopped"));

    let said = oci.call(&[
        "exec",
        "-e",
        "WORD=x",
        "life",
        "sh",
        "-c",
        "echo $WORD; readlink /proc/1/exe; exit 3",
    ]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (3, "x\n/bin/busybox\n"),
        "{}",
        said.err
    );
    let said = oci.call(&["exec", "life", "nonsense"]);
    assert!(
        said.code == 255 && said.err.contains("executable file not found in $PATH"),
        "{}",
        said.err
    );
    let exec_pid = oci.site.path("exec-pid");
    oci.ok(&[
        "exec",
        "--detach",
        "--pid-file",
        path(&exec_pid),
        "life",
        "sleep",
        "100",
    ]);
    let exec_pid = fs::read_to_string(exec_pid).unwrap();
    let pids: Vec<i64> =
        serde_json::from_str(&oci.ok(&["ps", "--format", "json", "life"])).unwrap();
    assert!(
        pids.iter().any(|p| p.to_string() == exec_pid) && pids.iter().any(|p| p.to_string() == pid)
    );
    assert!(oci.ok(&["ps", "life"]).contains("sleep 100"));
    assert!(oci.ok(&["list"]).contains("running"));
    let all: Value = serde_json::from_str(&oci.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!(all[0]["id"], "life");

    oci.ok(&["pause", "life"]);
    assert_eq!(oci.status("life"), "paused");
    assert!(oci.fails(&["exec", "life", "true"]).contains("paused"));
    oci.ok(&["resume", "life"]);
    assert!(oci.fails(&["resume", "life"]).contains("not paused"));
    let stats: Value = serde_json::from_str(&oci.ok(&["events", "--stats", "life"])).unwrap();
    assert!(
        stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0,
        "{stats}"
    );

    oci.ok(&["kill", "life", "USR1"]);
    eventually("it has stopped", async || {
        (oci.status("life") == "stopped").then_some(())
    })
    .await;
    assert_eq!(oci.state("life")["pid"], 0);
    assert!(
        oci.fails(&["kill", "life", "9"])
            .contains("container not running")
    );
    assert!(oci.fails(&["exec", "life", "true"]).contains("not running"));
    assert!(oci.fails(&["start", "life"]).contains("has stopped"));
    oci.ok(&["delete", "life"]);
    oci.is_gone("life");
    for verb in ["state", "start", "delete", "pause"] {
        assert!(oci.fails(&[verb, "life"]).contains("does not exist"));
    }
    oci.ok(&["delete", "--force", "life"]);
}

#[tokio::test]
async fn containers_are_deleted_in_whatever_state() {
    let Some(oci) = Oci::new() else { return };
    let bundle = oci.bundle("b", "sleep 1000 & sleep 1000", |_| ());
    oci.ok(&["create", "--bundle", path(&bundle), "b"]);
    // Made and never started: it counts as stopped, as with runc.
    oci.ok(&["delete", "b"]);
    oci.is_gone("b");
    oci.ok(&["run", "--detach", "--bundle", path(&bundle), "b"]);
    oci.ok(&["pause", "b"]);
    oci.ok(&["delete", "--force", "b"]);
    oci.is_gone("b");

    // Without a process namespace of its own the others do not go with the first one.
    let bundle = oci.bundle("shared", "sleep 1001 & sleep 1002", |c| {
        remove_namespace(c, "pid")
    });
    oci.ok(&["run", "--detach", "--bundle", path(&bundle), "shared"]);
    eventually("both run", async || {
        let pids: Vec<i64> =
            serde_json::from_str(&oci.ok(&["ps", "-f", "json", "shared"])).unwrap();
        (pids.len() >= 2).then_some(())
    })
    .await;
    oci.ok(&["kill", "--all", "shared", "KILL"]);
    eventually("all are gone", async || {
        (oci.ok(&["ps", "-f", "json", "shared"]).trim() == "[]").then_some(())
    })
    .await;
    oci.ok(&["delete", "shared"]);
    oci.is_gone("shared");
}

#[tokio::test]
async fn a_maker_that_is_killed_leaves_nothing_that_cannot_be_deleted() {
    let Some(oci) = Oci::new() else { return };
    let mark = oci.site.path("hooked");
    let script = format!("touch {}; exec sleep 1000", mark.display());
    let bundle = oci.bundle("cut", "true", |c| {
        c["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    let mut making = oci
        .command(&["create", "--bundle", path(&bundle), "cut"])
        .spawn()
        .unwrap();
    eventually("the hook runs", async || mark.exists().then_some(())).await;
    making.kill().unwrap();
    making.wait().unwrap();
    assert_eq!(oci.status("cut"), "creating");
    assert!(oci.fails(&["start", "cut"]).contains("cut off"));
    oci.ok(&["delete", "--force", "cut"]);
    oci.is_gone("cut");
}
