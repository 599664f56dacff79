//! What keeps containers apart, read inside of them: devices, namespaces, kernel parameters, capabilities,
//! filters of system calls, users.

use slipway_tests::Site;

/// Applets that have no link in the image.
const BOX: &str = "/bin/busybox";

#[tokio::test]
async fn devices_open_with_the_permission_and_not_without() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    // /dev/loop-control is 10:237: any node will do of which the container has none.
    let node = "/dev/loop-control";
    if !std::path::Path::new(node).exists() {
        println!("skipped: this host has no {node}");
        return;
    }
    let open = |mode: &str| format!("( : {mode} /dev/x ) 2>/dev/null && echo yes || echo no");
    let both = format!("{}; {}", open("<"), open(">"));
    let number = "10:237";
    // A node may be made by anybody, and be used by nobody.
    let made = format!("{BOX} mknod /dev/x c 10 237; {both}");
    assert_eq!(site.sh(&[], &made).ok(), "no\nno\n");
    let device = |permissions: &str| format!("{node}:/dev/x:{permissions}");
    assert_eq!(
        site.sh(&["--device", &device("rwm")], &both).ok(),
        "yes\nyes\n"
    );
    assert_eq!(
        site.sh(&["--device", &device("r")], &both).ok(),
        "yes\nno\n"
    );
    // A rule alone makes no node, but whoever makes one may use it.
    let rule = format!("c {number} r");
    assert_eq!(
        site.sh(&["--device-cgroup-rule", &rule], &made).ok(),
        "yes\nno\n"
    );
    // Owner, mode and number are the host's; a folder brings all that is in it.
    let listed = site.sh(&["--device", node], "stat -c %t:%T:%a /dev/loop-control");
    let listed = if listed.code == 0 {
        listed
    } else {
        site.sh(
            &["--device", node],
            "/bin/busybox stat -c %t:%T:%a /dev/loop-control",
        )
    };
    assert_eq!(listed.ok(), "a:ed:600\n");
    if std::path::Path::new("/dev/net/tun").exists() {
        let all = site.sh(&["--device", "/dev/net:/dev/other"], "ls /dev/other");
        assert_eq!(all.ok(), "tun\n");
    }
    // mknod without the capability.
    let said = site.sh(&["--cap-drop", "MKNOD"], "/bin/busybox mknod /tmp/x c 1 3");
    assert!(
        said.code != 0 && said.err.contains("not permitted"),
        "{said:?}"
    );
    for (options, part) in [
        (["--device", "/dev/nonsense"], "no such file or directory"),
        (["--device", "/etc/passwd"], "not a device node"),
        (["--device", "vendor.com/gpu=all"], "CDI"),
        (
            ["--device-cgroup-rule", "x 1:2 r"],
            "invalid device cgroup format",
        ),
    ] {
        let error = site.sh(&options, "true").error(125);
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn privileged_has_everything() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; \
        grep -E ' /sys | /sys/fs/cgroup[^ ]* ' /proc/self/mountinfo | grep -c ' ro[, ]'; \
        grep -cE ' /proc/(kcore|sys|keys) ' /proc/self/mountinfo; \
        test -c /dev/kmsg && head -c0 /dev/kmsg && echo kmsg; test -c /dev/ptmx && echo ptmx; \
        mkdir /sys/fs/cgroup/*/inner 2>/dev/null || mkdir /sys/fs/cgroup/inner; echo made";
    let script = script.replace("head ", "/bin/busybox head ");
    let out = site.sh(&["--privileged"], &script).ok();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:\t"))
        .unwrap();
    assert!(out.contains(&format!("CapEff:\t{bounding}\n")), "{out}");
    assert!(out.contains("Seccomp:\t0\n"), "{out}");
    assert!(out.ends_with("0\n0\nkmsg\nptmx\nmade\n"), "{out}");
    // Without it none of that.
    let out = site.sh(&[], &script).out;
    assert!(out.contains("CapEff:\t00000000a80425fb\n"), "{out}");
    assert!(
        out.contains("Seccomp:\t2\n") && !out.contains("kmsg"),
        "{out}"
    );
}

#[tokio::test]
async fn namespaces_are_the_ones_that_were_asked_for() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let all = ["pid", "ipc", "uts", "net", "cgroup", "mnt"];
    let script = all
        .map(|n| format!("/bin/busybox readlink /proc/self/ns/{n}"))
        .join(";");
    let inside = |options: &[&str]| -> Vec<String> {
        let said = site.sh(options, &script);
        said.ok().lines().map(str::to_owned).collect()
    };
    let host: Vec<String> = all
        .iter()
        .map(|n| std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap())
        .map(|l| l.display().to_string())
        .collect();
    let of = |name: &str| all.iter().position(|n| *n == name).unwrap();
    let own = inside(&[]);
    for n in 0..all.len() {
        assert_ne!(own[n], host[n], "{}", all[n]);
    }
    for (option, name) in [
        ("pid", "pid"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("cgroupns", "cgroup"),
    ] {
        let shared = inside(&[&format!("--{option}"), "host"]);
        for (n, namespace) in all.iter().enumerate() {
            assert_eq!(
                shared[n] == host[n],
                *namespace == name,
                "{option}: {namespace}"
            );
        }
    }
    let id = site.sleeper("donor", &["--ipc", "shareable", "-h", "donor-host"]);
    let exec = |container: &str, script: &str| {
        let said = site.ctl(&["exec", container, "/bin/busybox", "sh", "-c", script]);
        said.ok()
    };
    let donor: Vec<String> = exec("donor", &script).lines().map(str::to_owned).collect();
    for (option, name) in [("pid", "pid"), ("ipc", "ipc"), ("network", "net")] {
        let shared = inside(&[&format!("--{option}"), "container:donor"]);
        for n in 0..all.len() {
            assert_eq!(shared[n] == donor[n], n == of(name), "{option}: {}", all[n]);
        }
    }
    // The donor's processes are seen, its shared memory is the same, in both directions.
    let seen = site.sh(&["--pid", "container:donor"], "/bin/busybox ps");
    assert!(seen.ok().contains("sleep 1000"));
    exec("donor", "echo from donor > /dev/shm/a");
    let script = "cat /dev/shm/a; echo back > /dev/shm/b";
    assert_eq!(
        site.sh(&["--ipc", "container:donor"], script).ok(),
        "from donor\n"
    );
    assert_eq!(exec("donor", "cat /dev/shm/b"), "back\n");
    // Its network brings its names along.
    let script = "hostname; cat /etc/hostname; grep -c donor-host /etc/hosts; echo $HOSTNAME; \
        echo 10.9.8.7 added >> /etc/hosts; /bin/busybox ip -o addr show | grep -v ' lo '";
    let script = script.replace("/bin/busybox ip", "ip");
    let out = site
        .sh(&["--network", &format!("container:{id}")], &script)
        .ok();
    assert!(
        out.starts_with("donor-host\ndonor-host\n1\ndonor-host\n"),
        "{out}"
    );
    assert!(exec("donor", "cat /etc/hosts").contains("10.9.8.7"));
    let address = exec("donor", "ip -o addr show | grep -v ' lo '");
    assert!(out.ends_with(&address), "{out}\n{address}");
    // exec into one that joined: it is in the same ones, and its exit code comes back.
    site.sleeper(
        "guest",
        &["--pid", "container:donor", "--network", "container:donor"],
    );
    let links =
        "/bin/busybox readlink /proc/self/ns/pid; /bin/busybox readlink /proc/self/ns/net; exit 7";
    let said = site.ctl(&["exec", "guest", "/bin/busybox", "sh", "-c", links]);
    assert_eq!(
        (said.code, said.out),
        (7, format!("{}\n{}\n", donor[of("pid")], donor[of("net")]))
    );
    // With the first process of the namespace all others end.
    site.ctl(&["kill", "donor"]).ok();
    assert_eq!(site.ctl(&["wait", "guest"]).ok(), "137\n");
    let error = site.ctl(&["start", "guest"]).error(1);
    assert!(error.contains("non running container"), "{error}");
    site.ctl(&["start", "donor"]).ok();
    site.ctl(&["start", "guest"]).ok();
    let links = exec("guest", "/bin/busybox readlink /proc/self/ns/net");
    assert_eq!(
        exec("donor", "/bin/busybox readlink /proc/self/ns/net"),
        links
    );
    site.ctl(&["rm", "-f", "guest", "donor"]).ok();
}

#[tokio::test]
async fn modes_that_contradict_are_refused_in_dockers_words() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.sleeper("private", &[]);
    for (line, part) in [
        ("--ipc container:private", "non-shareable IPC"),
        ("--ipc container:nobody", "No such container: nobody"),
        ("--ipc what", "invalid IPC mode: what"),
        ("--pid what", "invalid PID mode: what"),
        ("--uts container:private", "invalid UTS mode"),
        ("--cgroupns what", "invalid cgroup namespace mode: what"),
        (
            "--uts host -h x",
            "conflicting options: hostname and the UTS mode",
        ),
        ("--network container:nobody", "No such container: nobody"),
        (
            "--network container:private -h x",
            "conflicting options: hostname and the network mode",
        ),
        (
            "--network container:private -p 80:80",
            "conflicting options: port publishing and the container type network mode",
        ),
        ("--network container:private -P", "port publishing"),
        (
            "--network container:private --expose 80",
            "conflicting options: port exposing and the container type network mode",
        ),
        (
            "--network container:private --dns 1.1.1.1",
            "conflicting options: dns and the network mode",
        ),
        (
            "--network container:private --add-host a:1.1.1.1",
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            "--network container:private --ip 10.0.0.1",
            "user specified IP address is supported on user defined networks only",
        ),
        (
            "--network container:private --mac-address 02:00:00:00:00:01",
            "conflicting options: mac-address and the network mode",
        ),
    ] {
        let options: Vec<&str> = line.split(' ').collect();
        let error = site.sh(&options, "true").error(125);
        assert!(error.contains(part), "{line}: {error}");
    }
    // No shared memory at all.
    let out = site
        .sh(&["--ipc", "none"], "grep -c /dev/shm /proc/self/mountinfo")
        .out;
    assert_eq!(out, "0\n");
    // A container cannot be its own peer.
    site.ctl(&["stop", "-t", "0", "private"]).ok();
    let error = site
        .sh(&["--network", "container:private"], "true")
        .error(125);
    assert!(
        error.contains("cannot join network of a non running container"),
        "{error}"
    );
}

#[tokio::test]
async fn kernel_parameters_are_set_inside_only() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let host = [
        read("/proc/sys/kernel/shm_rmid_forced"),
        read("/proc/sys/fs/mqueue/msg_max"),
        read("/proc/sys/kernel/domainname"),
    ];
    let options = [
        "--sysctl",
        "net.core.somaxconn=77",
        "--sysctl",
        "kernel.shm_rmid_forced=1",
        "--sysctl",
        "kernel.msgmax=9999",
        "--sysctl",
        "fs.mqueue.msg_max=33",
        "--sysctl",
        "kernel.domainname=inner",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=500",
    ];
    let script = "cd /proc/sys; cat net/core/somaxconn kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max \
        kernel/domainname net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range";
    assert_eq!(
        site.sh(&options, script).ok(),
        "77\n1\n9999\n33\ninner\n500\n0\t2147483647\n"
    );
    assert_eq!(read("/proc/sys/kernel/shm_rmid_forced"), host[0]);
    assert_eq!(read("/proc/sys/fs/mqueue/msg_max"), host[1]);
    assert_eq!(read("/proc/sys/kernel/domainname"), host[2]);
    for (options, part) in [
        (vec!["--sysctl", "kernel.panic=1"], "is not allowed"),
        (vec!["--sysctl", "kernel.hostname=x"], "--hostname"),
        (vec!["--sysctl", "vm.swappiness=1"], "is not allowed"),
        (vec!["--sysctl", "net/../kernel.panic=1"], "is not allowed"),
        (
            vec!["--sysctl", "net.ipv4/../../kernel/panic=1"],
            "is not allowed",
        ),
        (
            vec!["--sysctl", "net.core.somaxconn=1\n2"],
            "is not allowed",
        ),
        (
            vec!["--network", "host", "--sysctl", "net.core.somaxconn=1"],
            "host's network namespace",
        ),
        (
            vec!["--ipc", "host", "--sysctl", "kernel.msgmax=1"],
            "host's ipc namespace",
        ),
        (
            vec!["--sysctl", "net.core.nonsense=1"],
            "cannot set net.core.nonsense",
        ),
    ] {
        let error = site.sh(&options, "true").error(125);
        assert!(error.contains(part), "{options:?}: {error}");
    }
}

#[tokio::test]
async fn capabilities_are_what_the_options_say() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let sets = |options: &[&str]| {
        let out = site.sh(options, "grep Cap /proc/self/status").ok();
        let set = |name: &str| {
            let line = out.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!((set("CapInh:"), set("CapAmb:")), (0, 0), "{out}");
        assert_eq!(set("CapPrm:"), set("CapEff:"), "{out}");
        (set("CapEff:"), set("CapBnd:"))
    };
    const DEFAULT: u64 = 0xa804_25fb;
    assert_eq!(sets(&[]), (DEFAULT, DEFAULT));
    let none = sets(&["--cap-drop", "ALL"]);
    assert_eq!(none, (0, 0));
    let one = sets(&["--cap-drop", "all", "--cap-add", "CAP_net_admin"]);
    assert_eq!(one, (1 << 12, 1 << 12));
    let (all, _) = sets(&["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"]);
    assert_eq!(all & (1 << 21 | 1), 1);
    // docker: what is both added and dropped is added.
    assert_eq!(
        sets(&["--cap-add", "MKNOD", "--cap-drop", "cap_mknod"]).0,
        DEFAULT
    );
    // Another user has none, but the bounding set stays.
    assert_eq!(sets(&["-u", "1000"]), (0, DEFAULT));
    for option in ["--cap-add", "--cap-drop"] {
        let error = site.sh(&[option, "NONSENSE"], "true").error(125);
        assert!(
            error.to_lowercase().contains("unknown capability"),
            "{error}"
        );
    }
    let privileges = |options: &[&str]| site.sh(options, "grep NoNewPrivs /proc/self/status").ok();
    assert_eq!(privileges(&[]), "NoNewPrivs:\t0\n");
    for option in [
        "no-new-privileges",
        "no-new-privileges:true",
        "no-new-privileges=true",
    ] {
        assert_eq!(privileges(&["--security-opt", option]), "NoNewPrivs:\t1\n");
    }
    assert_eq!(
        privileges(&["--security-opt", "no-new-privileges=false"]),
        "NoNewPrivs:\t0\n"
    );
    // Nothing hidden, but /sys stays as it is.
    let script = "grep -cE ' /proc/(kcore|keys|sys) ' /proc/self/mountinfo; grep ' /sys ' /proc/self/mountinfo | grep -c ' ro[, ]'";
    assert_eq!(
        site.sh(&["--security-opt", "systempaths=unconfined"], script)
            .ok(),
        "0\n1\n"
    );
    let out = site
        .sh(
            &["--annotation", "a=b", "--oom-score-adj", "300"],
            "cat /proc/self/oom_score_adj",
        )
        .ok();
    assert_eq!(out, "300\n");
}

#[tokio::test]
async fn seccomp_profiles_of_ones_own() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let file = site.path("profile.json");
    let profile = |text: &str| {
        std::fs::write(&file, text).unwrap();
        format!("seccomp={}", file.display())
    };
    let run = |option: &str, script: &str| site.sh(&["--security-opt", option], script);
    let probe = "mkdir /tmp/d 2>/dev/null && echo made || echo refused; /bin/busybox chmod 700 /tmp && echo changed; \
        grep Seccomp: /proc/self/status";
    let option = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(run(&option, probe).ok(), "refused\nchanged\nSeccomp:\t2\n");
    // The number of the failure, conditions on arguments and on capabilities.
    let option = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
        "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
        {"names":["fchmodat","chmod"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":448,"op":"SCMP_CMP_EQ"}],"includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#,
    );
    let said = run(
        &option,
        "mkdir /tmp/d; /bin/busybox chmod 700 /tmp && echo changed",
    );
    assert!(
        said.err.contains("No space left") && said.out == "changed\n",
        "{said:?}"
    );
    // The program is killed by what kills.
    let option = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    let said = run(&option, "mkdir /tmp/d; echo $?");
    assert_eq!(said.ok(), "159\n");
    // exec is under the same filter.
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "kept",
        "--security-opt",
        &option,
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(site.ctl(&["exec", "kept", "mkdir", "/tmp/d"]).code, 159);
    assert_eq!(
        run("seccomp=unconfined", "grep Seccomp: /proc/self/status").ok(),
        "Seccomp:\t0\n"
    );
    for (text, part) in [
        ("{", "not JSON"),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction":"WHAT"}"#, "not a valid action"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_LOG"}]}"#,
            "use either",
        ),
    ] {
        let option = profile(text);
        let error = run(&option, "true").error(125);
        assert!(error.contains(part), "{error}");
    }
    let error = run("seccomp=/nonsense", "true").error(125);
    assert!(error.contains("opening seccomp profile"), "{error}");
}

#[tokio::test]
async fn users_and_their_groups() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let folder = site.path("etc-files");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join("passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(
        folder.join("group"),
        "root:x:0:\nwww:x:34:\nadm:x:4:web\nstaff:x:50:\n",
    )
    .unwrap();
    let mount = |name: &str| {
        let source = folder.join(name);
        format!(
            "type=bind,source={},target=/etc/{name},readonly",
            source.display()
        )
    };
    let (passwd, group) = (mount("passwd"), mount("group"));
    let groups = |options: &[&str]| {
        let mut all = vec!["--mount", &passwd, "--mount", &group];
        all.extend(options);
        site.sh(
            &all,
            "grep ^Groups /proc/self/status | /bin/busybox tr -d '\\t'",
        )
        .ok()
        .trim()
        .to_owned()
    };
    // A user's own group is among the supplementary ones (CVE-2022-2989).
    assert_eq!(groups(&["-u", "web"]), "Groups:4 34");
    assert_eq!(groups(&["-u", "33"]), "Groups:4 34");
    assert_eq!(groups(&["-u", "web:staff"]), "Groups:50");
    assert_eq!(groups(&["-u", "1234:5"]), "Groups:5");
    assert_eq!(
        groups(&["-u", "web", "--group-add", "staff", "--group-add", "77"]),
        "Groups:4 34 50 77"
    );
    for (user, part) in [
        ("2147483648", "range"),
        ("4294967295", "range"),
        ("4294967296", "range"),
        ("-1", "range"),
        ("0:2147483648", "range"),
        ("nobody-here", "unable to find user nobody-here"),
    ] {
        let said = site.ctl(&["run", "--rm", &format!("--user={user}"), "busybox", "id"]);
        assert!(
            said.code != 0 && said.err.contains(part),
            "{user}: {said:?}"
        );
    }
}
