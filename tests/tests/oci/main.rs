//! The OCI runtime command line: verbs, hooks, and what config.json can say. What the specification's own
//! validation programs check (opencontainers/runtime-tools, `runtimetest`) is checked from inside here.

mod confined;

use std::{fs, io::Read as _, os::unix::fs::symlink, path::Path, process::Stdio, time::Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};
use slipway_tests::{Oci, eventually};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

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

fn remove_namespace(config: &mut Value, typ: &str) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != typ);
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

#[tokio::test]
async fn the_process_is_what_config_json_says() {
    let Some(oci) = Oci::new() else { return };
    let script = "id -u; id -g; id -G; umask; pwd; echo $WORD; hostname
        grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -s '\\t ' ' '
        ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; uname -m";
    let said = oci.run("process", script, |c| {
        c["hostname"] = json!("inside");
        c["process"]["user"] =
            json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27});
        c["process"]["cwd"] = json!("/made/for/it");
        c["root"]["readonly"] = json!(false);
        c["process"]["env"] = json!(["PATH=/bin", "WORD=a word"]);
        c["process"]["noNewPrivileges"] = json!(true);
        c["process"]["oomScoreAdj"] = json!(500);
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        c["process"]["capabilities"] = json!({
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
            "effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        });
        c["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    let machine = if cfg!(target_arch = "aarch64") {
        "armv8l"
    } else {
        "i686"
    };
    // The program gets what exec(2) leaves of the sets: only what is ambient.
    let expected = format!(
        "1000\n1001\n1001 5 6\n0027\n/made/for/it\na word\ninside\nCapInh: 0000000000000020\n\
         CapPrm: 0000000000000020\nCapEff: 0000000000000020\nCapBnd: 0000000000000421\n\
         CapAmb: 0000000000000020\nNoNewPrivs: 1\nSeccomp: 0\n100\n200\n500\n{machine}\n"
    );
    assert_eq!((said.out, said.code), (expected, 0), "{}", said.err);

    let said = oci.run(
        "tuned",
        "grep -w policy /proc/1/sched; sed 's/.*) //' /proc/1/stat | cut -d' ' -f 17",
        |c| {
            c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
            c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
        },
    );
    assert!(
        said.out.contains("3") || said.out.contains("25"),
        "{} {}",
        said.out,
        said.err
    );

    // Groups of the user's own are just those that are asked for, and HOME is the passwd file's.
    let said = oci.run("home", "id -G; echo $HOME", |c| {
        c["process"]["user"] = json!({"uid": 7, "gid": 8});
        let etc = oci.site.path("home/rootfs/etc");
        fs::write(
            etc.join("passwd"),
            "root:x:0:0::/root:\nseven:x:7:9::/home/seven:\n",
        )
        .unwrap();
        fs::write(etc.join("group"), "more:x:99:seven\n").unwrap();
    });
    assert_eq!(said.out, "8\n/home/seven\n", "{}", said.err);

    for (args, code, error) in [
        (json!(["nonsense"]), 1, "executable file not found in $PATH"),
        (json!(["/etc"]), 1, "is a directory"),
        (json!(["/etc/text"]), 1, "permission denied"),
    ] {
        let said = oci.run("wrong", "", |c| {
            fs::write(oci.site.path("wrong/rootfs/etc/text"), "text").unwrap();
            c["process"]["args"] = args;
        });
        assert!(
            said.code == code && said.err.contains(error),
            "{} {}",
            said.code,
            said.err
        );
        fs::remove_dir_all(oci.site.path("wrong")).unwrap();
    }
}

#[tokio::test]
async fn the_root_file_system_is_what_config_json_says() {
    let Some(oci) = Oci::new() else { return };
    let data = oci.site.path("data");
    fs::create_dir_all(data.join("below")).unwrap();
    fs::write(data.join("file"), "hi").unwrap();
    let script = "
        touch /x 2>/dev/null || echo readonly
        touch /data/x 2>/dev/null || echo data-readonly
        cat /data/file; echo
        cat /one
        touch /rw/y && echo rw-written
        cat /proc/kcore | wc -c
        ls /sys/firmware | wc -l
        cat /etc/masked | wc -c
        echo 1 2>/dev/null > /proc/sys/kernel/shmmax || echo sys-readonly
        cat /proc/sys/kernel/shm_rmid_forced
        cat /up/kept; stat -c %a /up; touch /up/new && echo copied-up
        stat -c '%F %t,%T %a' /dev/null /dev/mine; test -p /dev/fifo && echo fifo
        readlink /dev/fd; readlink /dev/ptmx
        grep -c ' /noexec ' /proc/self/mounts; /noexec/true 2>/dev/null || echo noexec
        mount | grep -c 'on /bound .*noatime'
        kill -0 1; mkdir /tmp/m 2>&1 | head -c 9";
    let said = oci.run("root", script, |c| {
        let rootfs = oci.site.path("root/rootfs");
        fs::create_dir_all(rootfs.join("up")).unwrap();
        fs::write(rootfs.join("up/kept"), "kept\n").unwrap();
        fs::write(rootfs.join("etc/masked"), "secret").unwrap();
        let mounts = c["mounts"].as_array_mut().unwrap();
        let data = path(&data);
        mounts.extend([
            json!({"destination": "/data", "type": "bind", "source": data, "options": ["rbind", "rro"]}),
            json!({"destination": "/one", "type": "none", "source": format!("{data}/file"), "options": ["bind", "ro"]}),
            json!({"destination": "/rw", "type": "bind", "source": data, "options": ["bind", "rw", "rprivate"]}),
            json!({"destination": "/bound", "type": "bind", "source": data, "options": ["bind", "noatime"]}),
            json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}),
            json!({"destination": "/noexec", "type": "bind", "source": rootfs.join("bin"), "options": ["bind", "noexec"]}),
        ]);
        c["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/etc/masked"));
        c["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1"});
        c["linux"]["devices"] = json!([
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 0, "gid": 0},
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o622},
        ]);
        // mkdir is refused with a number of its own; anything else goes on.
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
    });
    let expected = "readonly\ndata-readonly\nhi\nhirw-written\n0\n0\n0\nsys-readonly\n1\nkept\n755\ncopied-up\n\
        character special file 1,3 666\ncharacter special file 1,5 600\nfifo\n/proc/self/fd\npts/ptmx\n1\nnoexec\n1\nmkdir: ca";
    assert_eq!(said.out, expected, "{}", said.err);
    assert!(data.join("y").exists() && !oci.site.path("root/rootfs/up/new").exists());
}

