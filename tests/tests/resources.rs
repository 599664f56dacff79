//! Limits, read from the cgroup files of the container, and what happens when one is reached.

use std::path::PathBuf;

use slipway_tests::{Said, Site, eventually};

/// A file of a container's group in this host's tree of a controller: v1's, else v2's.
fn group(site: &Site, container: &str, controller: &str) -> Option<PathBuf> {
    let pid = site
        .ctl(&["inspect", "-f", "{{.State.Pid}}", container])
        .ok();
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let of = |line: &str| -> Option<String> {
        let mut parts = line.splitn(3, ':');
        let controllers = parts.nth(1)?;
        controllers
            .split(',')
            .any(|c| c == controller)
            .then(|| parts.next().unwrap().to_owned())
    };
    if let Some(path) = text.lines().find_map(of) {
        let mount = mounts
            .lines()
            .map(|l| l.split(' ').collect::<Vec<_>>())
            .find(|l| l[2] == "cgroup" && l[3].split(',').any(|o| o == controller))?;
        return Some(PathBuf::from(mount[1]).join(path.trim_start_matches('/')));
    }
    let path = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let mount = mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|l| l[2] == "cgroup2")?;
    let root = PathBuf::from(mount[1]);
    let has = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    let v2 = if controller == "blkio" {
        "io"
    } else {
        controller
    };
    has.split_whitespace()
        .any(|c| c == v2)
        .then(|| root.join(path))
}

/// What one of these files says; v1's name, v2's name.
fn read(
    site: &Site,
    container: &str,
    controller: &str,
    v1: &str,
    v2: &str,
) -> Option<(bool, String)> {
    let group = group(site, container, controller)?;
    let text = |name: &str| {
        std::fs::read_to_string(group.join(name))
            .ok()
            .map(|t| t.trim().to_owned())
    };
    text(v1)
        .map(|t| (true, t))
        .or_else(|| text(v2).map(|t| (false, t)))
}

#[track_caller]
fn expect(site: &Site, container: &str, controller: &str, v1: (&str, &str), v2: (&str, &str)) {
    match read(site, container, controller, v1.0, v2.0) {
        Some((true, text)) => assert_eq!(text, v1.1, "{}", v1.0),
        Some((false, text)) => assert_eq!(text, v2.1, "{}", v2.0),
        None => println!("skipped: this host has no {controller}"),
    }
}

fn run(site: &Site, options: &str) -> Said {
    let mut arguments = vec!["run", "--rm"];
    arguments.extend(options.split(' '));
    arguments.extend(["busybox", "true"]);
    site.ctl(&arguments)
}

#[tokio::test]
async fn limits_reach_the_kernel_and_can_be_changed() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let line = "run -d --name box -m 64m --memory-swap 96m --memory-reservation 32m --cpu-quota 20000 --cpu-period 50000 \
        -c 512 --cpuset-cpus 0 --cpuset-mems 0 --pids-limit 50 --shm-size 7m --ulimit nofile=100:200 --ulimit core=0 \
        --oom-score-adj 77 busybox sleep 1000";
    let arguments: Vec<&str> = line.split_whitespace().collect();
    site.ctl(&arguments).ok();
    expect(
        &site,
        "box",
        "memory",
        ("memory.limit_in_bytes", "67108864"),
        ("memory.max", "67108864"),
    );
    expect(
        &site,
        "box",
        "memory",
        ("memory.memsw.limit_in_bytes", "100663296"),
        ("memory.swap.max", "33554432"),
    );
    expect(
        &site,
        "box",
        "memory",
        ("memory.soft_limit_in_bytes", "33554432"),
        ("memory.low", "33554432"),
    );
    expect(
        &site,
        "box",
        "cpu",
        ("cpu.cfs_quota_us", "20000"),
        ("cpu.max", "20000 50000"),
    );
    expect(
        &site,
        "box",
        "cpu",
        ("cpu.shares", "512"),
        ("cpu.weight", "59"),
    );
    expect(
        &site,
        "box",
        "cpuset",
        ("cpuset.cpus", "0"),
        ("cpuset.cpus", "0"),
    );
    expect(
        &site,
        "box",
        "cpuset",
        ("cpuset.mems", "0"),
        ("cpuset.mems", "0"),
    );
    expect(&site, "box", "pids", ("pids.max", "50"), ("pids.max", "50"));
    let script = "grep -E 'open files|core file' /proc/self/limits; cat /proc/self/oom_score_adj; grep ' /dev/shm ' /proc/mounts";
    let inside = site.ctl(&["exec", "box", "sh", "-c", script]).ok();
    let words: Vec<&str> = inside.split_whitespace().collect();
    assert!(inside.contains("size=7168k"), "{inside}");
    assert!(words.windows(2).any(|w| w == ["100", "200"]), "{inside}");
    assert!(
        words.windows(4).any(|w| w == ["file", "size", "0", "0"]),
        "{inside}"
    );
    assert!(words.contains(&"77"), "{inside}");

    let line = "update -m 80m --memory-swap -1 --memory-reservation 40m --cpu-quota 30000 -c 2048 --cpuset-cpus 0 --pids-limit 60 box";
    let arguments: Vec<&str> = line.split_whitespace().collect();
    site.ctl(&arguments).ok();
    expect(
        &site,
        "box",
        "memory",
        ("memory.limit_in_bytes", "83886080"),
        ("memory.max", "83886080"),
    );
    expect(
        &site,
        "box",
        "memory",
        ("memory.soft_limit_in_bytes", "41943040"),
        ("memory.low", "41943040"),
    );
    expect(
        &site,
        "box",
        "cpu",
        ("cpu.cfs_quota_us", "30000"),
        ("cpu.max", "30000 50000"),
    );
    expect(
        &site,
        "box",
        "cpu",
        ("cpu.shares", "2048"),
        ("cpu.weight", "174"),
    );
    expect(&site, "box", "pids", ("pids.max", "60"), ("pids.max", "60"));
    // Swap is at twice the memory unless somebody says otherwise: memory alone cannot go above it.
    site.ctl(&[
        "run", "-d", "--name", "plain", "-m", "32m", "busybox", "sleep", "1000",
    ])
    .ok();
    let error = site.ctl(&["update", "-m", "100m", "plain"]).error(1);
    assert!(
        error.contains("update the memoryswap at the same time"),
        "{error}"
    );
    assert!(
        site.ctl(&["update", "-m", "1m", "plain"])
            .error(1)
            .contains("6MB")
    );
    site.ctl(&["rm", "-f", "box", "plain"]).ok();
}

