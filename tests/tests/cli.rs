//! The command line, as somebody with `docker` in the fingers uses it.

use slipway_tests::{Said, Site, eventually, image, ready};

fn ctl(site: &Site, arguments: &[&str]) -> Said {
    site.ctl(arguments)
}

#[tokio::test]
async fn run_streams_and_exits_as_docker_does() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let hello = ctl(&site, &["run", "--rm", "busybox", "echo", "hello"]);
    assert_eq!(
        (hello.code, hello.out.as_str(), hello.err.as_str()),
        (0, "hello\n", "")
    );
    assert_eq!(
        ctl(&site, &["run", "--rm", "busybox", "sh", "-c", "exit 7"]).code,
        7
    );
    let missing = ctl(&site, &["run", "--rm", "busybox", "nonsense"]);
    assert_eq!(missing.code, 127, "{}", missing.err);
    assert!(
        missing.err.starts_with("Error: ") && missing.err.lines().count() == 1,
        "{}",
        missing.err
    );
    assert_eq!(ctl(&site, &["run", "--rm", "busybox", "/etc"]).code, 126);
    let unknown = ctl(&site, &["run", "--no-such-option", "busybox"]);
    assert_eq!(unknown.code, 125, "{}", unknown.err);
    let refused = ctl(&site, &["run", "--runtime", "x", "busybox", "true"]);
    assert!(
        refused.code == 125 && refused.err.contains("--runtime is not supported yet"),
        "{}",
        refused.err
    );
    assert_eq!(ctl(&site, &["ps", "-aq"]).out, "", "nothing is left behind");
}

#[tokio::test]
async fn a_server_in_the_background() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let script = "mkdir /w; echo page > /w/index.html; echo started; httpd -f -p 80 -h /w";
    let run = ctl(
        &site,
        &[
            "run", "-d", "--name", "web", "-p", "3000:80", "busybox", "sh", "-c", script,
        ],
    );
    assert_eq!((run.code, run.out.trim().len()), (0, 64), "{}", run.err);
    eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:3000/")
            .filter(|p| p == "page\n")
    })
    .await;
    let ps = ctl(
        &site,
        &["ps", "--format", "{{.Names}} {{.Image}} {{.Ports}}"],
    )
    .out;
    assert!(ps.starts_with("web busybox 0.0.0.0:3000->80/tcp"), "{ps}");
    assert_eq!(ctl(&site, &["logs", "web"]).out, "started\n");
    assert_eq!(
        ctl(&site, &["exec", "web", "hostname"]).out.trim(),
        &run.out[..12]
    );
    assert_eq!(ctl(&site, &["exec", "web", "sh", "-c", "exit 4"]).code, 4);
    let running = ctl(&site, &["rm", "web"]);
    assert!(
        running.code == 1 && running.err.contains("container is running"),
        "{}",
        running.err
    );
    assert_eq!(ctl(&site, &["stop", "-t", "0", "web"]).out, "web\n");
    assert_eq!(ctl(&site, &["wait", "web"]).out, "137\n");
    assert_eq!(
        ctl(
            &site,
            &[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                &run.out[..5]
            ]
        )
        .out,
        "exited 137\n"
    );
    assert_eq!(ctl(&site, &["rm", "web"]).out, "web\n");
    let gone = ctl(&site, &["inspect", "web"]);
    assert!(
        gone.code == 1 && gone.err.contains("web"),
        "{} {}",
        gone.out,
        gone.err
    );
}

#[tokio::test]
async fn images_by_name_and_id() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    let id = image::busybox(&site).await;
    assert_eq!(ctl(&site, &["images", "-q"]).out.trim(), id.short());
    assert_eq!(ctl(&site, &["tag", "busybox", "other:v1"]).code, 0);
    let names = ctl(&site, &["images", "--format", "{{.Repository}}:{{.Tag}}"]).out;
    assert!(
        names.contains("busybox:latest") && names.contains("other:v1"),
        "{names}"
    );
    assert_eq!(
        ctl(&site, &["run", "--rm", &id.encoded()[..8], "echo", "by id"]).out,
        "by id\n"
    );
    assert!(
        ctl(&site, &["rmi", "other:v1"])
            .out
            .contains("Untagged: other:v1")
    );
    let missing = ctl(&site, &["rmi", "nosuch"]);
    assert!(
        missing.code == 1 && missing.err.contains("No such image"),
        "{}",
        missing.err
    );
}