#[tokio::test]
async fn a_tight_filter_is_no_hindrance() {
    let Some(oci) = Oci::new() else { return };
    // What runc needs of it as well, and what busybox does. Without no_new_privs it is in force early.
    let allowed = "execve read write close capset capget prctl setgroups setresuid setresgid openat2 fstat \
        exit_group brk mmap mprotect arch_prctl getuid rt_sigaction fcntl set_tid_address getpid";
    for privileges in [false, true] {
        for verb in ["run", "create"] {
            let bundle = oci.bundle("tight", "", |c| {
                c["process"]["args"] = json!(["echo", "hi"]);
                c["process"]["noNewPrivileges"] = json!(!privileges);
                c["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{
                        "names": allowed.split_whitespace().collect::<Vec<_>>(),
                        "action": "SCMP_ACT_ALLOW",
                    }],
                });
            });
            let said = oci.call(&[verb, "--bundle", path(&bundle), "tight"]);
            assert_eq!(said.code, 0, "{verb} {privileges}: {}", said.err);
            if verb == "create" {
                oci.ok(&["start", "tight"]);
                eventually("it has ended", async || {
                    (oci.status("tight") == "stopped").then_some(())
                })
                .await;
                oci.ok(&["delete", "tight"]);
            } else {
                assert_eq!(said.out, "hi\n", "{}", said.err);
            }
            fs::remove_dir_all(&bundle).unwrap();
        }
    }
}

