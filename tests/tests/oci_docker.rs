//! docker, whose containers our OCI runtime makes (`dockerd --add-runtime`).

use slipway_tests::{Oci, docker::Docker, eventually};

#[tokio::test]
async fn docker_runs_containers() {
    let Some(oci) = Oci::new() else { return };
    oci.site.allow(std::time::Duration::from_secs(240));
    let option = format!("--add-runtime slipway={}", oci.program().display());
    let Some(docker) = Docker::start_with(&option).await else {
        return;
    };
    let rootfs = oci.site.path("image");
    slipway_tests::oci::make_rootfs(&rootfs);
    let archive = oci.site.path("image.tar");
    let (rootfs, archive) = (rootfs.to_str().unwrap(), archive.to_str().unwrap());
    assert!(
        oci.site
            .output("tar", &["-C", rootfs, "-cf", archive, "."])
            .status
            .success()
    );
    docker.run(&["import", archive, "busybox"]).ok();
    let container = |options: &[&str], command: &[&str]| {
        let mut words = vec!["run", "--runtime", "slipway"];
        words.extend(options);
        words.push("busybox");
        words.extend(command);
        docker.run(&words)
    };
    let said = container(
        &["--rm"],
        &[
            "sh",
            "-c",
            "echo out; echo err >&2; ls /sys/class/net | tr '\\n' ' '; exit 9",
        ],
    );
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (9, "out\neth0 lo ", "err\n")
    );
    let said = container(&["--rm"], &["nonsense"]);
    assert!(
        said.code == 127 && said.err.contains("executable file not found in $PATH"),
        "{}",
        said.err
    );
    assert_eq!(container(&["--rm"], &["/etc"]).code, 126);
    let said = container(
        &[
            "--rm",
            "-u",
            "1000:1001",
            "-w",
            "/made",
            "--read-only",
            "--tmpfs",
            "/t",
            "--cap-drop",
            "all",
            "--cap-add",
            "kill",
            "--security-opt",
            "no-new-privileges",
        ],
        &[
            "sh",
            "-c",
            "id -u; id -g; pwd; grep -E 'CapBnd|NoNew|Seccomp:' /proc/self/status; touch /t/x && echo written; touch /x 2>&1 | grep -c Read-only",
        ],
    );
    let expected =
        "1000\n1001\n/made\nCapBnd:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\nwritten\n1\n";
    assert_eq!(said.out, expected, "{}", said.err);

    let script = "echo begun; trap 'exit 5' TERM; while :; do sleep 0.1; done";
    container(
        &["-d", "--name", "kept", "-m", "64m", "--pids-limit", "50"],
        &["sh", "-c", script],
    )
    .ok();
    let inspect = |what: &str| docker.run(&["inspect", "kept", "--format", what]).ok();
    assert_eq!(inspect("{{.HostConfig.Runtime}}"), "slipway\n");
    assert_eq!(
        docker
            .run(&["exec", "kept", "sh", "-c", "echo hi; exit 4"])
            .code,
        4
    );
    assert_eq!(
        docker.run(&["exec", "-u", "5", "kept", "id", "-u"]).ok(),
        "5\n"
    );
    assert!(docker.run(&["exec", "kept", "nonsense"]).code >= 126);
    assert!(
        docker
            .run(&["stats", "--no-stream", "kept"])
            .ok()
            .contains("64MiB")
    );
    assert!(docker.run(&["top", "kept"]).ok().contains("echo begun"));
    docker
        .run(&["update", "--memory", "80m", "--memory-swap", "160m", "kept"])
        .ok();
    assert!(
        docker
            .run(&["stats", "--no-stream", "kept"])
            .ok()
            .contains("80MiB")
    );
    docker.run(&["pause", "kept"]).ok();
    assert_eq!(inspect("{{.State.Status}}"), "paused\n");
    docker.run(&["unpause", "kept"]).ok();
    docker.run(&["stop", "-t", "20", "kept"]).ok();
    assert_eq!(
        inspect("{{.State.Status}} {{.State.ExitCode}}"),
        "exited 5\n"
    );
    assert_eq!(docker.run(&["logs", "kept"]).ok(), "begun\n");
    docker.run(&["start", "kept"]).ok();
    docker.run(&["kill", "kept"]).ok();
    eventually("it has ended", async || {
        (inspect("{{.State.Status}}") == "exited\n").then_some(())
    })
    .await;
    assert_eq!(inspect("{{.State.ExitCode}}"), "137\n");
    docker.run(&["rm", "kept"]).ok();

    let said = container(
        &["--rm", "--privileged"],
        &[
            "sh",
            "-c",
            "mount -t tmpfs x /tmp && echo mounted; ls /dev/kmsg",
        ],
    );
    assert_eq!(said.out, "mounted\n/dev/kmsg\n", "{}", said.err);
    container(&["-d", "--name", "first"], &["sleep", "1000"]).ok();
    let said = container(
        &[
            "--rm",
            "--pid",
            "container:first",
            "--network",
            "container:first",
        ],
        &["sh", "-c", "ps; ls /sys/class/net"],
    );
    assert!(
        said.out.contains("sleep 1000") && said.out.contains("eth0"),
        "{}{}",
        said.out,
        said.err
    );
    docker.run(&["rm", "-f", "first"]).ok();
    let command = format!(
        "{:?}",
        docker.command(&[
            "run",
            "--runtime",
            "slipway",
            "--rm",
            "-it",
            "busybox",
            "tty"
        ])
    );
    let output = oci.site.output("script", &["-qec", &command, "/dev/null"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("/dev/pts/0"), "{text}");
}