#[tokio::test]
async fn what_cannot_run_exits_as_docker_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let mut site = Site::start().await;
    image::busybox(&site).await;
    let upstream =
        "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://127.0.0.1:5099\"\ninsecure = true\n";
    std::fs::create_dir_all(site.path("etc")).unwrap();
    std::fs::create_dir_all(site.path("empty")).unwrap();
    std::fs::write(site.path("empty/index.html"), "up").unwrap();
    std::fs::write(site.path("etc/registry.toml"), upstream).unwrap();
    site.kill_and_restart("registry").await;
    // An upstream that has nothing: 404 whatever is asked.
    let empty = site.path("empty");
    let arguments = [
        "httpd",
        "-f",
        "-p",
        "127.0.0.1:5099",
        "-h",
        empty.to_str().unwrap(),
    ];
    let mut nothing = site.command("/bin/busybox", &arguments).spawn().unwrap();
    eventually("the upstream listens", async || {
        site.fetch("http://127.0.0.1:5099/")
    })
    .await;
    let check = |arguments: &[&str], code: i32, says: &str| {
        let said = ctl(&site, arguments);
        assert_eq!(said.code, code, "{arguments:?}: {}", said.err);
        let last = said.err.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("Error: ") && last.contains(says),
            "{arguments:?}: {}",
            said.err
        );
    };
    check(&["run", "--name", "left", "nosuch"], 125, "not found");
    check(&["create", "nosuch"], 1, "not found");
    check(&["pull", "nosuch"], 1, "not found");
    check(
        &["run", "--pull", "never", "nosuch"],
        125,
        "No such image: nosuch",
    );
    check(&["run", "BadName"], 125, "must be lowercase");
    check(
        &["run", "--rm", "busybox", "/nosuch"],
        127,
        "no such file or directory",
    );
    check(
        &["run", "-d", "--rm", "busybox", "nosuch"],
        127,
        "executable file not found in $PATH",
    );
    check(
        &["run", "--rm", "busybox", "/etc/hosts"],
        126,
        "permission denied",
    );
    check(
        &["run", "--rm", "-u", "nobody2", "busybox", "true"],
        125,
        "unable to find user nobody2",
    );
    check(
        &["run", "--stop-signal", "NOSUCH", "busybox", "true"],
        125,
        "invalid signal: NOSUCH",
    );
    check(
        &[
            "run",
            "--rm",
            "--mount",
            "type=bind,src=/nosuch,dst=/x",
            "busybox",
            "true",
        ],
        125,
        "bind source path does not exist",
    );
    check(
        &["run", "--rm", "--network", "nosuch", "busybox", "true"],
        125,
        "network nosuch not found",
    );
    check(&["start", "nosuch"], 1, "No such container: nosuch");
    check(&["exec", "nosuch", "true"], 1, "No such container: nosuch");
    assert_eq!(ctl(&site, &["ps", "-aq"]).out, "", "nothing is left behind");

    assert_eq!(
        ctl(
            &site,
            &[
                "run", "-d", "--name", "web", "-p", "80:80", "busybox", "sleep", "100"
            ]
        )
        .code,
        0
    );
    check(
        &["run", "--rm", "-p", "80:80", "busybox", "true"],
        125,
        "port is already allocated",
    );
    let taken = "The container name \"/web\" is already in use by container \"";
    check(&["run", "--name", "web", "busybox", "true"], 125, taken);
    check(&["create", "--name", "web", "busybox", "true"], 1, taken);
    check(
        &["exec", "web", "nosuch"],
        127,
        "executable file not found in $PATH",
    );
    check(&["exec", "web", "/etc"], 126, "is a directory");
    assert_eq!(ctl(&site, &["ps", "-aq"]).out.lines().count(), 1);
    assert_eq!(ctl(&site, &["rm", "-f", "web"]).out, "web\n");
    assert_eq!(
        ctl(&site, &["run", "--rm", "-p", "80:80", "busybox", "true"]).code,
        0
    );
    // What could not be started stays, as docker has it, unless --rm was asked for.
    check(
        &["run", "--name", "tried", "busybox", "nosuch"],
        127,
        "nosuch",
    );
    let tried = ctl(&site, &["ps", "-a", "--format", "{{.Names}} {{.State}}"]).out;
    assert_eq!(tried, "tried exited\n");
    nothing.kill().unwrap();
    nothing.wait().unwrap();
}