#[tokio::test]
async fn limits_and_devices_are_the_kernels() {
    let Some(oci) = Oci::new() else { return };
    let bundle = oci.bundle("limits", "sleep 1000", |c| {
        c["linux"]["resources"] = json!({
            "memory": {"limit": 67108864_i64},
            "pids": {"limit": 50},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000},
            "devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            ],
        });
    });
    oci.ok(&["run", "-d", "--bundle", path(&bundle), "limits"]);
    let read = |v1: &str, v2: &str| {
        let groups = oci.cgroups("limits");
        let found = groups.iter().find_map(|g| {
            fs::read_to_string(g.join(v1))
                .or_else(|_| fs::read_to_string(g.join(v2)))
                .ok()
        });
        found.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(read("pids.max", "pids.max"), "50");
    assert!(["512", "59"].contains(&read("cpu.shares", "cpu.weight").as_str()));
    // A disk may be made, which docker's default allows, but not read; /dev/null may.
    let script = "mknod /dev/disk b 7 0; head -c 1 /dev/disk >/dev/null 2>&1 || echo denied";
    let said = oci.call(&["exec", "--cap", "CAP_MKNOD", "limits", "sh", "-c", script]);
    assert_eq!(said.out, "denied\n", "{}", said.err);

    let mut update = oci.command(&["update", "--resources", "-", "limits"]);
    let mut update = update.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = update.stdin.take().unwrap();
    std::io::Write::write_all(
        &mut input,
        br#"{"memory":{"limit":134217728},"pids":{"limit":-1}}"#,
    )
    .unwrap();
    drop(input);
    assert!(update.wait().unwrap().success());
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), "134217728");
    assert_eq!(read("pids.max", "pids.max"), "max");
    oci.ok(&["update", "--pids-limit", "60", "limits"]);
    assert_eq!(read("pids.max", "pids.max"), "60");
    // A group that is somebody's already is not taken.
    let other = oci.bundle("other", "true", |c| {
        let taken = oci.cgroups("limits")[0].clone();
        let mut parts = taken.iter().rev().map(|p| p.to_str().unwrap());
        let (name, parent) = (parts.next().unwrap(), parts.next().unwrap());
        c["linux"]["cgroupsPath"] = json!(format!("/{parent}/{name}"));
    });
    assert!(
        oci.fails(&["run", "--bundle", path(&other), "other"])
            .contains("not empty")
    );
    oci.ok(&["delete", "-f", "limits"]);
    oci.is_gone("limits");

    let said = oci.run(
        "open",
        "head -c 1 /dev/zero | wc -c; head -c 1 /dev/random >/dev/null 2>&1 || echo denied",
        |c| {
            c["linux"]["resources"] = json!({"devices": [
                {"allow": true, "access": "rwm"},
                {"allow": false, "type": "c", "major": 1, "minor": 8, "access": "r"},
            ]});
        },
    );
    assert_eq!(said.out, "1\ndenied\n", "{}", said.err);
}

#[tokio::test]
async fn namespaces_are_new_joined_or_the_callers() {
    let Some(oci) = Oci::new() else { return };
    let kinds = "for n in cgroup ipc mnt net pid uts user time; do readlink /proc/self/ns/$n; done";
    let first = oci.bundle("first", "sleep 1000", |c| c["hostname"] = json!("first"));
    oci.ok(&["run", "-d", "--bundle", path(&first), "first"]);
    let pid = oci.state("first")["pid"].clone();
    let theirs = oci.ok(&["exec", "first", "sh", "-c", kinds]);
    let joined = oci.run(
        "joined",
        &format!("{kinds}; hostname; ps | grep -c 'sleep 1000'"),
        |c| {
            c.as_object_mut().unwrap().remove("hostname");
            for namespace in c["linux"]["namespaces"].as_array_mut().unwrap() {
                let file = match namespace["type"].as_str().unwrap() {
                    "network" => "net",
                    "mount" => continue,
                    other => other,
                }
                .to_owned();
                namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
            }
        },
    );
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (theirs, ours) = (lines(&theirs), lines(&joined.out));
    assert_eq!(ours.len(), 10, "{}{}", joined.out, joined.err);
    for (number, (one, other)) in theirs.iter().zip(&ours).enumerate() {
        assert_eq!(one == other, number != 2, "{theirs:?} {ours:?}");
    }
    assert_eq!(ours[8], "first");
    assert!(ours[9].parse::<u32>().unwrap() >= 1);
    oci.ok(&["delete", "-f", "first"]);

    let said = oci.run(
        "host",
        "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc",
        |c| {
            remove_namespace(c, "network");
            remove_namespace(c, "ipc");
        },
    );
    let inside = oci.site.output("readlink", &["/proc/self/ns/net"]);
    let ipc = fs::read_link("/proc/self/ns/ipc").unwrap();
    let expected = format!(
        "{}{}\n",
        String::from_utf8_lossy(&inside.stdout),
        ipc.display()
    );
    assert_eq!(said.out, expected, "{}", said.err);

    if Path::new("/proc/self/ns/time").exists() {
        let said = oci.run(
            "time",
            "cut -d. -f1 /proc/uptime; exec cat /proc/self/timens_offsets",
            |c| {
                let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.push(json!({"type": "time"}));
                c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1000000}});
            },
        );
        let uptime: u64 = said
            .out
            .lines()
            .next()
            .and_then(|l| l.parse().ok())
            .unwrap_or(0);
        assert!(
            uptime > 1_000_000 || said.out.contains("1000000"),
            "{}{}",
            said.out,
            said.err
        );
    }
}