#[tokio::test]
async fn rates_of_block_devices_and_parents() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
    let mut names: Vec<String> = disks
        .map(|d| d.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|n| {
        !n.starts_with("loop") && !n.starts_with("zram") && PathBuf::from("/dev").join(n).exists()
    });
    let Some(name) = names.first() else {
        println!("skipped: this host has no disk");
        return;
    };
    let number = std::fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
    let number = number.trim();
    let parent = format!("slipway-parent-{}", std::process::id());
    let options = format!(
        "run -d --name box --device-read-bps /dev/{name}:1mb --device-write-bps /dev/{name}:2mb --device-read-iops /dev/{name}:300 \
        --device-write-iops /dev/{name}:400 --cgroup-parent /{parent} busybox sleep 1000"
    );
    let arguments: Vec<&str> = options.split_whitespace().collect();
    site.ctl(&arguments).ok();
    let all = format!("{number} rbps=1048576 wbps=2097152 riops=300 wiops=400");
    for (file, rate) in [
        ("read_bps", "1048576"),
        ("write_bps", "2097152"),
        ("read_iops", "300"),
        ("write_iops", "400"),
    ] {
        let v1 = (
            format!("blkio.throttle.{file}_device"),
            format!("{number} {rate}"),
        );
        expect(&site, "box", "blkio", (&v1.0, &v1.1), ("io.max", &all));
    }
    let pids = group(&site, "box", "pids").unwrap();
    assert!(
        pids.parent().unwrap().ends_with(&parent),
        "{}",
        pids.display()
    );
    // It is accounted, frozen and cleared there as well.
    assert!(site.ctl(&["top", "box"]).ok().contains("sleep 1000"));
    site.ctl(&["pause", "box"]).ok();
    site.ctl(&["unpause", "box"]).ok();
    site.ctl(&["rm", "-f", "box"]).ok();
    assert!(!pids.exists());
    for mounted in std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
    {
        let words: Vec<&str> = mounted.split(' ').collect();
        if words[2].starts_with("cgroup") {
            // Ours alone, and empty.
            let _ = std::fs::remove_dir(PathBuf::from(words[1]).join(&parent));
        }
    }
}