#[tokio::test]
async fn an_option_works_or_is_refused_with_a_sentence() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let run = |options: &str, script: &str| {
        let words: Vec<&str> = ["run", "--rm"]
            .into_iter()
            .chain(options.split_whitespace())
            .chain(["busybox", "sh", "-c", script])
            .collect();
        ctl(&site, &words)
    };
    for refused in [
        "--restart always",
        "--network container:x",
        "--pid container:x",
        "--userns keep-id",
        "--log-driver syslog",
        "--log-opt nonsense=1",
        "--platform linux/s390x",
        "--runtime other",
        "--gpus all",
        "--storage-opt size=1g",
        "--security-opt apparmor=mine",
        "--mount type=volume,src=vol,dst=/x,volume-driver=nfs",
        "--mount type=bind,src=/tmp,dst=/x,bind-recursive=readonly",
        "--tmpfs /x:nonsense",
    ] {
        let said = run(refused, "true");
        assert_eq!(said.code, 125, "{refused}: {}", said.err);
        assert!(
            said.err.starts_with("Error: ") && said.err.lines().count() == 1,
            "{}",
            said.err
        );
    }
    for neutral in [
        "--restart no",
        "--init=false --privileged=false",
        "--no-healthcheck",
        "--userns host",
        "--cgroupns private",
        "--ipc private",
        "--log-driver local",
        "--memory-swappiness -1",
        "--isolation default",
        "--network bridge",
        "--network default",
        "--pids-limit -1",
        "--security-opt no-new-privileges:false",
        "--security-opt label=disable",
        "--security-opt apparmor=unconfined",
        "-v /tmp:/x:cached",
        "-v /tmp:/x:z",
    ] {
        let said = run(neutral, "true");
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{neutral}");
    }
    let host = format!(
        "--platform linux/{}",
        slipway_image::Platform::host().architecture
    );
    assert_eq!(run(&host, "true").code, 0);
    for (options, script, out) in [
        (
            "--tmpfs /x:size=1m,uid=5,mode=700,exec",
            "ls -ld /x | grep -c 'drwx------.* 5 '; grep ' /x ' /proc/mounts | grep -c noexec",
            "1\n0\n",
        ),
        (
            "--tmpfs /x",
            "grep ' /x ' /proc/mounts | grep -c noexec",
            "1\n",
        ),
        (
            "--network none",
            "ip addr show lo | grep -c 127.0.0.1",
            "1\n",
        ),
        (
            "--security-opt no-new-privileges",
            "grep NoNewPrivs: /proc/self/status",
            "NoNewPrivs:\t1\n",
        ),
        (
            "--security-opt no-new-privileges:false",
            "grep NoNewPrivs: /proc/self/status",
            "NoNewPrivs:\t0\n",
        ),
        (
            "--domainname d.e",
            "cat /proc/sys/kernel/domainname",
            "d.e\n",
        ),
        (
            "--oom-score-adj 200",
            "cat /proc/self/oom_score_adj",
            "200\n",
        ),
        (
            "--shm-size 1m",
            "grep -c 'dev/shm.*size=1024k' /proc/mounts",
            "1\n",
        ),
        (
            "--ulimit nofile=100:200",
            "ulimit -n; ulimit -Hn",
            "100\n200\n",
        ),
        (
            "--sysctl net.core.somaxconn=99",
            "cat /proc/sys/net/core/somaxconn",
            "99\n",
        ),
        ("--group-add 55", "id", "uid=0 gid=0 groups=0,55\n"),
        (
            "--dns 1.2.3.4 --dns-search x.y --dns-option ndots:2",
            "cat /etc/resolv.conf",
            "nameserver 172.17.0.1\nsearch x.y\noptions ndots:2\n",
        ),
        (
            "--add-host a:1.2.3.4",
            "grep -c '^1.2.3.4.a$' /etc/hosts",
            "1\n",
        ),
        (
            "--ip 172.17.0.99",
            "ip addr show eth0 | grep -c 172.17.0.99/16",
            "1\n",
        ),
        (
            "--read-only",
            "touch /x 2>/dev/null || echo read-only",
            "read-only\n",
        ),
        ("-w /new/folder -e A=b", "pwd; echo $A", "/new/folder\nb\n"),
        ("-h box", "hostname", "box\n"),
    ] {
        let said = run(options, script);
        assert_eq!(said.out, out, "{options}: {}", said.err);
    }
    let all = ctl(
        &site,
        &[
            "run", "-d", "--name", "all", "-P", "--expose", "80", "busybox", "httpd", "-f", "-p",
            "80", "-h", "/etc",
        ],
    );
    assert_eq!(all.code, 0, "{}", all.err);
    let port = ctl(&site, &["port", "all", "80"]).out;
    let port = port.trim().rsplit(':').next().unwrap().to_owned();
    eventually("the published port answers", async || {
        site.fetch(&format!("http://127.0.0.1:{port}/hostname"))
    })
    .await;
    // Binds below a bind: read-only too, unless that is not wanted.
    for (options, exit) in [
        ("", 1),
        (",bind-propagation=rprivate,bind-recursive=readonly", 1),
        (",bind-recursive=writable", 0),
    ] {
        let mount = format!("type=bind,src=/dev,dst=/x,readonly{options}");
        let said = ctl(
            &site,
            &[
                "run",
                "--rm",
                "--mount",
                &mount,
                "busybox",
                "touch",
                "/x/shm/slipway-test",
            ],
        );
        assert_eq!(said.code, exit, "{options}: {}", said.err);
        // Made or not.
        let _ = std::fs::remove_file("/dev/shm/slipway-test");
    }
}