#[tokio::test]
async fn ids_can_be_other_ones_on_the_host() {
    let Some(oci) = Oci::new() else { return };
    let data = oci.site.path("data");
    fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(5), Some(5)).unwrap();
    let mapping = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; touch /made; stat -c %u /made; stat -c '%u' /mapped; sleep 0";
    let said = oci.run("mapped", script, |c| {
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        c["linux"]["uidMappings"] = mapping.clone();
        c["linux"]["gidMappings"] = mapping.clone();
        c["root"]["readonly"] = json!(false);
        let rootfs = oci.site.path("mapped/rootfs");
        std::os::unix::fs::chown(&rootfs, Some(100000), Some(100000)).unwrap();
        // 5 of the container is 5 on disk, whatever that is on the host.
        c["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/mapped", "type": "bind", "source": data, "options": ["bind", "idmap"],
        }));
    });
    assert_eq!(said.out, "0\n 0 100000 65536\n0\n5\n", "{}", said.err);
    let made = fs::metadata(oci.site.path("mapped/rootfs/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100000);

    // Its root has power over its network; further processes and other containers join it.
    let bundle = oci.bundle("first", "sleep 1000", |c| {
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        c["linux"]["uidMappings"] = mapping.clone();
        c["linux"]["gidMappings"] = mapping.clone();
    });
    oci.ok(&["run", "-d", "--bundle", path(&bundle), "first"]);
    let words = [
        "exec",
        "--cap",
        "CAP_NET_ADMIN",
        "first",
        "busybox",
        "sh",
        "-c",
    ];
    let script = "busybox ip link set lo mtu 1000 && echo powers; tr -s ' ' < /proc/self/uid_map";
    let said = oci.ok(&[&words[..], &[script]].concat());
    assert_eq!(said, "powers\n 0 100000 65536\n");
    let pid = oci.state("first")["pid"].clone();
    let said = oci.run("second", "tr -s ' ' < /proc/self/uid_map; id -u", |c| {
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    });
    assert_eq!(said.out, " 0 100000 65536\n0\n", "{}", said.err);
    oci.ok(&["delete", "-f", "first"]);
}

/// Receives a terminal as conmon and containerd do.
fn take_terminal(listener: &std::os::unix::net::UnixListener) -> fs::File {
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let mut buffers = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(&stream, &mut buffers, &mut control, RecvFlags::empty()).unwrap();
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fs::File::from(fds.next().unwrap().next().unwrap())
}

fn read_terminal(mut terminal: fs::File) -> String {
    let (mut seen, mut buffer) = (Vec::new(), [0; 1024]);
    // EIO: nobody has the other end any more.
    while let Ok(length @ 1..) = terminal.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&seen).replace('\r', "")
}

