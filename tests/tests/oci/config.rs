//! What config.json says is what the container is.

use super::*;

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

/// As somebody who makes it at the same time, or was killed then, leaves it: a cpuset in which nothing can run.
#[tokio::test]
async fn a_half_made_group_above_a_container_is_finished() {
    let Some(oci) = Oci::new() else { return };
    let cpusets = Path::new("/sys/fs/cgroup/cpuset");
    let said = oci.run("below", "echo runs", |c| {
        let group = c["linux"]["cgroupsPath"].as_str().unwrap();
        let above = group.rsplit_once('/').unwrap().0;
        if cpusets.is_dir() {
            let above = cpusets.join(above.trim_start_matches('/'));
            fs::create_dir(&above).unwrap();
            let cpus = fs::read_to_string(above.join("cpuset.cpus")).unwrap();
            assert_eq!(cpus.trim(), "");
        }
    });
    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "runs\n"),
        "{}",
        said.err
    );
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