#[tokio::test]
async fn what_only_v1_has() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let line = "run -d --name box -m 64m --memory-swappiness 50 --oom-kill-disable --cpu-rt-period 1000000 \
        --cpu-rt-runtime 1000 busybox sleep 1000";
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let v1 = |file: &str| std::path::Path::new("/sys/fs/cgroup").join(file).exists();
    let said = site.ctl(&arguments);
    if !v1("cpu/cpu.rt_runtime_us") {
        let error = said.error(125);
        assert!(
            error.contains("does not support CPU real-time scheduler"),
            "{error}"
        );
        let line = line.replace("--cpu-rt-period 1000000 --cpu-rt-runtime 1000", "");
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let said = site.ctl(&arguments);
        if !v1("memory/memory.swappiness") {
            assert!(said.err.contains("swappiness discarded"), "{said:?}");
            assert!(said.err.contains("OomKillDisable discarded"), "{said:?}");
        }
        said.ok();
        return;
    }
    said.ok();
    let read = |controller: &str, file: &str| {
        let group = group(&site, "box", controller).unwrap();
        std::fs::read_to_string(group.join(file)).unwrap()
    };
    assert_eq!(read("memory", "memory.swappiness"), "50\n");
    let control = read("memory", "memory.oom_control");
    assert!(control.contains("oom_kill_disable 1\n"), "{control}");
    assert_eq!(read("cpu", "cpu.rt_runtime_us"), "1000\n");
    site.ctl(&["rm", "-f", "box"]).ok();
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_in_dockers_words() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    for (options, part) in [
        ("-m 5m", "Minimum memory limit allowed is 6MB"),
        (
            "-m 64m --memory-swap 32m",
            "Minimum memoryswap limit should be larger than memory limit",
        ),
        (
            "--memory-swap 64m",
            "You should always set the Memory limit",
        ),
        (
            "-m 64m --memory-reservation 65m",
            "can not be less than memory reservation",
        ),
        (
            "--memory-reservation 1m",
            "Minimum memory reservation allowed is 6MB",
        ),
        ("--cpus 1000", "Range of CPUs is from 0.01 to"),
        ("--cpu-period 10", "CPU cfs period can not be less than 1ms"),
        ("--cpu-quota 10", "CPU cfs quota can not be less than 1ms"),
        ("--cpu-rt-period 10 --cpu-rt-runtime 20", "real-time"),
        (
            "--cpuset-cpus 8000",
            "Requested CPUs are not available - requested 8000, available: ",
        ),
        (
            "--cpuset-mems 8000",
            "Requested memory nodes are not available",
        ),
        ("--cpuset-cpus x", "Invalid value x for cpuset cpus"),
        (
            "--oom-score-adj 1001",
            "range for oom score adj is [-1000, 1000]",
        ),
        ("--device-read-bps /dev/nonsense:1mb", "/dev/nonsense"),
        ("--device-read-bps /dev/null:1mb", "not a block device"),
        ("--cgroup-parent ../x", "invalid cgroup parent"),
        ("--storage-opt size=1g", "--storage-opt size"),
    ] {
        let error = run(&site, options).error(125);
        assert!(error.contains(part), "{options}: {error}");
    }
    // What the kernel lacks is left out, and said.
    let said = run(&site, "--blkio-weight 300 --memory-swappiness 50");
    assert_eq!(said.code, 0, "{said:?}");
    for file in [
        "/sys/fs/cgroup/blkio/blkio.weight",
        "/sys/fs/cgroup/blkio/blkio.bfq.weight",
    ] {
        if std::path::Path::new(file).exists() {
            return;
        }
    }
    if std::path::Path::new("/sys/fs/cgroup/blkio").exists() {
        assert!(
            said.err
                .contains("WARNING: Your kernel does not support Block I/O weight"),
            "{}",
            said.err
        );
    }
}

#[tokio::test]
async fn a_memory_hog_is_killed_and_reported() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let since = format!(
        "{}",
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    );
    let said = site.ctl(&[
        "run",
        "--name",
        "hog",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "/bin/busybox",
        "tail",
        "/dev/zero",
    ]);
    assert_eq!(said.code, 137, "{said:?}");
    assert_eq!(
        site.ctl(&["inspect", "-f", "{{.State.OOMKilled}}", "hog"])
            .ok(),
        "true\n"
    );
    // One that is not the first process: the container goes on, and it is told all the same.
    let script = "/bin/busybox tail /dev/zero; echo $?; sleep 1000";
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "goes-on",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "/bin/busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    eventually("it was killed", async || {
        (site.ctl(&["logs", "goes-on"]).out == "137\n").then_some(())
    })
    .await;
    for name in ["hog", "goes-on"] {
        let filter = format!("container={name}");
        eventually(&format!("{name}'s event"), async || {
            let arguments = [
                "events",
                "--since",
                &since,
                "--until",
                "0s",
                "--filter",
                &filter,
                "--filter",
                "event=oom",
            ];
            (site.ctl(&arguments).ok().lines().count() >= 1).then_some(())
        })
        .await;
    }
    site.ctl(&["rm", "-f", "hog", "goes-on"]).ok();
}