#[tokio::test]
async fn terminals_go_to_who_asks_for_them() {
    let Some(oci) = Oci::new() else { return };
    let socket = oci.site.path("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let bundle = oci.bundle(
        "tty",
        "tty; stty size; test -c /dev/console && echo console; exec sleep 1000",
        |c| {
            c["process"]["terminal"] = json!(true);
            c["process"]["consoleSize"] = json!({"height": 30, "width": 100});
        },
    );
    assert!(
        oci.fails(&["create", "--bundle", path(&bundle), "tty"])
            .contains("--console-socket")
    );
    oci.ok(&[
        "create",
        "--console-socket",
        path(&socket),
        "--bundle",
        path(&bundle),
        "tty",
    ]);
    let terminal = take_terminal(&listener);
    oci.ok(&["start", "tty"]);
    oci.ok(&[
        "exec",
        "-t",
        "-d",
        "--console-socket",
        path(&socket),
        "tty",
        "sh",
        "-c",
        "tty; echo end",
    ]);
    let second = read_terminal(take_terminal(&listener));
    assert_eq!(second, "/dev/pts/1\nend\n");
    oci.ok(&["kill", "tty", "KILL"]);
    assert_eq!(read_terminal(terminal), "/dev/pts/0\n30 100\nconsole\n");
    oci.ok(&["delete", "-f", "tty"]);

    // In the foreground it is copied.
    let said = oci.call(&[
        "run",
        "--bundle",
        path(&bundle),
        "--console-socket",
        path(&socket),
        "--detach",
        "tty",
    ]);
    assert_eq!(said.code, 0, "{}", said.err);
    drop(take_terminal(&listener));
    oci.ok(&["delete", "-f", "tty"]);
    let bundle = oci.bundle("front", "tty; exit 6", |c| {
        c["process"]["terminal"] = json!(true)
    });
    let said = oci.call(&["run", "--bundle", path(&bundle), "front"]);
    assert_eq!(
        (said.out.replace('\r', "").as_str(), said.code),
        ("/dev/pts/0\n", 6),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn exec_takes_a_process_of_a_file() {
    let Some(oci) = Oci::new() else { return };
    let bundle = oci.bundle("x", "sleep 1000", |_| ());
    oci.ok(&["run", "-d", "--bundle", path(&bundle), "x"]);
    let file = oci.site.path("process.json");
    let process = json!({
        "terminal": false, "user": {"uid": 12, "gid": 13, "additionalGids": [14]}, "cwd": "/tmp",
        "args": ["sh", "-c", "id -u; id -G; pwd; grep CapEff /proc/self/status; echo $A; exit 11"],
        "env": ["PATH=/bin", "A=b"], "noNewPrivileges": true,
    });
    fs::write(&file, process.to_string()).unwrap();
    let said = oci.call(&["exec", "--process", path(&file), "x"]);
    assert_eq!(
        said.out, "12\n13 14\n/tmp\nCapEff:\t0000000000000000\nb\n",
        "{}",
        said.err
    );
    assert_eq!(said.code, 11);
    let said = oci.call(&[
        "exec",
        "--user",
        "5:6",
        "--cwd",
        "/etc",
        "x",
        "sh",
        "-c",
        "id -u; id -g; pwd",
    ]);
    assert_eq!(said.out, "5\n6\n/etc\n", "{}", said.err);
    // Killed by a signal: as a shell says it.
    assert_eq!(oci.call(&["exec", "x", "sh", "-c", "kill -9 $$"]).code, 137);
    for words in [
        &["exec", "--process-label", "x", "x", "true"][..],
        &["exec", "--cgroup", "y", "x", "true"],
        &["exec", "--user", "root", "x", "true"],
        &["exec", "x"],
    ] {
        oci.fails(words);
    }
    oci.ok(&["delete", "-f", "x"]);
}

#[tokio::test]
async fn descriptors_are_handed_on_only_when_asked() {
    let Some(oci) = Oci::new() else { return };
    let kept = oci.site.path("kept");
    fs::write(&kept, "kept").unwrap();
    let bundle = oci.bundle(
        "fds",
        "ls /proc/self/fd | tr '\\n' ' '; cat <&3 2>/dev/null",
        |_| (),
    );
    let root = oci.site.path("root");
    let shell = |options: &str| {
        let script = format!(
            "exec 3<{} 4</dev/null; exec {} --root {} run {options} --bundle {} fds",
            kept.display(),
            oci.program().display(),
            root.display(),
            bundle.display()
        );
        let output = oci.site.output("sh", &["-c", &script]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // The fourth is ls' own.
    assert_eq!(shell(""), "0 1 2 3 ");
    assert_eq!(shell("--preserve-fds 1"), "0 1 2 3 4 kept");
    assert!(
        oci.fails(&[
            "run",
            "--preserve-fds",
            "99",
            "--bundle",
            path(&bundle),
            "fds"
        ])
        .contains("not open")
    );
}

#[tokio::test]
async fn errors_are_one_line_and_in_the_log() {
    let Some(oci) = Oci::new() else { return };
    let log = oci.site.path("log.json");
    let error = oci.fails(&[
        "--log",
        path(&log),
        "--log-format",
        "json",
        "state",
        "nobody",
    ]);
    assert!(error.contains("does not exist"));
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&json!("error"), &json!(error.trim_end()))
    );
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    for words in [
        &["fly"][..],
        &[],
        &["start"],
        &["create", "--nonsense", "x"],
        &["create", "--no-pivot", "--bundle", "/nowhere", "x"],
        &["create", "--bundle", "/nowhere", "x"],
        &["checkpoint", "x"],
        &["restore", "--image-path", "/x", "x"],
        &["--rootless", "true", "state", "x"],
        &["state", "../x"],
        &["kill", "x", "NONSENSE"],
    ] {
        let said = oci.call(words);
        assert_eq!(
            (said.code, said.err.trim_end().lines().count()),
            (1, 1),
            "{words:?}: {}",
            said.err
        );
    }
    let version = oci.ok(&["--version"]);
    assert_eq!(version.lines().count(), 3);
    let features: Value = serde_json::from_str(&oci.ok(&["features"])).unwrap();
    assert_eq!(features["ociVersionMax"], "1.2.0");
    assert_eq!(features["hooks"].as_array().unwrap().len(), 6);
    // The same by the service's own name.
    let program = slipway_tests::site::program_path("runtime-svc");
    let output = oci.site.output(path(&program), &["oci", "features"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        features
    );
}

#[tokio::test]
async fn hostile_bundles_get_nowhere() {
    let Some(oci) = Oci::new() else { return };
    let outside = oci.site.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "the host's").unwrap();
    // Links of the image's that lead out lead inside.
    let said = oci.run("links", "cat /a/x/new /b; ls /..", |c| {
        let rootfs = oci.site.path("links/rootfs");
        symlink(&outside, rootfs.join("a")).unwrap();
        symlink(outside.join("file"), rootfs.join("b")).unwrap();
        symlink("../../../../../..", rootfs.join("up")).unwrap();
        let data = oci.site.path("links/data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("new"), "new\n").unwrap();
        c["root"]["readonly"] = json!(false);
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/a/x", "type": "bind", "source": data, "options": ["bind"]}),
            json!({"destination": "/b", "type": "bind", "source": data.join("new"), "options": ["bind"]}),
            json!({"destination": "/up/root/../root", "type": "tmpfs", "source": "tmpfs"}),
        ]);
    });
    assert!(
        said.code == 0 && said.out.starts_with("new\nnew\n"),
        "{}{}",
        said.out,
        said.err
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(
        fs::read_to_string(outside.join("file")).unwrap(),
        "the host's"
    );

    type Change = Box<dyn Fn(&mut Value, &Path)>;
    let cases: [(&str, Change); 7] = [
        // What protects a container cannot be mounted away (CVE-2019-16884, CVE-2019-19921).
        (
            "/proc",
            Box::new(|c, _| {
                let mount =
                    json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"});
                c["mounts"].as_array_mut().unwrap().push(mount);
            }),
        ),
        (
            "ordinary directory",
            Box::new(|_, rootfs| {
                fs::remove_dir(rootfs.join("proc")).unwrap();
                symlink("/tmp", rootfs.join("proc")).unwrap();
            }),
        ),
        (
            "not allowed",
            Box::new(|c, _| c["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/x"})),
        ),
        (
            "cgroupsPath",
            Box::new(|c, _| c["linux"]["cgroupsPath"] = json!("/../../x")),
        ),
        (
            "working directory",
            Box::new(|c, _| {
                c["root"]["readonly"] = json!(false);
                c["process"]["cwd"] = json!("/proc/self/fd/7");
            }),
        ),
        (
            "zero byte",
            Box::new(|c, _| c["process"]["args"] = json!(["a\u{0}b"])),
        ),
        (
            "too long",
            Box::new(|c, _| c["process"]["args"] = json!(["true", "x".repeat(3 << 20)])),
        ),
    ];
    for (number, (expected, change)) in cases.iter().enumerate() {
        let name = format!("case{number}");
        let said = oci.run(&name, "true", |c| {
            change(c, &oci.site.path(&name).join("rootfs"))
        });
        let error = &said.err;
        assert!(
            said.code != 0 && error.contains(expected),
            "{expected}: {} {}",
            said.code,
            said.err
        );
    }
    // A config.json that is endless, a FIFO, or no JSON.
    let bundle = oci.site.path("bad");
    fs::create_dir(&bundle).unwrap();
    let config = bundle.join("config.json");
    symlink("/dev/zero", &config).unwrap();
    assert!(
        oci.fails(&["run", "--bundle", path(&bundle), "bad"])
            .contains("regular file")
    );
    fs::remove_file(&config).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &config,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(
        oci.fails(&["run", "--bundle", path(&bundle), "bad"])
            .contains("regular file")
    );
    fs::remove_file(&config).unwrap();
    let file = fs::File::create(&config).unwrap();
    file.set_len(17 << 20).unwrap();
    assert!(
        oci.fails(&["run", "--bundle", path(&bundle), "bad"])
            .contains("longer than")
    );
    drop(file);
    for text in [
        "",
        "{",
        "[]",
        "{\"ociVersion\":\"1.2.0\"}",
        "{\"ociVersion\":7}",
    ] {
        fs::write(&config, text).unwrap();
        oci.fails(&["run", "--bundle", path(&bundle), "bad"]);
    }
    oci.is_gone("bad");
}
