//! podman, whose containers our OCI runtime makes (`podman --runtime`).

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use slipway_tests::{Oci, Said, eventually, installed};

/// podman with namespaces and folders of its own, and the image `busybox`.
struct Podman {
    oci: Oci,
    /// Keeps the mount namespace that podman's storage is mounted in.
    keeper: Child,
    group: String,
}

impl Podman {
    fn start() -> Option<Self> {
        if !installed(&["podman", "conmon"]) {
            return None;
        }
        let oci = Oci::new()?;
        oci.site.allow(Duration::from_secs(240));
        // What podman keeps in /run whatever it is told goes with the namespace. cgroups of the v2 tree beside
        // v1 ones are not what podman expects.
        let script = "! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
            mount -t tmpfs tmpfs /run && mkdir -p /run/lock /run/netns
            for f in /var/lib/cni /etc/cni/net.d; do [ ! -d $f ] || mount -t tmpfs tmpfs $f; done
            echo ready; exec sleep 1000";
        let words = ["--mount", "--propagation", "private", "sh", "-c", script];
        let mut keeper = oci
            .site
            .command("unshare", &words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = keeper.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let group = format!("oci-podman-{}", std::process::id());
        let podman = Self { oci, keeper, group };
        let rootfs = podman.oci.site.path("image");
        slipway_tests::oci::make_rootfs(&rootfs);
        let archive = podman.oci.site.path("image.tar");
        let (rootfs, archive) = (rootfs.to_str().unwrap(), archive.to_str().unwrap());
        assert!(
            podman
                .oci
                .site
                .output("tar", &["-C", rootfs, "-cf", archive, "."])
                .status
                .success()
        );
        podman
            .run(&["import", "-q", archive, "localhost/busybox"])
            .ok();
        Some(podman)
    }

    fn command(&self, words: &[&str]) -> Command {
        let site = &self.oci.site;
        let mut command = Command::new("nsenter");
        let pid = self.keeper.id();
        command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
        command.arg(format!("--net=/proc/{pid}/ns/net"));
        command.arg("podman");
        for (option, folder) in [
            ("--root", "podman/data"),
            ("--runroot", "podman/run"),
            ("--tmpdir", "podman/tmp"),
            ("--network-config-dir", "podman/networks"),
        ] {
            let folder = site.path(folder);
            fs::create_dir_all(&folder).unwrap();
            command.arg(option).arg(folder);
        }
        command
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .arg("--runtime")
            .arg(self.oci.program())
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Said {
        self.command(words).output().unwrap().into()
    }

    /// A container without a network, within the limits of hosts where root may not raise them.
    fn container(&self, options: &[&str], command: &[&str]) -> Said {
        let parent = format!("/{}", self.group);
        let mut words = vec![
            "run",
            "--pull",
            "never",
            "--network",
            "none",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=4096:4096",
            "--cgroup-parent",
            &parent,
        ];
        words.extend(options);
        words.push("localhost/busybox");
        words.extend(command);
        self.run(&words)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let left = self.run(&["rm", "-f", "-a", "-t", "0"]);
        // podman passes no flags of the runtime's to what cleans up behind it: --root is the usual one, in a
        // /run of its own.
        let folder = format!("/proc/{}/root/run/slipway-oci", self.keeper.id());
        let states: Vec<_> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        // Its namespace goes with it, and podman's mounts.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        for tree in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let parent = tree.path().join(&self.group);
            for group in fs::read_dir(&parent).into_iter().flatten().flatten() {
                // conmon's own groups, which podman leaves.
                let _ = fs::remove_dir(group.path());
            }
            let _ = fs::remove_dir(parent);
        }
        if !std::thread::panicking() {
            assert!(
                left.code == 0 && states.is_empty(),
                "{states:?} {}",
                left.err
            );
        }
    }
}

#[tokio::test]
async fn podman_runs_containers() {
    let Some(podman) = Podman::start() else {
        return;
    };
    let said = podman.container(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (9, "out\n", "err\n")
    );
    let said = podman.container(&["--rm"], &["nonsense"]);
    assert!(
        said.code == 127 && said.err.contains("not found"),
        "{}",
        said.err
    );
    let said = podman.container(&["--rm"], &["/etc"]);
    assert_eq!(said.code, 126, "{}", said.err);

    let said = podman.container(
        &[
            "--rm",
            "-u",
            "1000:1001",
            "--group-add",
            "7",
            "-w",
            "/tmp",
            "-e",
            "A=b",
            "--hostname",
            "pod",
        ],
        &["sh", "-c", "id -u; id -G; pwd; echo $A; hostname"],
    );
    assert_eq!(said.ok(), "1000\n1001 7\n/tmp\nb\npod\n");
    let volume = podman.oci.site.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "hi\n").unwrap();
    let bind = format!("{}:/data:ro", volume.display());
    let script = "cat /data/file; touch /data/x 2>&1 | grep -c Read-only; touch /named/x && ls /named; ls /etc-copy; \
        touch /x 2>&1 | grep -c Read-only; ls -A /etc | head -1";
    fs::write(volume.join("unused"), "").unwrap();
    let said = podman.container(
        &[
            "--rm",
            "-v",
            &bind,
            "-v",
            "named:/named",
            "--tmpfs",
            "/etc-copy",
            "--read-only",
        ],
        &["sh", "-c", script],
    );
    assert!(
        said.out.starts_with("hi\n1\nx\n1\n"),
        "{}{}",
        said.out,
        said.err
    );
    podman.run(&["volume", "rm", "named"]).ok();
    let init = podman.oci.site.path("init");
    fs::write(&init, "#!/bin/sh\nshift\n\"$@\"\n").unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let said = podman.container(
        &["--rm", "--init", "--init-path", init.to_str().unwrap()],
        &["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; echo $$"],
    );
    assert!(
        said.out.contains("init --") && !said.out.ends_with(" 1\n"),
        "{}{}",
        said.out,
        said.err
    );
    let said = podman.container(
        &["--rm", "--privileged"],
        &["sh", "-c", "grep CapEff /proc/self/status; ls /dev/kmsg"],
    );
    assert!(
        said.code == 0 && !said.out.contains("00000000a80425fb"),
        "{}{}",
        said.out,
        said.err
    );
    let said = podman.container(
        &[
            "--rm",
            "--cap-drop",
            "all",
            "--security-opt",
            "no-new-privileges",
        ],
        &["grep", "-E", "CapEff|NoNew", "/proc/self/status"],
    );
    assert_eq!(said.ok(), "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
    let mapped = podman.container(
        &[
            "--rm",
            "--uidmap",
            "0:100000:65536",
            "--gidmap",
            "0:100000:65536",
        ],
        &[
            "sh",
            "-c",
            "id -u; tr -s ' ' < /proc/self/uid_map; touch /x && stat -c %u /x",
        ],
    );
    assert_eq!(mapped.ok(), "0\n 0 100000 65536\n0\n");
}

#[tokio::test]
async fn podman_keeps_containers() {
    let Some(podman) = Podman::start() else {
        return;
    };
    let script = "echo begun; trap 'echo ending; exit 5' TERM; while :; do sleep 0.1; done";
    let options = [
        "-d",
        "--name",
        "kept",
        "-m",
        "64m",
        "--pids-limit",
        "50",
        "--cpus",
        "0.5",
    ];
    podman.container(&options, &["sh", "-c", script]).ok();
    eventually("its log", async || {
        podman
            .run(&["logs", "kept"])
            .out
            .contains("begun")
            .then_some(())
    })
    .await;
    assert_eq!(
        podman
            .run(&["exec", "-e", "A=b", "kept", "sh", "-c", "echo $A; exit 4"])
            .code,
        4
    );
    assert_eq!(
        podman.run(&["exec", "-u", "5", "kept", "id", "-u"]).ok(),
        "5\n"
    );
    assert_eq!(podman.run(&["exec", "kept", "nonsense"]).code, 127);
    let ids = podman
        .run(&["inspect", "kept", "--format", "{{.Id}} {{.State.Pid}}"])
        .ok();
    let pid = ids.split_whitespace().nth(1).unwrap().to_owned();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&podman.group), "{groups}");
    let limits = podman.run(&[
        "exec",
        "kept",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null",
    ]);
    assert_eq!(limits.out, "67108864\n", "{}", limits.err);
    podman.run(&["pause", "kept"]).ok();
    let status = |name: &str| {
        podman
            .run(&["inspect", name, "--format", "{{.State.Status}}"])
            .ok()
    };
    assert_eq!(status("kept"), "paused\n");
    podman.run(&["unpause", "kept"]).ok();
    assert!(
        podman
            .run(&["top", "kept"])
            .ok()
            .contains("sh -c echo begun")
    );
    assert!(
        podman
            .run(&["stats", "--no-stream", "kept"])
            .ok()
            .contains("kept")
    );
    podman.run(&["stop", "-t", "20", "kept"]).ok();
    let exit = podman.run(&[
        "inspect",
        "kept",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}}",
    ]);
    assert_eq!(exit.ok(), "exited 5\n");
    assert!(podman.run(&["logs", "kept"]).ok().ends_with("ending\n"));
    podman.run(&["start", "kept"]).ok();
    podman.run(&["kill", "kept"]).ok();
    eventually("it has ended", async || {
        (status("kept") == "exited\n").then_some(())
    })
    .await;
    podman.run(&["rm", "kept"]).ok();

    // A container in another's namespaces, and one of a pod's.
    podman
        .container(&["-d", "--name", "first"], &["sleep", "1000"])
        .ok();
    let said = podman.container(
        &[
            "--rm",
            "--pid",
            "container:first",
            "--ipc",
            "container:first",
        ],
        &["ps"],
    );
    assert!(said.out.contains("sleep 1000"), "{}{}", said.out, said.err);
    podman.run(&["rm", "-f", "-t", "0", "first"]).ok();

    // On a terminal: script(1) gives it one.
    let command = format!(
        "{:?}",
        podman.command(&[
            "run",
            "--rm",
            "-it",
            "--pull",
            "never",
            "--network",
            "none",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=4096:4096",
            "localhost/busybox",
            "tty",
        ])
    );
    // podman on a busy host may leave before it has copied the last words of what ends at once; they are not
    // the runtime's to carry.
    eventually("the terminal's name", async || {
        let output = podman
            .oci
            .site
            .output("script", &["-qec", &command, "/dev/null"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("/dev/pts/0").then_some(())
    })
    .await;
}