#[tokio::test]
async fn limits_change_while_it_runs() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let run = ctl(
        &site,
        &[
            "run",
            "-d",
            "--name",
            "box",
            "-m",
            "64m",
            "--pids-limit",
            "50",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    assert_eq!(run.code, 0, "{}", run.err);
    let limit = |v1: &str, v2: &str| {
        let script = format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}");
        ctl(&site, &["exec", "box", "sh", "-c", &script]).out
    };
    let memory = || limit("memory/memory.limit_in_bytes", "memory.max");
    let pids = || limit("pids/pids.max", "pids.max");
    assert_eq!((memory().as_str(), pids().as_str()), ("67108864\n", "50\n"));
    for (size, bytes) in [("256m", "268435456\n"), ("32m", "33554432\n")] {
        let update = ctl(
            &site,
            &["update", "-m", size, "--memory-swap", "512m", "box"],
        );
        assert_eq!(
            (update.code, update.out.as_str()),
            (0, "box\n"),
            "{}",
            update.err
        );
        assert_eq!((memory().as_str(), pids().as_str()), (bytes, "50\n"));
    }
    assert_eq!(
        ctl(
            &site,
            &["update", "--pids-limit", "-1", "--restart", "no", "box"]
        )
        .code,
        0
    );
    assert_eq!(pids(), "max\n");
    // A limit that is taken away is really gone.
    let quota = || limit("cpu/cpu.cfs_quota_us", "cpu.max");
    for (asked, kept) in [("50000", "50000"), ("-1", "-1")] {
        let update = ctl(&site, &["update", "--cpu-quota", asked, "box"]);
        assert_eq!(update.code, 0, "{}", update.err);
        let quota = quota();
        let first = quota.split_whitespace().next().unwrap_or_default();
        assert_eq!(first.replace("max", "-1"), kept);
    }
    assert_eq!(ctl(&site, &["stop", "-t", "0", "box"]).code, 0);
    assert_eq!(ctl(&site, &["update", "--pids-limit", "30", "box"]).code, 0);
    assert_eq!(ctl(&site, &["start", "box"]).code, 0);
    assert_eq!((memory().as_str(), pids().as_str()), ("33554432\n", "30\n"));
    let shown = ctl(
        &site,
        &[
            "inspect",
            "-f",
            "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}",
            "box",
        ],
    );
    assert_eq!(shown.out, "33554432 30\n", "{}", shown.err);
    for refused in [["--memory", "1m"], ["--restart", "always:3"]] {
        let said = ctl(&site, &["update", refused[0], refused[1], "box"]);
        assert_eq!(
            (said.code, said.err.lines().count()),
            (1, 1),
            "{}",
            said.err
        );
    }
}
